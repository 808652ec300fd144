from __future__ import annotations

import numpy as np
import pytest

from featstore.errors import UsageError
from featstore.stages.info import describe_store
from featstore.store import FeatureStore
from featstore.store.claims import Claims, work_folder
from featstore.store.manifest import Manifest
from featstore.store.plan import Plan
from featstore.store.writer import UnitWriter
from tests.store.building import UNIT_ROWS, Pictures, block_of, plan, vector, work

KEYS = [f"{number:02d}".encode() for number in range(2 * UNIT_ROWS)]


class Running:
    """An unfinished extraction: the first unit is finished; the test writes blocks of the second unit with ``writer``."""

    def __init__(self, path):
        self.path = path
        self.source = Pictures({key: number for number, key in enumerate(KEYS)}, labels=dict.fromkeys(KEYS, "x"))
        self.source.content[KEYS[UNIT_ROWS + 1]] = -1
        plan(path, self.source)
        work(path, self.source, units=1)
        self.claims = Claims(path)
        current = Plan(path, 0)
        (self.unit,) = current.units()[1:]
        claim = self.claims.take(self.unit.number)
        self.writer = UnitWriter(path, Manifest.read(path), current, self.unit, claim, {"engine": "e"})

    def write(self, stop):
        self.writer.append(block_of(self.writer, self.source, self.writer.next_row, stop))

    def finish(self):
        self.write(len(self.unit))
        self.writer.commit()
        self.claims.finish(self.unit.number)


@pytest.fixture
def running(tmp_path):
    running = Running(tmp_path / "s")
    yield running
    running.writer.close()
    running.claims.close()


def counts(store):
    return store.counts.vectors, store.counts.failures, store.counts.pending


def test_store_opened_with_partial_includes_journaled_rows(running):
    running.write(3)
    store = FeatureStore.open(running.path, partial=True)
    assert counts(store) == (7, 1, 2)
    made = [key for key in KEYS[: UNIT_ROWS + 3] if running.source.content[key] >= 0]
    assert list(store.keys) == [key.decode() for key in made]
    expected = np.stack([vector(key, running.source.content[key]) for key in made])
    np.testing.assert_array_equal(store.features(), expected)
    np.testing.assert_array_equal(np.concatenate(list(store.blocks(block_rows=2))), expected)
    np.testing.assert_array_equal(store.features(rows=[6, 0, 5]), expected[[6, 0, 5]])
    assert store.labels.tolist() == ["x"] * 7
    assert store.index_of([made[-1]]).tolist() == [6]
    assert [(key, failure.reason) for key, failure in store.failures()] == [(KEYS[UNIT_ROWS + 1].decode(), "corrupt")]
    assert store._content(store.ids).tobytes() == store.sha256.tobytes()
    assert store.provenance()[running.unit.number] == [{"engine": "e", "rows": [0, 3]}]
    assert [unit.number for unit in store._pending_units()] == [running.unit.number]
    with pytest.raises(UsageError, match="has no shard yet"):
        store._shard(running.unit)


def test_store_opened_by_default_has_only_finished_units(running):
    running.write(3)
    store = FeatureStore.open(running.path)
    assert counts(store) == (5, 0, 5)
    assert store.generation == FeatureStore.open(running.path, partial=True).generation


def test_info_counts_journaled_pictures(running):
    assert describe_store(running.path)["journaled"] == 0
    running.write(3)
    found = describe_store(running.path)
    assert (found["vectors"], found["pending"], found["journaled"]) == (5, 5, 3)
    running.finish()
    found = describe_store(running.path)
    assert (found["vectors"], found["failures"], found["pending"], found["journaled"]) == (9, 1, 0, 0)


def test_store_opened_with_partial_stays_readable_after_its_journals_are_deleted(running):
    running.write(3)
    store = FeatureStore.open(running.path, partial=True)
    before = store.features().copy()
    running.finish()
    np.testing.assert_array_equal(store.features(), before)
    assert counts(FeatureStore.open(running.path, partial=True)) == (9, 1, 0)


def test_incomplete_record_in_the_journal_of_a_unit_is_ignored(running):
    running.write(2)
    running.write(4)
    (journal,) = work_folder(running.path, running.unit.number).glob("journal.*")
    data = journal.read_bytes()
    for cut in range(len(data) - 20, len(data), 5):
        journal.write_bytes(data[:cut])
        assert counts(FeatureStore.open(running.path, partial=True)) == (6, 1, 3)
    journal.write_bytes(data)


def test_store_opened_with_partial_ignores_pictures_removed_meanwhile(running):
    running.write(3)
    del running.source.content[KEYS[UNIT_ROWS]]
    plan(running.path, running.source)
    assert counts(FeatureStore.open(running.path, partial=True)) == (6, 1, 2)
    assert describe_store(running.path)["journaled"] == 2


def test_store_opened_with_partial_includes_a_unit_finished_during_opening(running, monkeypatch):
    from featstore.store import unfinished

    running.write(3)
    real = unfinished.read_unfinished

    def late(*arguments):
        running.finish()
        return real(*arguments)

    monkeypatch.setattr(unfinished, "read_unfinished", late)
    assert counts(FeatureStore.open(running.path, partial=True)) == (9, 1, 0)
