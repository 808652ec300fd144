"""Checkpoints: other, damaged and hostile files are refused in one line, and a killed run goes on bit for bit."""

from __future__ import annotations

import errno
import json
import os
import signal
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xxhash
from safetensors import safe_open
from safetensors.numpy import save_file

from featstore.errors import DamagedError, FeatstoreError, Notice, UsageError
from featstore.finetuning import checkpoint
from featstore.finetuning.plan import Plan
from featstore.finetuning.training import TrainingData, train
from tests.finetuning.small import MadeExamples, SmallNetwork, SmallPhases, made_data, made_plan, made_rows

FILE = checkpoint.CHECKPOINT
SAVED = checkpoint.Saved(checkpoint.Origin({}, "", ""), "", (), dict.fromkeys(checkpoint.MACHINE, ""))


def run(
    folder: Path, plan: Plan, network: SmallNetwork | None = None, data: TrainingData | None = None
) -> SmallNetwork:
    """Train with gradual unfreezing, and resume if there is a checkpoint."""
    network = network or SmallNetwork()
    train(network, SmallPhases(network, plan, 2, 3), data or made_data(), plan, folder, resume=True)
    return network


def broken_off(folder: Path, epochs: int = 1) -> Path:
    """Write the checkpoint of a run that was stopped after ``epochs``; return its path."""
    network, plan, done = SmallNetwork(), made_plan(), []
    train(
        network,
        SmallPhases(network, plan, 2, 3),
        made_data(),
        plan,
        folder,
        on_epoch=done.append,
        stop=lambda: len(done) > epochs,
    )
    assert len(done) == epochs + 1
    return folder / FILE


