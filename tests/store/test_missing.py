"""Missing files of a store: every loss is detected, even that of the newest file.

An incomplete plan (list of pictures) is not extended.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from featstore.errors import DamagedError
from featstore.stages.compact import compact
from featstore.store import FeatureStore, written
from featstore.store.labels import set_columns
from featstore.store.repair.repairing import repair_store
from featstore.store.repair.verify import verify_store
from tests.store.building import Pictures, build, plan, work

SOURCE = Pictures({f"{number:02d}".encode(): number for number in range(12)})
LESS = Pictures({key: value for key, value in SOURCE.content.items() if key != b"03"})


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Return a store of three units. The last file of its plan only removes a picture; its last table only sets a
    label."""
    build(tmp_path / "s", SOURCE)
    plan(tmp_path / "s", LESS)
    set_columns(tmp_path / "s", [b"05"], {"label": ["five"]})
    return tmp_path / "s"


def problems(store: Path) -> str:
    return "\n".join(map(str, verify_store(store).problems))


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("plan/000000/000001.h5", "a segment of the plan is missing"),
        ("plan/000000", "is missing; restore the store from a copy"),
        ("tables/000000/000001.h5", "a version of the tables is missing"),
        ("tables/000000", "a version of the tables is missing"),
    ],
)
def test_store_without_its_last_plan_segment_or_table_is_reported_as_damaged(store: Path, name: str, what: str) -> None:
    gone = store / name
    if gone.is_dir():
        shutil.rmtree(gone)
    else:
        gone.unlink()
    if name == "plan/000000":
        what = "a segment of the plan is missing"
    shards = sorted(file.name for file in (store / "shards").iterdir())
    assert what in problems(store)
    for verb in (FeatureStore.open, compact):
        with pytest.raises(DamagedError, match=what):
            verb(store)
    assert sorted(file.name for file in (store / "shards").iterdir()) == shards


def test_missing_folder_of_a_compacted_store_is_reported_as_damage(store: Path) -> None:
    compact(store)
    shutil.rmtree(store / "written")
    shutil.move(store / "plan" / "000001", store / "elsewhere")
    with pytest.raises(DamagedError, match="000001: is missing"):
        FeatureStore.open(store)
    shutil.move(store / "elsewhere", store / "plan" / "000001")
    assert len(FeatureStore.open(store)) == 11


def test_compaction_after_a_manifest_rollback_deletes_nothing(store: Path) -> None:
    earlier = (store / "featstore.json").read_bytes()
    compact(store)
    shards = sorted(file.name for file in (store / "shards").iterdir())
    (store / "featstore.json").write_bytes(earlier)
    for verb in (FeatureStore.open, compact):
        with pytest.raises(DamagedError, match="is missing"):
            verb(store)
    assert sorted(file.name for file in (store / "shards").iterdir()) == shards


def test_repair_restores_the_missing_shard_of_a_finished_unit(store: Path) -> None:
    before = FeatureStore.open(store).features().tobytes()
    gone = store / "shards" / "000000-00000001.h5"
    gone.unlink()
    (problem,) = verify_store(store).problems
    assert (problem.unit, problem.images) == (1, 5)
    assert "its unit was finished" in str(problem)
    for verb in (FeatureStore.open, compact):
        with pytest.raises(DamagedError, match="its unit was finished"):
            verb(store)
    report = repair_store(store, None)
    assert report.pending == [1]
    assert report.restored == [str(gone)]
    assert FeatureStore.open(store).counts.pending == 5
    work(store, LESS)
    assert problems(store) == ""
    assert FeatureStore.open(store).features().tobytes() == before


def test_pictures_of_a_unit_without_a_shard_are_pending(store: Path) -> None:
    plan(store, Pictures({**LESS.content, b"99": 9}))
    opened = FeatureStore.open(store)
    assert opened.counts.pending == 1
    assert problems(store) == ""
    compact(store)
    assert FeatureStore.open(store).counts.pending == 1


def test_compaction_refuses_a_shard_that_the_plan_does_not_list(store: Path) -> None:
    """Remove the marks (records of finished files) first: stores of earlier versions have no marks."""
    more = Pictures({**LESS.content, b"98": 8, b"99": 9})
    plan(store, more)
    work(store, more)
    shutil.rmtree(store / "written")
    assert problems(store) == ""
    (store / "plan" / "000000" / "000002.h5").unlink()
    shard = store / "shards" / "000000-00000003.h5"
    assert "belongs to no unit of the plan" in problems(store)
    with pytest.raises(DamagedError, match="belongs to no unit of the plan"):
        compact(store)
    data = shard.read_bytes()
    report = repair_store(store, None)
    assert [Path(name).read_bytes() for name in report.aside] == [data]
    assert any("belongs to no unit" in note for note in report.notes)
    assert problems(store) == ""
    compact(store)


def test_files_left_by_a_killed_compaction_are_not_reported_as_damage(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object) -> None:
        raise KeyboardInterrupt

    expected = FeatureStore.open(store).features().tobytes()
    for place in ("featstore.store.manifest.Manifest.write", "featstore.store.compaction.Compaction._clean"):
        with monkeypatch.context() as patch:
            if place.endswith("_clean"):
                from featstore.store.compaction import Compaction

                clean, calls = Compaction._clean, []

                def second(compaction: object, clean=clean, calls=calls) -> None:
                    calls.append(1)
                    if len(calls) == 2:
                        raise KeyboardInterrupt
                    clean(compaction)

                patch.setattr(place, second)
            else:
                patch.setattr(place, die)
            with pytest.raises(KeyboardInterrupt):
                compact(store)
        assert problems(store) == ""
        assert FeatureStore.open(store).features().tobytes() == expected
    compact(store)
    assert problems(store) == ""
    marks = written.marks(store)
    files = {
        written.mark_of(file)
        for folder in ("plan", "tables", "shards", "history")
        for file in (store / folder).rglob("*.h5")
    }
    assert marks == files


def test_repair_replaces_a_missing_table_by_an_empty_one(store: Path) -> None:
    (store / "tables" / "000000" / "000001.h5").unlink()
    report = repair_store(store, None)
    assert len(report.restored) == 1
    assert "given again" in report.notes[0]
    assert problems(store) == ""
    assert set(FeatureStore.open(store).labels.tolist()) == {None}


def test_compaction_restores_missing_marks_of_finished_shards(store: Path) -> None:
    shutil.rmtree(store / "written")
    assert len(FeatureStore.open(store)) == 11
    assert problems(store) == ""
    compact(store)
    for shard in (store / "shards").iterdir():
        assert written.mark_of(shard) in written.marks(store)
    next((store / "shards").iterdir()).unlink()
    with pytest.raises(DamagedError, match="its unit was finished"):
        FeatureStore.open(store)
