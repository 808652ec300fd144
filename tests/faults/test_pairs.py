"""Two writing verbs at once, for every pair: the result is as in sequence, or one is refused with the name of the
owner."""

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

from featstore.stages.index import index
from featstore.stages.remove import remove
from featstore.stages.repair import repair
from featstore.stages.train import train
from featstore.stages.verify import verify
from featstore.store.labels import set_columns
from tests.faults import workplace
from tests.faults.workplace import FIRST, begin, copy, end, fork, look, prepare

INDEX, HEAD = "an.index", "a.head"


def run_label(folder: Path) -> None:
    """Set a number for some pictures; their labels remain those of their folders."""
    set_columns(folder / "store", [os.fsencode(name) for name in FIRST[:6]], {"n": list(range(6))})


def run_train(folder: Path) -> None:
    """Train on the labels from the pictures' folders."""
    train(folder / "store", out=folder / HEAD, C=1.0, folds=2)


VERBS: dict[str, Callable[[Path], object]] = {
    "extract": workplace.run_extract,
    "label": run_label,
    "compact": workplace.run_compact,
    "remove": lambda folder: remove(folder / "store", [FIRST[2]]),
    "repair": lambda folder: repair(folder / "store", set_aside=True),
    "index --out": lambda folder: index(folder / "store", out=folder / INDEX),
    "index --update": lambda folder: index(folder / "store", out=folder / INDEX, update=True),
    "train --out": run_train,
}
CHANGES = ("extract", "label", "compact", "remove", "repair")
"""Verbs that change the store."""
PAIRS = list(itertools.combinations_with_replacement(VERBS, 2))
TOLD = re.compile(r"is being (compacted|written) by process \d+ on \S+|process \d+ on \S+ is writing this")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return one folder for all pairs, because a store identifies its pictures by their path."""
    return tmp_path_factory.mktemp("pairs") / "folder"


@pytest.fixture(scope="module")
def begun(place: Path) -> Path:
    """Return a store with labels, head and index; pictures were added, changed and removed since."""
    place.mkdir()
    prepare(place, "extract")
    for verb in ("extract", "label", "index --out", "train --out"):
        code, answer = fork(lambda verb=verb: VERBS[verb](place) and None)
        assert code == 0, answer
    prepare(place, "add")
    return place.rename(place.with_name("master"))


def of_store(folder: Path) -> dict[str, Any]:
    """Return the store's content, without heads and indexes."""
    return {name: value for name, value in look(folder).items() if name not in ("predictions", "neighbours")}


REFERENCES: dict[tuple[str, ...], dict[str, Any]] = {}


def reference(begun: Path, place: Path, verbs: tuple[str, ...]) -> dict[str, Any]:
    """Return the store's content after running ``verbs`` in sequence."""
    if verbs not in REFERENCES:
        copy(begun, place)
        for verb in verbs:
            code, answer = fork(lambda verb=verb: VERBS[verb](place) and None)
            assert code == 0, answer
        REFERENCES[verbs] = of_store(place)
        shutil.rmtree(place)
    return REFERENCES[verbs]


def run_at_once(place: Path, *verbs: str) -> list[tuple[int, Any]]:
    """Run ``verbs`` in processes that begin together; return (exit code, answer) of each."""
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
def test_concurrent_verbs_are_serialised_or_one_is_refused(begun: Path, place: Path, first: str, second: str) -> None:
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
    found, whole = of_store(place), [verify(place / name).problems for name in (HEAD, INDEX)]
    shutil.rmtree(place)
    assert whole == [[], []]
    assert found in [reference(begun, place, order) for order in {tuple(finished), tuple(reversed(finished))}]
