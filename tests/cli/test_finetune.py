from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from tests.cli.running import run, run_json
from tests.page_reading import read
from tests.stages.finetuning import state_of, write_store

pytestmark = pytest.mark.slow

FEW = ("--batch", "8", "--workers", "1", "--views", "1")
SMALL = ("--epochs", "2", "--cache", "none", *FEW)
MANY = ("--epochs", "40", "--cache", "none", *FEW)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store of 16 training pictures and 8 held-out pictures; tests only read it."""
    return write_store(tmp_path_factory.mktemp("tuning"))


def test_finetune_command_prints_accuracies_and_writes_model_and_page(store, tmp_path):
    result = run("finetune", store, "--out", tmp_path / "m", "--html", tmp_path / "page.html", *SMALL)
    for text in (
        "squeezenet1_1 fine-tuned, 2 classes (2 epochs",
        "frozen up to and including features.11",
        "inputs: live: without a cache, as asked",
        "pictures/s cached",
        "epoch 0, the frozen head: accuracy",
        "macro F1",
        "fine-tuned against the frozen head: accuracy ",
        "McNemar p = ",
        "by default the last block trains (--freeze-to features.11)",
        f"page: {tmp_path / 'page.html'}",
    ):
        assert text in result.stdout
    assert "epoch 2 of 2: loss " in result.stderr
    page = read(tmp_path / "page.html")
    assert page is not None
    assert "Epoch 0 is the frozen head" in (tmp_path / "page.html").read_text()
    rows = list(csv.DictReader((tmp_path / "m/metrics.csv").read_text().splitlines()))
    assert [row["epoch"] for row in rows] == ["0", "1", "2"]
    predicted = run_json("predict", tmp_path / "m", store.parent / "pictures/val")["images"]
    assert len(predicted) == 8
    again = run("finetune", store, "--out", tmp_path / "m", *SMALL, code=2)
    assert "--force" in again.stderr


def test_finetune_json_reports_cache_choice_learning_rates_and_break_even(store, tmp_path):
    told = run_json(
        "finetune", store, "--out", tmp_path / "m", *FEW, "--epochs", "2", "--cache", "1G", "--dtype", "float32"
    )
    assert told["inputs"]["cached"]
    assert min(told["inputs"]["rates"].values()) > 0
    assert set(told["inputs"]["rates"]) == {"making", "live", "cached"}
    assert "break_even" in told["inputs"]
    assert told["history"][0]["held_out_accuracy"] == told["frozen_head"]["estimates"]["accuracy"]["value"]
    assert told["comparison"]["verdict"] in ("better", "worse", "no measurable difference")
    assert told["stopped"] is False


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--freeze-to", "feature.9"), "did you mean 'features.9'"),
        (("--unfreeze", "features.9"), "is not LAYER@EPOCH"),
        (("--cache", "much"), "is no size"),
        (("--all", "--freeze-to", "features.9"), "leave freeze_to and unfreeze out"),
    ],
)
def test_finetune_command_refuses_invalid_options_in_one_line(store, tmp_path, options, message):
    result = run("finetune", store, "--out", tmp_path / "m", *options, code=2)
    assert message in result.stderr
    assert not (tmp_path / "m").exists()


def test_finetune_command_refuses_a_page_at_the_path_of_the_model(store, tmp_path):
    result = run("finetune", store, "--out", tmp_path / "m", "--html", tmp_path / "m", *SMALL, code=2)
    assert "which this run writes" in result.stderr
    assert not (tmp_path / "m").exists()


def begin(store, out):
    """Start ``featstore finetune`` as a process of its own; return the process as soon as epoch 1 is finished."""
    command = [sys.executable, "-m", "featstore", "finetune", str(store), "--out", str(out), *MANY]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    metrics, until = out.with_name(f"{out.name}.run") / "metrics.csv", time.monotonic() + 120
    while time.monotonic() < until and process.poll() is None:
        if metrics.exists() and len(metrics.read_text().splitlines()) >= 3:
            return process
        time.sleep(0.005)
    raise AssertionError(process.communicate())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_interrupted_finetune_command_resumes_to_bit_identical_weights(store, tmp_path, number):
    process = begin(store, tmp_path / "m")
    os.kill(process.pid, number)
    said = process.communicate(timeout=120)[1]
    assert process.returncode == (130 if number == signal.SIGINT else -signal.SIGKILL)
    if number == signal.SIGINT:
        assert "run the same command with --resume to go on" in said
    assert not (tmp_path / "m").exists()
    run("finetune", store, "--out", tmp_path / "m", *MANY, "--resume")
    run("finetune", store, "--out", tmp_path / "whole", *MANY)
    assert state_of(tmp_path / "m") == state_of(tmp_path / "whole")
    record = json.loads((tmp_path / "m/model.json").read_text())["record"]
    assert record["options"]["epochs"] == 40
