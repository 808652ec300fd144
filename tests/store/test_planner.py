from __future__ import annotations

import threading

import numpy as np
import pytest

from featstore.errors import UsageError
from featstore.store import FeatureStore
from featstore.store import plan as plans
from featstore.store.manifest import Manifest
from featstore.store.plan import Plan
from featstore.store.planner import Planner
from tests.store.building import Pictures, build, plan, work


def keys_of(path):
    opened = Plan(path, 0)
    return [key for segment in opened.segments for key in segment.keys]


@pytest.fixture
def small_segments(monkeypatch):
    monkeypatch.setattr(plans, "SEGMENT_ROWS", 10)


def test_planned_units_follow_the_order_of_the_source(tmp_path):
    plan(tmp_path / "s", Pictures({f"{i:02d}".encode(): i for i in range(12)}))
    units = Plan(tmp_path / "s", 0).units()
    assert [(unit.number, unit.start, unit.stop) for unit in units] == [(0, 0, 5), (1, 5, 10), (2, 10, 12)]
    assert keys_of(tmp_path / "s") == [f"{i:02d}".encode() for i in range(12)]


def test_large_source_is_planned_in_several_segment_files(small_segments, tmp_path):
    source = Pictures({f"{i:02d}".encode(): i for i in range(47)})
    change = plan(tmp_path / "s", source)
    opened = Plan(tmp_path / "s", 0)
    assert (change.added, [len(segment.ids) for segment in opened.segments]) == (47, [10, 10, 10, 10, 7])
    assert opened.find_keys([b"00", b"46", b"47"]).tolist() == [0, 46, -1]
    assert opened.key_of(np.array([46, 0, 33])) == [b"46", b"00", b"33"]
    again = plan(tmp_path / "s", source)
    assert (again.unchanged, again.added, len(Plan(tmp_path / "s", 0).segments)) == (47, 0, 5)
    work(tmp_path / "s", source)
    source.content = {key: value + 100 * (i % 3 == 0) for i, (key, value) in enumerate(source.content.items()) if i % 5}
    change = plan(tmp_path / "s", source)
    assert (change.changed, change.removed, change.unchanged) == (12, 10, 25)
    work(tmp_path / "s", source)
    assert FeatureStore.open(tmp_path / "s").counts.vectors == 37


@pytest.mark.parametrize("rows", [3, 1000])
def test_planning_a_store_rejects_duplicate_keys_in_any_chunk(small_segments, tmp_path, rows):
    class Doubled(Pictures):
        def chunks(self, rows=0):
            yield from super().chunks()
            yield from Pictures({b"00": 0}).chunks()

    content = {f"{i:02d}".encode(): i for i in range(25)}
    with pytest.raises(UsageError, match="the key '00' is there more than once"):
        plan(tmp_path / "s", Doubled(content, chunk_rows=rows))
    build(tmp_path / "t", Pictures(content))
    with pytest.raises(UsageError, match="the key '00' is there more than once"):
        plan(tmp_path / "t", Doubled(content, chunk_rows=rows))


@pytest.mark.slow
def test_concurrent_extractions_add_every_picture_once_to_the_plan(small_segments, tmp_path):
    source = Pictures({f"{i:03d}".encode(): i for i in range(120)})
    plan(tmp_path / "s", Pictures({b"000": 0}))
    manifest, errors = Manifest.read(tmp_path / "s"), []

    def update():
        try:
            Planner(tmp_path / "s", 0, manifest.unit_rows).update(source)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=update) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert sorted(keys_of(tmp_path / "s")) == sorted(source.content)
    assert len(Plan(tmp_path / "s", 0)) == 120
    work(tmp_path / "s", source)
    assert FeatureStore.open(tmp_path / "s").counts.vectors == 120


def test_next_extraction_completes_an_interrupted_plan(tmp_path, monkeypatch):
    source = Pictures({b"a": 1, b"b": 2}, {b"a": "x", b"b": "y"})

    def die(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(plans, "write_segment", die)
        with pytest.raises(KeyboardInterrupt):
            plan(tmp_path / "s", source)
    store = build(tmp_path / "s", source)
    assert store.labels.tolist() == ["x", "y"]


def test_changed_labels_of_the_source_update_the_store(tmp_path):
    source = Pictures({b"a": 1, b"b": 2}, {b"a": "x"}, metadata={"m": {b"a": 5}})
    store = build(tmp_path / "s", source)
    assert (store.labels.tolist(), store.column("m").tolist()) == (["x", None], [5, None])
    source.labels[b"b"] = "z"
    source.metadata["m"] = {b"a": 6, b"b": "text"}
    assert plan(tmp_path / "s", source).relabelled == 2
    assert plan(tmp_path / "s", source).relabelled == 0
    store = FeatureStore.open(tmp_path / "s")
    assert (store.labels.tolist(), store.column("m").tolist()) == (["x", "z"], ["6", "text"])
    assert store._tables.version == 2


def test_ids_of_removed_pictures_are_never_reused(tmp_path):
    source = Pictures({b"a": 1, b"b": 2})
    assert build(tmp_path / "s", source).ids.tolist() == [0, 1]
    source.content = {b"b": 2}
    plan(tmp_path / "s", source)
    source.content = {b"a": 1, b"b": 3}
    assert build(tmp_path / "s", source).ids.tolist() == [2, 3]
