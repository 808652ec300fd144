"""Two commands that write at the same time: the result is that of one after the other, or one command is refused.

The message of the refusal names the process that is writing.
"""

from __future__ import annotations

import itertools
import mmap
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from featstore.stages.export import export
from featstore.stages.import_ import import_vectors
from featstore.stages.index import index
from featstore.stages.remove import purge, remove
from featstore.stages.repair import repair
from featstore.stages.train import retrain, train
from featstore.stages.verify import verify
from featstore.store.label_history import undo_label
from featstore.store.labels import set_columns
from tests.faults import workplace
from tests.faults.workplace import BATCH, FIRST, UNIT_ROWS, begin, copy, end, fork, look, prepare
from tests.made import extract, tiny_backbone

INDEX, HEAD, OTHER, IMPORTED = "an.index", "a.head", "other", "imported"


def run_label(folder: Path) -> None:
    """Set the column "n" of some pictures; do not change the labels, which are the names of the folders."""
    set_columns(folder / "store", [os.fsencode(name) for name in FIRST[:6]], {"n": list(range(6))})


def run_train(folder: Path) -> None:
    """Train a head on labels that are the names of the pictures' folders."""
    train(folder / "store", out=folder / HEAD, C=1.0, folds=2)


def run_extract_of_store(folder: Path) -> None:
    torch.set_num_threads(1)
    options = {"batch": BATCH, "unit_rows": UNIT_ROWS, "workers": 1, "engine": "torch"}
    extract(folder / "store", folder / OTHER, backbone=tiny_backbone(seed=1), **options)


VERBS: dict[str, Callable[[Path], object]] = {
    "extract": workplace.run_extract,
    "label": run_label,
    "compact": workplace.run_compact,
    "remove": lambda folder: remove(folder / "store", [FIRST[2]]),
    "remove --purge": lambda folder: purge(folder / "store", [FIRST[3]]),
    "label --undo": lambda folder: undo_label(folder / "store"),
    "repair": lambda folder: repair(folder / "store", set_aside=True),
    "index --out": lambda folder: index(folder / "store", out=folder / INDEX),
    "index --update": lambda folder: index(folder / "store", out=folder / INDEX, update=True),
    "train --out": run_train,
    "train --update": lambda folder: retrain(folder / HEAD),
    "export": lambda folder: export(folder / "store", to="npy", out=folder / "an.export"),
    "import": lambda folder: import_vectors(folder / "foreign", folder / IMPORTED),
    "extract of a store": run_extract_of_store,
}
CHANGES = ("extract", "label", "compact", "remove", "remove --purge", "label --undo", "repair")
"""Commands that change the store."""
PAIRS = [
    (first, second)
    for first, second in itertools.combinations_with_replacement(VERBS, 2)
    if first in CHANGES or first.split()[0] == second.split()[0]
]
"""Pairs of commands to test: one of the two changes the store, or both write the same kind of file."""
TOLD = re.compile(r"is being (compacted|written) by process \d+ on \S+|process \d+ on \S+ is writing this")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the path at which all pairs of commands are tested; a store records the absolute path of its pictures."""
    return tmp_path_factory.mktemp("pairs") / "folder"


@pytest.fixture(scope="module")
def begun(place: Path) -> Path:
    """Return a folder with a store, head, index and export; pictures were added, changed and removed after these were
    made.
    """
    place.mkdir()
    prepare(place, "extract")
    for verb in ("extract", "label", "index --out", "train --out", "export"):
        code, answer = fork(lambda verb=verb: VERBS[verb](place) and None)
        assert code == 0, answer
        if verb == "label":
            # Change the labels a second time, so that two versions can be undone.
            set_columns(place / "store", [os.fsencode(name) for name in FIRST[:6]], {"n": [7] * 6})
    (place / "an.export").rename(place / "foreign")
    prepare(place, "add")
    return place.rename(place.with_name("master"))


def of_store(folder: Path) -> dict[str, Any]:
    """Return the content of the store alone, without that of the head and the index."""
    return {name: value for name, value in look(folder).items() if name not in ("predictions", "neighbours")}


REFERENCES: dict[tuple[str, ...], dict[str, Any]] = {}


def reference(begun: Path, place: Path, verbs: tuple[str, ...]) -> dict[str, Any]:
    """Return the content of the store after running the commands ``verbs`` one after the other."""
    if verbs not in REFERENCES:
        copy(begun, place)
        for verb in verbs:
            code, answer = fork(lambda verb=verb: VERBS[verb](place) and None)
            assert code == 0, answer
        REFERENCES[verbs] = of_store(place)
        shutil.rmtree(place)
    return REFERENCES[verbs]


def run_at_once(place: Path, *verbs: str) -> list[tuple[int, Any]]:
    """Start each of ``verbs`` in its own process at the same moment; return (exit code, answer) of each process."""
    ready = mmap.mmap(-1, len(verbs))

    def at_once(number: int, verb: str) -> None:
        ready[number] = 1
        while not all(ready[: len(verbs)]):
            pass
        VERBS[verb](place)

    forks = [begin(lambda n=n, v=verb: at_once(n, v)) for n, verb in enumerate(verbs)]
    return [end(*one) for one in forks]


@pytest.mark.parametrize(("first", "second"), PAIRS)
@pytest.mark.slow
def test_concurrent_commands_are_serialised_or_one_is_refused(
    begun: Path, place: Path, first: str, second: str
) -> None:
    shutil.rmtree(place, ignore_errors=True)
    copy(begun, place)
    outcomes = run_at_once(place, first, second)
    told = [answer[0] for code, answer in outcomes if code]
    assert all(code in (0, 1) for code, _ in outcomes), outcomes
    assert len(told) < 2, told
    assert all(TOLD.search(message) for message in told), told
    finished = [
        verb for verb, (code, _) in zip((first, second), outcomes, strict=True) if code == 0 and verb in CHANGES
    ]
    found = of_store(place)
    there = [place / name for name in (HEAD, INDEX, OTHER, IMPORTED) if (place / name).exists()]
    whole = {path.name: verify(path).problems for path in there}
    shutil.rmtree(place)
    assert not any(whole.values()), whole
    assert found in [reference(begun, place, order) for order in {tuple(finished), tuple(reversed(finished))}]