def contents(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    with safe_open(path, "numpy") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, json.loads(file.metadata()["featstore"][32:])  # noqa: SIM118


def write(path: Path, arrays: dict[str, Any], value: Any) -> None:
    """Write a checkpoint with valid checksums."""
    if isinstance(value, dict) and "tensors" in value:
        value = {**value, "tensors": checkpoint.digest(arrays)}
    text = json.dumps(value)
    save_file(arrays, path, {"featstore": xxhash.xxh3_128_hexdigest(text.encode()) + text})


def refused(folder: Path, error: type[FeatstoreError], match: str, **changes: Any) -> None:
    """Require that resuming gives a one-line error and changes neither the network nor the checkpoint."""
    before = (folder / FILE).read_bytes() if (folder / FILE).is_file() else b""
    network = changes.pop("network", None) or SmallNetwork()
    state = {name: each.clone() for name, each in network.state_dict().items()}
    with pytest.raises(error, match=match) as caught:
        run(folder, changes.pop("plan", made_plan()), network, changes.pop("data", None))
    assert str(folder / FILE) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500
    for name, each in network.state_dict().items():
        torch.testing.assert_close(each, state[name], rtol=0, atol=0)
    if before:
        assert (folder / FILE).read_bytes() == before


def test_error_for_a_checkpoint_with_other_settings_names_the_settings(tmp_path):
    broken_off(tmp_path)
    plan = made_plan(learning_rate=0.5, epochs=9)
    refused(
        tmp_path, UsageError, r"epochs 4 instead of 9; learning_rate 0\.01 instead of 0\.5; give the same", plan=plan
    )


def test_checkpoint_with_other_classes_is_refused(tmp_path):
    broken_off(tmp_path)
    refused(tmp_path, UsageError, "other classes", data=replace(made_data(), classes=("a", "b", "c")))


def test_checkpoint_made_with_other_data_is_refused(tmp_path):
    broken_off(tmp_path)
    refused(tmp_path, UsageError, "other data", data=replace(made_data(), digest="another store"))
    values, codes = made_rows(61, 3, 2)
    codes[:2] = codes[1::-1]
    refused(tmp_path, UsageError, "other data", data=replace(made_data(), training=MadeExamples(values, codes)))


def test_checkpoint_of_another_network_is_refused(tmp_path):
    broken_off(tmp_path)
    refused(tmp_path, UsageError, "another network or other weights", network=SmallNetwork(seed=1))
    refused(tmp_path, UsageError, "another network or other weights", network=SmallNetwork(norm=False))


def test_resume_replaces_the_initial_head_by_that_of_the_checkpoint(tmp_path):
    whole = run(tmp_path / "whole", made_plan())
    broken_off(tmp_path / "broken")
    network = SmallNetwork()
    with torch.no_grad():
        network.head.weight += 1
    run(tmp_path / "broken", made_plan(), network)
    torch.testing.assert_close(network.head.weight, whole.head.weight, rtol=0, atol=0)


def test_resume_with_another_number_of_threads_gives_a_warning(tmp_path):
    path = broken_off(tmp_path)
    arrays, value = contents(path)
    write(path, arrays, {**value, "machine": {**value["machine"], "threads": "77"}})
    with pytest.warns(Notice, match="threads 77 instead of [0-9]+; the run goes on, but its weights may differ"):
        run(tmp_path, made_plan())


def test_training_without_resume_refuses_an_existing_checkpoint(tmp_path):
    path, plan = broken_off(tmp_path), made_plan()
    before = path.read_bytes()
    network = SmallNetwork()
    with pytest.raises(UsageError, match="go on with --resume, or remove it"):
        train(network, SmallPhases(network, plan), made_data(), plan, tmp_path)
    assert path.read_bytes() == before


def test_resuming_a_finished_run_returns_its_results_and_network(tmp_path):
    first = run(tmp_path, made_plan())
    data = made_data()
    second = run(tmp_path, made_plan(), data=data)
    assert data.training.asked == data.held_out.asked == []
    torch.testing.assert_close(second.state_dict(), first.state_dict(), rtol=0, atol=0)


def test_checkpoint_with_any_flipped_byte_is_refused(tmp_path):
    path = broken_off(tmp_path)
    good = path.read_bytes()
    for at in [*range(0, 600, 7), *range(600, len(good), 97), len(good) - 1]:
        changed = bytearray(good)
        changed[at] ^= 1
        path.write_bytes(changed)
        refused(tmp_path, FeatstoreError, "remove the file")


def test_truncated_checkpoints_and_other_files_are_refused(tmp_path):
    path = broken_off(tmp_path)
    good = path.read_bytes()
    (header,) = struct.unpack("<Q", good[:8])
    for data in (
        b"",
        good[:5],
        good[:-1],
        good[: 8 + header],
        good + b"x",
        b"\xff" * 100,
        struct.pack("<Q", 1 << 62) + b"{}",
    ):
        path.write_bytes(data)
        refused(tmp_path, DamagedError, "remove the file")


def changed_description(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def apply(path: Path) -> None:
        arrays, value = contents(path)
        write(path, arrays, change(value))

    return apply


def changed_arrays(change: Callable[[dict[str, Any]], dict[str, Any]]) -> Callable[[Path], None]:
    def apply(path: Path) -> None:
        arrays, value = contents(path)
        write(path, change(arrays), value)

    return apply


NAME = "network/head.weight"
HOSTILE = {
    "list": changed_description(lambda value: [value]),
    "no history": changed_description(lambda value: {**value, "history": []}),
    "history of numbers": changed_description(lambda value: {**value, "history": [1, 2]}),
    "epochs twice": changed_description(lambda value: {**value, "history": value["history"] * 2}),
    "NaN in history": changed_description(
        lambda value: {**value, "history": [{**value["history"][0], "held_out_loss": float("nan")}]}
    ),
    "text in history": changed_description(
        lambda value: {**value, "history": [{**value["history"][0], "held_out_loss": "0.5"}]}
    ),
    "surrogate in history": changed_description(
        lambda value: {**value, "history": [{**value["history"][0], "frozen": "\ud800"}]}
    ),
    "epoch of 4,001 digits": changed_description(
        lambda value: {**value, "history": [{**value["history"][0], "epoch": 10**4000}]}
    ),
    "plan is a list": changed_description(lambda value: {**value, "plan": []}),
    "later format": changed_description(lambda value: {**value, "format": 2}),
    "digest is a number": changed_description(lambda value: {**value, "network": 1}),
    "machine is a text": changed_description(lambda value: {**value, "machine": "x"}),
    "threads are a list": changed_description(lambda value: {**value, "machine": {**value["machine"], "threads": [1]}}),
    "deep": lambda path: save_file({}, path, {"featstore": xxhash.xxh3_128_hexdigest(b"[" * 9999) + "[" * 9999}),
    "long": lambda path: save_file({}, path, {"featstore": " " * (2 << 20)}),
    "no description": lambda path: save_file(contents(path)[0], path),
    "wrong shape": changed_arrays(lambda arrays: {**arrays, NAME: np.zeros((16, 3), np.float32)}),
    "huge shape": changed_arrays(lambda arrays: {**arrays, NAME: np.zeros((1 << 20, 16), np.float32)}),
    "wrong type": changed_arrays(lambda arrays: {**arrays, NAME: arrays[NAME].astype(np.float64)}),
    "NaN": changed_arrays(lambda arrays: {**arrays, NAME: arrays[NAME] * np.float32("nan")}),
    "infinite moment": changed_arrays(
        lambda arrays: {**arrays, "optimiser/means/head.bias": np.full(3, np.inf, np.float32)}
    ),
    "missing tensor": changed_arrays(lambda arrays: {key: each for key, each in arrays.items() if key != NAME}),
    "further tensor": changed_arrays(lambda arrays: {**arrays, "network/\x1b[2J": np.zeros(1, np.float32)}),
    "wrong slot": changed_arrays(lambda arrays: {**arrays, "optimiser/momentum/head.bias": np.zeros(3, np.float32)}),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_malicious_checkpoint_is_refused(tmp_path, name):
    path = broken_off(tmp_path)
    HOSTILE[name](path)
    refused(tmp_path, DamagedError, "no checkpoint of featstore, or damaged")


@pytest.mark.parametrize("depth", [200, 900, 3000])
def test_checkpoint_with_deeply_nested_settings_is_refused(tmp_path, depth):
    path = broken_off(tmp_path)
    arrays, value = contents(path)
    text = json.dumps({**value, "plan": "PLAN"}).replace('"PLAN"', '{"epochs": ' + "[" * depth + "]" * depth + "}")
    save_file(arrays, path, {"featstore": xxhash.xxh3_128_hexdigest(text.encode()) + text})
    refused(tmp_path, FeatstoreError, "remove the file")


def test_checkpoint_with_more_epochs_than_planned_is_refused(tmp_path):
    run(tmp_path, made_plan())
    arrays, value = contents(tmp_path / FILE)
    history = [{**value["history"][1], "epoch": epoch} for epoch in range(9)]
    write(tmp_path / FILE, arrays, {**value, "history": history})
    refused(tmp_path, DamagedError, "has 8 epochs, where 4 are planned")


def test_link_or_pipe_in_place_of_a_checkpoint_is_refused(tmp_path):
    path = broken_off(tmp_path)
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    refused(tmp_path, DamagedError, "symbolic link")
    path.unlink()
    os.mkfifo(path)
    refused(tmp_path, DamagedError, "no regular file")


def test_file_in_place_of_the_checkpoint_folder_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="is a file, where a folder"):
        run(tmp_path / "file", made_plan())


CHILD = """
import os, signal, sys
from pathlib import Path
from tests.finetuning.small import SmallNetwork, SmallPhases, made_data, made_plan
from featstore.finetuning import checkpoint
from featstore.finetuning.training import train

epoch, step, where = int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
network, plan = SmallNetwork(), made_plan()

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def on_step(at_epoch, at_step, steps, loss):
    if where == "step" and (at_epoch, at_step) == (epoch, step):
        die()

def on_write(event, arguments):
    # Killed between the temporary file and its new name: before the rename of the checkpoint of this epoch.
    global renames
    if event == "os.rename" and str(arguments[1]).endswith(checkpoint.CHECKPOINT):
        renames += 1
        if where == "rename" and renames == epoch + 1:
            die()

renames = 0
sys.addaudithook(on_write)
train(network, SmallPhases(network, plan, 2, 3), made_data(), plan, Path(sys.argv[1]), resume=True, on_step=on_step,
      on_epoch=lambda record: die() if where == "epoch" and record.epoch == epoch else None, log=Path(sys.argv[1]) / "log")
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("epoch", "step", "where"), [(0, 0, "rename"), (2, 3, "step"), (3, 0, "rename"), (1, 0, "epoch")]
)
def test_killed_and_resumed_training_equals_uninterrupted_training(tmp_path, epoch, step, where):
    whole = run(tmp_path / "whole", made_plan())
    folder = tmp_path / "killed"
    arguments = [sys.executable, "-c", CHILD, str(folder), str(epoch), str(step), where]
    killed = subprocess.run(arguments, capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert len(list(folder.glob(".*.tmp"))) == (where == "rename")
    resumed = run(folder, made_plan())
    for name, each in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], each, rtol=0, atol=0)
    tables = [(path / "metrics.csv").read_text().splitlines() for path in (folder, tmp_path / "whole")]
    assert len(tables[0]) == 6
    assert [row.rpartition(",")[0] for row in tables[0]] == [row.rpartition(",")[0] for row in tables[1]]
    first, second = contents(folder / FILE), contents(tmp_path / "whole" / FILE)
    assert first[1]["tensors"] == second[1]["tensors"]
    assert list(folder.glob(".*.tmp")) == []


FULL = """
import resource, signal, sys
from pathlib import Path
from tests.finetuning.small import SmallNetwork, SmallPhases, made_data, made_plan
from featstore.errors import FeatstoreError
from featstore.finetuning.training import train

network, plan = SmallNetwork(), made_plan()
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

def limit(record):
    if record.epoch == 1:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY))

