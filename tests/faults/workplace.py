"""Run and kill commands for the crash tests, and read their results. A workplace is a folder with pictures and a store.

Commands run in forks of this process, so that a test can kill them. This process imports all modules but does not run
torch: once torch has started threads, it does not work in forks. Results are read in forks too.
"""

from __future__ import annotations

import json
import mmap
import os
import shutil
import signal
import struct
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from featstore.engines import shared
from featstore.errors import FeatstoreError
from featstore.heads import load_head, save_head, train_head
from featstore.indexes import FeatureIndex, build_index
from featstore.stages.compact import compact
from featstore.stages.verify import verify
from featstore.store import FeatureStore
from featstore.store.labels import set_columns
from tests.faults.faulty import Calls
from tests.made import extract, tiny_backbone, write_pictures

FIRST = [f"{kind}/{number:02d}.png" for kind in ("cat", "dog") for number in range(12)]
ADDED = [f"dog/{number:02d}.png" for number in range(20, 30)]
BATCH, UNIT_ROWS, D = 4, 10, 8
COUNTED = "torch"
"""Name of the only engine that runs the forward hook with which ``backbone()`` counts pictures."""
engine = COUNTED
_forwarded = mmap.mmap(-1, 8)


def forwarded() -> int:
    """Return the number of pictures that went through the network in this process and all its forks."""
    return int(struct.unpack("<q", _forwarded[:8])[0])


def backbone() -> Any:
    """Return the tiny backbone with a hook that counts the pictures of each forward pass."""
    torch.set_num_threads(1)
    model = tiny_backbone()

    def count(_: object, inputs: Any) -> None:
        struct.pack_into("<q", _forwarded, 0, forwarded() + len(inputs[0]))

    model.module.register_forward_pre_hook(count)
    return model


def run_extract(folder: Path, **options: Any) -> Any:
    options = {"batch": BATCH, "unit_rows": UNIT_ROWS, "workers": 2, "engine": engine, **options}
    return extract(folder / "pictures", folder / "store", backbone=backbone(), **options)


def run_label(folder: Path) -> None:
    set_columns(
        folder / "store", [os.fsencode(name) for name in FIRST[:6]], {"label": list("aabbcc"), "n": list(range(6))}
    )


def run_compact(folder: Path) -> None:
    compact(folder / "store")


def run_train(folder: Path) -> None:
    store = FeatureStore.open(folder / "store")
    labels = np.array([key.partition("/")[0] for key in store.keys])
    save_head(folder / "a.head", train_head(store.features(), labels, kind="logreg", C=1.0, folds=2))


def run_index(folder: Path) -> None:
    store = FeatureStore.open(folder / "store")
    build_index(store.features(), store.ids, list(store.keys), threads=1).save(folder / "an.index")


VERBS: dict[str, Callable[[Path], object]] = {
    "extract": run_extract,
    "add": run_extract,
    "label": run_label,
    "compact": run_compact,
    "train": run_train,
    "index": run_index,
}


def prepare(folder: Path, verb: str) -> None:
    """Write or change the pictures in ``folder`` that the command ``verb`` is going to process."""
    pictures = folder / "pictures"
    if verb == "extract":
        write_pictures(pictures, FIRST)
        (pictures / "cat" / "bad.jpg").write_bytes(b"no picture")
        os.utime(pictures / "cat" / "bad.jpg", ns=(10**18, 10**18))
    if verb == "add":
        write_pictures(pictures, ADDED, seed=100)
        write_pictures(pictures, ["cat/01.png"], seed=200)
        (pictures / "cat" / "00.png").unlink()
        (pictures / "cat" / "bad.jpg").unlink()
    for number, file in enumerate(sorted(file for file in pictures.rglob("*") if file.is_file())):
        if file.name == "01.png" and verb == "add" and file.parent.name == "cat":
            number += 1000
        os.utime(file, ns=(10**18 + number, 10**18 + number))


def contents(folder: Path) -> dict[str, Any]:
    """Return the content of the store, head and index in ``folder``, as values for JSON.

    Call this function only in a fork, as ``look`` does, because this process must not start threads.
    """
    found: dict[str, Any] = {}
    store = FeatureStore.open(folder / "store")
    found["counts"] = store.counts.__dict__
    found["keys"] = list(store.keys)
    found["ids"] = store.ids.tolist()
    found["vectors"] = store.features().tobytes().hex() if len(store) else ""
    found["sha256"] = store.sha256.tobytes().hex()
    found["failures"] = [[key, failure.id, failure.reason] for key, failure in store.failures()]
    found["columns"] = {name: [str(value) for value in store.column(name)] for name in store.columns}
    found["doubled"] = len(store) - len(set(store.keys))
    found["problems"] = [str(problem) for problem in verify(folder / "store").problems]
    if (folder / "a.head").exists():
        head = load_head(folder / "a.head")
        found["predictions"] = head.predict_proba(store.features()).tolist()
    if (folder / "an.index").exists():
        index = FeatureIndex.open(folder / "an.index")
        found["neighbours"] = [
            np.asarray(part).tolist() for part in index.search(store.features().astype(np.float32), 3)[:2]
        ]
        found["problems"] += [str(problem) for problem in verify(folder / "an.index").problems]
    return found


def fork(work: Callable[[], Any], calls: Calls | None = None, *, kill_after: float | None = None) -> tuple[int, Any]:
    """Run ``work`` in a fork; return its exit code and [result or message, number of counted system calls].

    A negative code is the signal that killed the fork. Code 1 is an error of featstore or the system, with a message of
    one line; code 99 is any other exception, with its traceback.
    """
    child, reading = begin(work, calls)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)
    return end(child, reading)


def begin(work: Callable[[], Any], calls: Calls | None = None) -> tuple[int, int]:
    """Start the function ``work`` in a forked process; return the process id and the pipe that ``end`` needs."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        code, value = 0, None
        try:
            os.close(reading)
            # Earlier tests may have run a network in this process; tell featstore that this fork has not run one yet.
            shared._used_in = None
            if calls is not None:
                calls.install()
            value = work()
        except (FeatstoreError, OSError) as error:
            code, value = 1, str(error)
        except BaseException:
            code, value = 99, traceback.format_exc()
        finally:
            data = memoryview(json.dumps([value, calls.count if calls is not None else 0]).encode())
            while data:
                data = data[os.write(writing, data) :]
            os._exit(code)
    os.close(writing)
    return child, reading


def end(child: int, reading: int) -> tuple[int, Any]:
    """Wait for a process that ``begin`` started; return its exit code and the value that it sent, None without a
    value."""
    with os.fdopen(reading, "rb") as file:
        data = file.read()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return code, json.loads(data) if data else None


def do(
    folder: Path, verb: str, calls: Calls | None = None, *, kill_after: float | None = None, **options: Any
) -> tuple[int, Any]:
    """Run the command ``verb`` on ``folder`` in a forked process; return its exit code and the value that it sent."""

    def work() -> None:
        VERBS[verb](folder, **options)

    return fork(work, calls, kill_after=kill_after)


def look(folder: Path) -> dict[str, Any]:
    """Return ``contents(folder)``, computed in a forked process."""
    code, answer = fork(lambda: contents(folder))
    if code:
        raise AssertionError(answer)
    found: dict[str, Any] = answer[0]
    return found


def copy(master: Path, to: Path) -> Path:
    """Copy ``master`` to ``to``, and return ``to``; the copied store still refers to the original pictures."""
    shutil.copytree(master, to, symlinks=True)
    return to
