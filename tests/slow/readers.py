"""Read a store in loops while another process extracts, labels, removes, compacts and updates an index.

python -m tests.slow.readers [--minutes 10] [--seed 0]

Each kind of reader (open the store, verify, train, search and others) runs in its own process. What a reader finds must
match one state of the store: the pictures that existed at one time, and the vectors of their files at that time. Marks
(values in a column that the writer sets) must have been written before. Prints the number of reads for each kind of
reader, and the numbers of steps and of compactions of the writer.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from featstore.indexes import FeatureIndex
from featstore.stages.compact import compact
from featstore.stages.duplicates import find_duplicates
from featstore.stages.index import index
from featstore.stages.info import info
from featstore.stages.remove import remove, restore
from featstore.stages.train import train
from featstore.stages.verify import verify
from featstore.store import FeatureStore
from featstore.store.labels import set_columns
from tests.faults.workplace import begin, end, fork
from tests.made import extract, picture, tiny_backbone

CLASSES, EACH, VERSIONS, UNIT_ROWS = ("cat", "dog"), 14, 3, 6
KEYS = [f"{kind}/{number:02d}.png" for kind in CLASSES for number in range(EACH)]
State = dict[str, int]
"""A state of the store: for the key of each existing picture, the version number of its file."""


def write(folder: Path, key: str, version: int) -> None:
    """Write version ``version`` of a picture; every version has another content and mtime."""
    path = folder / key
    path.parent.mkdir(parents=True, exist_ok=True)
    number = KEYS.index(key) * VERSIONS + version
    picture(number).save(path)
    os.utime(path, ns=(10**18 + number, 10**18 + number))


def vectors(folder: Path) -> dict[bytes, tuple[str, int]]:
    """Extract all versions of all pictures; return a dict from the bytes of a vector to (key, version)."""
    found = {}
    for version in range(VERSIONS):
        for key in KEYS:
            write(folder / str(version), key, version)
        extract(folder / str(version), folder / f"{version}.store", backbone=tiny_backbone(), batch=8, workers=1)
        store = FeatureStore.open(folder / f"{version}.store")
        for key, vector in zip(store.keys, store.features(), strict=True):
            found[vector.tobytes()] = key, version
    if len(found) != VERSIONS * len(KEYS):
        raise AssertionError("two versions have one vector")
    return found


class Writer:
    """Change the store by one command after the other; record each new state in a file before readers can see it."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.draw = folder, random.Random(seed)
        self.state: State = dict.fromkeys(KEYS[::2] + KEYS[1:8], 0)
        self.epochs = 0

    def note(self, **what: Any) -> None:
        with open(self.folder / "states", "a") as file:
            file.write(json.dumps(what) + "\n")

    def extract(self) -> None:
        for key in self.state:
            write(self.folder / "pictures", key, self.state[key])
        for key in set(KEYS) - set(self.state):
            (self.folder / "pictures" / key).unlink(missing_ok=True)
        self.note(state=self.state)
        extract(
            self.folder / "pictures",
            self.folder / "store",
            backbone=tiny_backbone(),
            batch=4,
            unit_rows=UNIT_ROWS,
            workers=1,
        )

    def step(self) -> None:
        """Change the store by one command, chosen at random."""
        verb = self.draw.choice(("extract", "extract", "label", "remove", "compact", "compact", "index"))
        if verb == "extract":
            for key in self.draw.sample(KEYS, 3):
                if key in self.state and len(self.state) > len(KEYS) // 2 and self.draw.random() < 0.5:
                    del self.state[key]
                else:
                    self.state[key] = self.draw.randrange(VERSIONS)
            self.extract()
        elif verb == "label":
            mark = f"{self.draw.randrange(10**9)}"
            self.note(mark=mark)
            set_columns(self.folder / "store", [key.encode() for key in self.state], {"mark": [mark] * len(self.state)})
        elif verb == "remove":
            if len(self.state) > len(KEYS) // 2:
                key = self.draw.choice(sorted(self.state))
                del self.state[key]
                self.note(state=self.state)
                remove(self.folder / "store", [key])
                restore(self.folder / "store", [key])
        elif verb == "compact":
            compact(self.folder / "store")
            self.epochs += 1
        else:
            index(self.folder / "store", out=self.folder / "an.index", update=True)