try:
    train(network, SmallPhases(network, plan, 2, 3), made_data(), plan, Path(sys.argv[1]), on_epoch=limit)
except FeatstoreError as error:
    print(error)
"""


def test_full_disk_error_advises_to_resume_only_if_there_is_a_checkpoint(tmp_path, monkeypatch):
    def full(path: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(checkpoint.atomic, "sync", full)
        with pytest.raises(FeatstoreError, match="free some space and run the same command again"):
            checkpoint.save(tmp_path / FILE, SAVED, {})
    checkpoint.save(tmp_path / FILE, SAVED, {})
    monkeypatch.setattr(checkpoint.atomic, "sync", full)
    with pytest.raises(FeatstoreError, match="free some space and go on with --resume"):
        checkpoint.save(tmp_path / FILE, SAVED, {})


@pytest.mark.slow
def test_checkpoint_of_the_last_epoch_survives_a_full_disk(tmp_path):
    done = subprocess.run([sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, check=True)
    assert "the checkpoint cannot be written" in done.stdout
    assert done.stdout.count("\n") == 1
    assert len(contents(tmp_path / FILE)[1]["history"]) == 2
    assert list(tmp_path.glob(".*.tmp")) == []
    torch.testing.assert_close(
        run(tmp_path, made_plan()).state_dict(), run(tmp_path / "whole", made_plan()).state_dict(), rtol=0, atol=0
    )
