"""Readers and writers during a compaction: each sees one consistent state.

Nothing is written into the folders of an earlier epoch (the time before the compaction).
"""

from __future__ import annotations

import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from featstore.errors import FeatstoreError
from featstore.stages.compact import compact
from featstore.stages.info import info
from featstore.store import FeatureStore, labels
from featstore.store.claims import COMPACTION, Claims
from featstore.store.labels import set_columns
from featstore.store.manifest import Manifest
from featstore.store.repair.verify import verify_store
from tests.store.building import Pictures, build, plan, work

KEYS = [f"{number:02d}".encode() for number in range(14)]
EVENTS = {"open", "os.listdir", "os.scandir"}


class Interruption:
    """Call ``action`` before the thread that called ``arm`` opens a file or lists a folder for the ``step``-th time."""

    def __init__(self) -> None:
        self.thread: int | None = None
        self.step = self.count = 0
        self.action: Callable[[], object] = lambda: None
        sys.addaudithook(self._hook)

    def _hook(self, event: str, _: Any) -> None:
        if self.thread != threading.get_ident() or event not in EVENTS:
            return
        self.count += 1
        if self.count == self.step:
            self.thread = None
            self.action()

    def arm(self, step: int, action: Callable[[], object]) -> None:
        self.step, self.count, self.action, self.thread = step, 0, action, threading.get_ident()


INTERRUPTION = Interruption()


@pytest.fixture(autouse=True)
def disarmed() -> Iterator[None]:
    yield
    INTERRUPTION.thread = None


@pytest.fixture(scope="module")
def master(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store in which a compaction has much to do: rows to purge, shards to merge, failures, two tables."""
    path = tmp_path_factory.mktemp("master") / "s"
    content = {key: number if number != 4 else -1 for number, key in enumerate(KEYS)}
    build(path, Pictures(content, {key: "abc"[number % 3] for number, key in enumerate(KEYS)}))
    changed = Pictures({key: value for key, value in content.items() if key not in (b"01", b"06", b"12")})
    changed.labels = {key: "abc"[KEYS.index(key) % 3] for key in changed.content}
    plan(path, changed)
    work(path, changed)
    set_columns(path, [b"05", b"07"], {"label": ["y", "z"]})
    return path


def everything(store: FeatureStore) -> dict[str, object]:
    return {
        "counts": store.counts,
        "keys": list(store.keys),
        "ids": store.ids.tolist(),
        "features": store.features().tobytes(),
        "blocks": [block.tobytes() for block in store.blocks(block_rows=3)],
        "some": store.features(rows=[3, 1]).tobytes(),
        "labels": store.labels.tolist(),
        "failures": [(key, failure.reason) for key, failure in store.failures()],
        "pending": [unit.number for unit in store._pending_units()],
        "rows": store.index_of(["05", "13"]).tolist(),
    }


READERS: dict[str, Callable[[Path], object]] = {
    "open and read": lambda path: everything(FeatureStore.open(path)),
    "verify": lambda path: [str(problem) for problem in verify_store(path).problems],
    "info": lambda path: {name: info(path)[name] for name in ("images", "vectors", "failures", "pending", "labels")},
}


@pytest.mark.slow
@pytest.mark.parametrize("reader", READERS)
def test_compaction_during_reading_does_not_change_the_result(master: Path, tmp_path: Path, reader: str) -> None:
    read = READERS[reader]
    expected = read(shutil.copytree(master, tmp_path / "first"))
    step = 0
    while True:
        # Interrupt reading at each of the first 12 steps, and at some of the later steps, in which one file after the
        # other is opened.
        step += 1 + step // 12
        path = shutil.copytree(master, tmp_path / f"{step}")
        INTERRUPTION.arm(step, lambda path=path: compact(path))
        found = read(path)
        if INTERRUPTION.thread is not None:
            break
        assert found == expected, f"compacted before step {step}"
        assert Manifest.read(path).epoch == 1
        shutil.rmtree(path)
    assert step > 30


def test_open_store_is_unchanged_by_compaction(master: Path, tmp_path: Path) -> None:
    path = shutil.copytree(master, tmp_path / "s")
    expected = everything(FeatureStore.open(path))
    store = FeatureStore.open(path)
    compact(path)
    set_columns(path, [b"05"], {"label": ["new"]})
    compact(path)
    assert everything(store) == expected


def test_opening_a_store_fails_if_the_store_is_compacted_again_and_again(
    master: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = shutil.copytree(master, tmp_path / "s")
    epochs = iter(range(10**6))
    manifest = Manifest.read(path)
    monkeypatch.setattr(Manifest, "read", lambda _: manifest.__class__(**{**vars(manifest), "epoch": next(epochs)}))
    monkeypatch.setattr("featstore.store.manifest._PAUSE_SECONDS", 0.0)
    with pytest.raises(FeatstoreError, match="is compacted again and again"):
        FeatureStore.open(path)


def test_second_compaction_keeps_labels_that_were_set_after_the_first_compaction(
    master: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = shutil.copytree(master, tmp_path / "s")
    announced, compacted = threading.Event(), threading.Event()
    holder, write, opened = Claims.holder, Manifest.write, labels.Plan
    outcome: list[str] = []

    def look(claims: Claims, name: Any) -> Any:
        if threading.current_thread() is labeller and name == COMPACTION and not announced.is_set():
            announced.set()
            assert compacted.wait(60)
        return holder(claims, name)

    def begin_another(store: Path, epoch: int) -> Any:
        found = opened(store, epoch)
        if threading.current_thread() is labeller and not outcome:
            try:
                compact(store)
                outcome.append("compacted")
            except FeatstoreError as error:
                outcome.append(str(error))
        return found

    def switch(manifest: Manifest, store: Path, **options: Any) -> None:
        write(manifest, store, **options)
        if not labeller.is_alive() and not announced.is_set():
            labeller.start()
            assert announced.wait(60)

    labeller = threading.Thread(target=lambda: set_columns(path, [b"05"], {"label": ["mine"]}))
    monkeypatch.setattr(Claims, "holder", look)
    monkeypatch.setattr(labels, "Plan", begin_another)
    monkeypatch.setattr(Manifest, "write", switch)
    compact(path)
    compacted.set()
    labeller.join(60)
    assert "is being written by process" in outcome[0]
    store = FeatureStore.open(path)
    assert store.labels[store.index_of(["05"])[0]] == "mine"
    compact(path)
    store = FeatureStore.open(path)
    assert store.labels[store.index_of(["05"])[0]] == "mine"
