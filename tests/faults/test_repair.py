"""Repair restores damaged data or moves the damaged file to another folder, and reports every loss.

A shard is a file with vectors; the plan is the file that lists the pictures of a store.
"""

from __future__ import annotations

import dataclasses
import random
import shutil
from pathlib import Path

import pytest

from featstore.errors import DamagedError, FeatstoreError, IdentityError
from featstore.files import sealed
from featstore.stages.repair import repair
from featstore.stages.verify import verify
from featstore.store import FeatureStore
from tests.faults.building import copy_of
from tests.made import extract, tiny_backbone


@pytest.fixture
def store(master: Path, tmp_path: Path) -> Path:
    return copy_of(master / "store", tmp_path / "store")


def contents(path: Path) -> dict[str, object]:
    store = FeatureStore.open(path)
    return {
        "keys": list(store.keys),
        "vectors": store.features().tobytes(),
        "failures": store.failures(),
        "labels": list(store.labels),
        "quality": list(store.column("quality")) if "quality" in store.columns else None,
    }


def overwrite(file: Path, array: str, at: int = 0, data: bytes = b"\x5a\xa5\x5a") -> None:
    """Overwrite some bytes of an array in a file of the store, so that more than one bit is damaged."""
    offset = sealed.read_header(file)["arrays"][array]["offset"] + at
    with open(file, "r+b") as handle:
        handle.seek(offset)
        handle.write(data)


def shard(store: Path, number: int = 0) -> Path:
    return sorted((store / "shards").glob("*.h5"))[number]


def test_repair_leaves_an_intact_store_unchanged(store: Path) -> None:
    before = {file: file.read_bytes() for file in store.rglob("*.h5")}
    report = repair(store)
    assert not report.restored
    assert not report.aside
    assert {file: file.read_bytes() for file in store.rglob("*.h5")} == before


def test_single_flipped_bits_are_restored_exactly(store: Path) -> None:
    draw = random.Random(3)
    for file in [store / "featstore.json", *sorted(store.rglob("*.h5"))]:
        before = file.read_bytes()
        names = ["meta"] if file.suffix == ".h5" else []
        offsets = [sealed.read_header(file)["arrays"][name]["offset"] + 3 for name in names]
        for at in [draw.randrange(300), *offsets]:
            damaged = bytearray(before)
            damaged[at] ^= 1 << draw.randrange(8)
            file.write_bytes(damaged)
            report = repair(store)
            assert report.restored == [str(file)]
            assert file.read_bytes() == before
            assert Path(report.aside[0]).read_bytes() == damaged
    assert not verify(store).problems


def test_damaged_vectors_are_restored_bit_identically(store: Path, master: Path) -> None:
    before = contents(store)
    overwrite(shard(store), "features", 33)
    overwrite(shard(store, 1), "features", 2 * 32)
    problems = verify(store).problems
    assert [problem.images for problem in problems] == [1, 1]
    assert problems[0].keys == ["cat/01.png"]
    report = repair(store, backbone=tiny_backbone())
    assert (report.remade, report.failed, report.pending) == (2, 0, [])
    assert contents(store) == before
    assert not verify(store).problems


def test_missing_or_changed_pictures_become_failures_that_can_be_retried(master: Path, tmp_path: Path) -> None:
    folder = tmp_path / "all"
    shutil.copytree(master / "pictures", folder / "pictures")
    extract(folder / "pictures", folder / "store", backbone=tiny_backbone(), batch=4, unit_rows=6)
    store = folder / "store"
    before = contents(store)
    overwrite(shard(store), "features", 0)
    overwrite(shard(store), "features", 32)
    (folder / "pictures" / "cat" / "00.png").unlink()
    shutil.copyfile(folder / "pictures" / "dog" / "00.png", folder / "pictures" / "cat" / "01.png")
    report = repair(store, backbone=tiny_backbone())
    assert (report.remade, report.failed) == (0, 2)
    opened = FeatureStore.open(store)
    assert opened.counts.images == opened.counts.vectors + opened.counts.failures == 17
    messages = {key: failure.message for key, failure in opened.failures() if failure.reason == "damaged"}
    assert "No such file" in messages["cat/00.png"]
    assert "another one" in messages["cat/01.png"]
    shutil.copytree(master / "pictures", folder / "pictures", dirs_exist_ok=True)
    extract(folder / "pictures", store, backbone=tiny_backbone(), batch=4, retry_failures=True)
    after = contents(store)
    assert sorted(after["keys"]) == sorted(before["keys"])  # type: ignore[call-overload]
    assert not verify(store).problems