class Reader:
    """Read the store in different ways, one method per way, and compare what is read with the recorded states."""

    def __init__(self, folder: Path, known: dict[bytes, tuple[str, int]]) -> None:
        self.folder, self.known = folder, known

    def states(self) -> tuple[list[State], set[str | None]]:
        """Return all states that the writer has recorded so far, and all values that it has set in the column
        "mark"."""
        noted = [json.loads(line) for line in (self.folder / "states").read_text().splitlines()]
        return [one["state"] for one in noted if "state" in one], {None} | {
            one["mark"] for one in noted if "mark" in one
        }

    def check(self, images: int, keys: list[str], rows: Any, marks: list[str | None] | None = None) -> None:
        """Raise AssertionError if no recorded state has the pictures and vectors that a reader found."""
        found = dict(self.known[np.asarray(row).tobytes()] for row in rows)
        if list(found) != keys:
            raise AssertionError(f"the vectors are of {list(found)}, the keys {keys}")
        states, noted = self.states()
        if not any(len(state) == images and found.items() <= state.items() for state in states):
            raise AssertionError(f"no state has these {images} images: {found}")
        if marks is not None and not set(marks) <= noted:
            raise AssertionError(f"no labelling has these marks: {set(marks) - noted}")

    def everything(self) -> None:
        store = FeatureStore.open(self.folder / "store")
        marks = store.column("mark").tolist() if "mark" in store.columns else []
        self.check(store.counts.images, list(store.keys), store.features(), marks)
        if not set(store.labels) <= set(CLASSES):
            raise AssertionError(f"labels {set(store.labels)}")

    def blocks(self) -> None:
        store = FeatureStore.open(self.folder / "store")
        time.sleep(random.random() / 10)
        rows = [row for block in store.blocks(block_rows=5) for row in block]
        self.check(store.counts.images, list(store.keys), rows)
        order = np.random.default_rng(0).permutation(len(store))
        if [row.tobytes() for row in store.features(rows=order)] != [rows[at].tobytes() for at in order]:
            raise AssertionError("rows in another order are others")

    def info(self) -> None:
        found = info(self.folder / "store")
        if not any(len(state) == found["images"] for state in self.states()[0]):
            raise AssertionError(f"no state has {found['images']} images")
        if found["images"] != found["vectors"] + found["failures"] + found["pending"] or found["failures"]:
            raise AssertionError(f"{found['images']} images, {found['vectors']} vectors, {found['failures']} failures")

    def verify(self) -> None:
        problems = verify(self.folder / "store").problems
        if problems:
            raise AssertionError(f"{problems[0]}")

    def train(self) -> None:
        report = train(self.folder / "store", out=self.folder / f"head-{os.getpid()}", C=1.0, folds=2)
        if report.head.classes != list(CLASSES):
            raise AssertionError(f"classes {report.head.classes}")

    def index(self) -> None:
        path = self.folder / f"index-{os.getpid()}"
        index(self.folder / "store", out=path)
        self._search(path)

    def search(self) -> None:
        self._search(self.folder / "an.index")

    def _search(self, path: Path) -> None:
        index = FeatureIndex.open(path)
        vectors = np.array([np.frombuffer(vector, np.float32) for vector in self.known])
        scores, ids = index.search(vectors, 3)[:2]
        if not np.isfinite(scores[:, 0]).all() or (ids[:, 0] < 0).any():
            raise AssertionError("a query has no neighbour")

    def duplicates(self) -> None:
        find_duplicates(self.folder / "store")


KINDS: dict[str, Callable[[Reader], None]] = {
    name: getattr(Reader, name)
    for name in ("everything", "blocks", "info", "verify", "train", "index", "search", "duplicates")
}


def read(folder: Path, known: dict[bytes, tuple[str, int]], kind: str, until: float) -> dict[str, int]:
    """Call the reader ``kind`` again and again until the time ``until`` (time.monotonic); return the number of
    reads."""
    reader, done = Reader(folder, known), 0
    while time.monotonic() < until:
        KINDS[kind](reader)
        done += 1
        # Pause, so that the many readers leave processor time for the single writer.
        time.sleep(random.random() / 2)
    return {kind: done}


def change(folder: Path, seed: int, until: float) -> dict[str, int]:
    """Change the store until the time ``until`` (time.monotonic); return the numbers of steps and of compactions."""
    writer, steps = Writer(folder, seed), Counter[str]()
    writer.state = json.loads((folder / "states").read_text().splitlines()[-1])["state"]
    while time.monotonic() < until:
        writer.step()
        steps["steps of the writer"] += 1
    return {**steps, "compactions": writer.epochs}


def prepare(folder: Path, seed: int) -> None:
    """Make the first state of the store, and the index."""
    Writer(folder, seed).extract()
    index(folder / "store", out=folder / "an.index")


def run(minutes: float, seed: int) -> dict[str, Any]:
    """Run the readers and the writer of the store concurrently.

    Return the number of reads by kind of reader, and the error of each process that failed.
    """
    with tempfile.TemporaryDirectory(prefix="featstore-readers-") as name:
        folder = Path(name)
        code, answer = fork(lambda: [[k.hex(), *v] for k, v in vectors(folder / "versions").items()])
        if code:
            raise AssertionError(answer)
        known = {bytes.fromhex(vector): (key, version) for vector, key, version in answer[0]}
        code, answer = fork(lambda: prepare(folder, seed))
        if code:
            raise AssertionError(answer)
        until = time.monotonic() + 60 * minutes
        running = {kind: begin(lambda kind=kind: read(folder, known, kind, until)) for kind in KINDS}
        running["writer"] = begin(lambda: change(folder, seed, until))
        found: dict[str, Any] = {"errors": {}}
        for kind, one in running.items():
            code, answer = end(*one)
            if code:
                found["errors"][kind] = answer[0] if answer else signal.Signals(-code).name
            else:
                found.update(answer[0])
        return found


def main() -> None:
    """Read the store in several processes while it changes; exit with 1 if a reader or the writer failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    found = run(arguments.minutes, arguments.seed)
    for name, value in found.items():
        if name != "errors":
            print(f"{name:24}{value:>8,}")
    for kind, error in found["errors"].items():
        print(f"{kind}: {error}")
    sys.exit(1 if found["errors"] else 0)


if __name__ == "__main__":
    main()