@pytest.mark.parametrize("damage", ["header", "sha256", "truncated"])
def test_repair_extracts_pictures_of_an_unverifiable_shard_again(store: Path, damage: str) -> None:
    before, file = contents(store), shard(store)
    if damage == "header":
        file.write_bytes(b"\xff" * 64 + file.read_bytes()[64:])
    elif damage == "truncated":
        file.write_bytes(file.read_bytes()[:-100])
    else:
        overwrite(file, "sha256")
    report = repair(store, backbone=tiny_backbone())
    assert report.remade + report.failed == 6
    assert len(report.aside) == 1
    assert contents(store) == before
    assert not verify(store).problems


def test_option_set_aside_turns_pictures_of_a_damaged_shard_into_failures(store: Path, tmp_path: Path) -> None:
    shard(store).write_bytes(b"gone")
    report = repair(store, set_aside=True)
    assert report.failed == 6
    opened = FeatureStore.open(store)
    assert (opened.counts.vectors, opened.counts.failures, opened.counts.pending) == (10, 7, 0)
    assert not verify(store).problems
    assert Path(report.aside[0]).read_bytes() == b"gone"


@pytest.mark.parametrize("array", ["keys/bytes", "view", "row_xxh3", "meta"])
def test_repair_restores_a_damaged_array_of_a_shard_without_pictures(store: Path, array: str) -> None:
    before = contents(store)
    overwrite(shard(store), array)
    report = repair(store, set_aside=True)
    assert report.restored == [str(shard(store))]
    assert (report.remade, report.failed) == (0, 0)
    assert contents(store) == before
    assert not verify(store).problems


def test_manifest_is_rebuilt_from_the_shards(store: Path) -> None:
    before = contents(store)
    old = FeatureStore.open(store)._manifest
    (store / "featstore.json").write_text("{}")
    with pytest.raises(DamagedError):
        FeatureStore.open(store)
    repair(store)
    new = FeatureStore.open(store)._manifest
    # The rebuilt manifest gets the creation time of the first plan, which may be later than that of the old manifest.
    assert new.created[:10] == old.created[:10] or new.created > old.created
    assert dataclasses.replace(new, created=old.created) == old
    assert contents(store) == before


def test_damaged_plan_is_rebuilt_from_the_shards(store: Path, master: Path) -> None:
    before = contents(store)
    plan = next((store / "plan").rglob("*.h5"))
    for array in ("lookup/hi", "keys/bytes", "size", "lookup/row"):
        overwrite(plan, array)
        report = repair(store)
        assert report.restored == [str(plan)]
        assert contents(store) == before
        assert not verify(store).problems
    assert "rehash" in repair(copy_with(store, plan, "mtime")).notes[0]
    change = extract(master / "pictures", store, backbone=tiny_backbone(), rehash=True).change
    assert (change.added, change.changed, change.removed) == (0, 0, 0)


def copy_with(store: Path, plan: Path, array: str) -> Path:
    overwrite(plan, array)
    return store


def test_repair_reports_a_damaged_plan_that_cannot_be_rebuilt_and_changes_no_file(store: Path) -> None:
    plan = next((store / "plan").rglob("*.h5"))
    plan.write_bytes(plan.read_bytes()[:-200])
    before = {file: file.read_bytes() for file in store.rglob("*") if file.is_file()}
    with pytest.raises(DamagedError, match=r"plan cannot be made anew.*shards and their vectors are untouched"):
        repair(store)
    assert {
        file: file.read_bytes() for file in store.rglob("*") if file.is_file() and "work" not in file.parts
    } == before


def test_repair_keeps_intact_columns_of_a_damaged_table(store: Path, master: Path) -> None:
    before = contents(store)
    source, user = sorted((store / "tables").rglob("*.h5"))
    overwrite(user, "columns/0/values")
    report = repair(store)
    assert "label again" in report.notes[0]
    assert contents(store) == {**before, "quality": None}
    overwrite(source, "columns/0/values", data=b"\0\0\0\7")
    report = repair(store)
    assert "extract again" in report.notes[0]
    assert set(FeatureStore.open(store).labels) == {None}
    extract(master / "pictures", store, backbone=tiny_backbone())
    assert contents(store) == {**before, "quality": None}
    user.write_bytes(b"no table")
    repair(store)
    assert not verify(store).problems


def test_repair_rejects_another_backbone_and_a_concurrent_writer(store: Path) -> None:
    from featstore.store.claims import Claims

    overwrite(shard(store), "features")
    with pytest.raises(IdentityError):
        repair(store, backbone=tiny_backbone(seed=1))
    with Claims(store) as claims:
        claims.join()
        # This process has registered as a writer of the store, so repair must refuse to write too.
        with pytest.raises(FeatstoreError, match="is being written by"):
            repair(store)
    assert len(verify(store).problems) == 1
    assert not (store / "damaged").exists()
