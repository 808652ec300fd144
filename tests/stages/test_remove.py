"""featstore.remove: no search or prediction returns removed pictures, and later extractions do not add them again."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from featstore.errors import UsageError
from featstore.stages.compact import compact
from featstore.stages.remove import keys_in, remove, restore
from featstore.store import FeatureStore
from featstore.store.labels import set_columns
from featstore.store.manifest import Manifest
from featstore.store.repair.verify import verify_store
from tests.chain import make_store, names, write_coloured
from tests.made import extract, tiny_backbone
from tests.store.building import Pictures, build, plan, work

KEYS = [f"{letter}/{number}".encode() for letter in "ab" for number in range(4)]


@pytest.fixture
def source() -> Pictures:
    return Pictures(dict(zip(KEYS, range(8), strict=True)), {key: key[:1].decode() for key in KEYS})


@pytest.fixture
def store(tmp_path: Path, source: Pictures) -> Path:
    """Return a store of eight pictures, a/0 to b/3, labelled a and b."""
    build(tmp_path / "s", source)
    return tmp_path / "s"


def test_removal_does_not_change_stores_already_open(store: Path):
    before = FeatureStore.open(store)
    report = remove(store, ["a/1", b"a/1"], where="key == 'b/2'")
    assert (report.removed, report.vectors, report.keys, report.denied) == (2, 2, ["'a/1'", "'b/2'"], 2)
    now = FeatureStore.open(store)
    assert list(now.keys) == ["a/0", "a/2", "a/3", "b/0", "b/1", "b/3"]
    assert now.labels.tolist() == list("aaabbb")
    assert now.counts.images == 6
    assert len(before.features()) == 8 == len(before.labels)
    assert len(FeatureStore.open(store, at=(0, 1))) == 8


@pytest.mark.parametrize("compacted", [False, True])
def test_extract_omits_removed_pictures_until_they_are_restored(store: Path, source: Pictures, compacted: bool):
    remove(store, ["a/1", "b/2"])
    if compacted:
        compact(store)
    source.content[b"a/1"] = 99
    change = plan(store, source)
    assert (change.listed, change.denied, change.added, change.unchanged) == (8, 2, 0, 6)
    assert restore(store, ["a/1"]) == 1
    assert (plan(store, source).added, plan(store, source).denied) == (1, 1)
    work(store, source)
    assert sorted(set(map(bytes.decode, KEYS)) - set(FeatureStore.open(store).keys)) == ["b/2"]
    assert verify_store(store).problems == []


def test_new_copy_of_a_removed_picture_becomes_a_failure(tmp_path: Path):
    folder = write_coloured(tmp_path / "p", names("", 2))
    store = make_store(folder, tmp_path / "s")
    shutil.copy(folder / "ant/00.png", folder / "ant/copy.png")
    assert remove(store, ["ant/00.png"]).copies == 0
    make_store(folder, store)
    (failure,) = FeatureStore.open(store).failures()
    assert (failure[0], failure[1].reason) == ("ant/copy.png", "removed")
    restore(store, ["ant/00.png"])
    extract(folder, store, backbone=tiny_backbone(), retry_failures=True)
    assert sorted(FeatureStore.open(store).keys) == [
        "ant/00.png",
        "ant/01.png",
        "ant/copy.png",
        "bee/00.png",
        "bee/01.png",
    ]


def test_remove_reports_the_copies_of_the_removed_picture(tmp_path: Path):
    folder = write_coloured(tmp_path / "p", names("", 2))
    shutil.copy(folder / "ant/00.png", folder / "ant/copy.png")
    report = remove(make_store(folder, tmp_path / "s"), ["ant/00.png"])
    assert (report.copies, report.copied) == (1, ["'ant/copy.png'"])


def test_error_for_unknown_keys_suggests_similar_keys_and_nothing_is_removed(store: Path):
    with pytest.raises(UsageError, match=r"1 of 2 keys is not in the store \(the first: 'a/7'\); nothing was removed"):
        remove(store, ["a/0", "a/7"])
    with pytest.raises(UsageError, match="did you mean 'a/2'"):
        remove(store, ["x/a/2"])
    assert len(FeatureStore.open(store)) == 8
    assert Manifest.read(store).requires == ()


def test_second_removal_of_the_same_picture_gives_no_error(store: Path):
    remove(store, ["a/1"])
    report = remove(store, ["a/1", "a/2"])
    assert (report.removed, report.before) == (1, 1)
    with pytest.raises(UsageError, match="1 key was not removed from it"):
        restore(store, ["a/1", "b/0"])


def test_dry_run_of_remove_changes_nothing(store: Path):
    assert remove(store, where="label == 'a'", dry_run=True).removed == 4
    assert len(FeatureStore.open(store)) == 8
    assert Manifest.read(store).requires == ()


def test_failed_and_pending_pictures_can_be_removed(store: Path, source: Pictures):
    source.content |= {b"b/bad": -1, b"c/new": 1, b"c/other": 2}
    plan(store, source)
    work(store, source)
    source.content[b"d/new"] = 3
    plan(store, source)
    report = remove(store, ["b/bad", "d/new"])
    assert (report.removed, report.vectors) == (2, 0)
    work(store, source)
    opened = FeatureStore.open(store)
    assert (len(opened), opened.failures(), opened.counts.pending) == (10, [], 0)


def test_label_for_a_removed_picture_counts_as_unknown(store: Path):
    remove(store, ["a/1"])
    assert set_columns(store, [b"a/0", b"a/1"], {"label": ["x", "y"]}).unknown == 1


def test_next_extraction_removes_pictures_removed_from_the_source_store(tmp_path: Path):
    folder = write_coloured(tmp_path / "p", names("", 3))
    old = make_store(folder, tmp_path / "old")
    new = make_store(old, tmp_path / "new", backbone=tiny_backbone(3))
    remove(old, ["ant/00.png"])
    make_store(old, new, backbone=tiny_backbone(3))
    assert len(FeatureStore.open(new)) == 5
    remove(new, ["ant/01.png"])
    set_columns(old, [b"ant/01.png", b"ant/02.png"], {"label": ["seen", "seen"]})
    make_store(old, new, backbone=tiny_backbone(3))
    assert "ant/01.png" not in FeatureStore.open(new).keys
    assert [key for table in FeatureStore.open(new)._tables.own[-1:] for key in table.keys] == [b"ant/02.png"]


def test_keys_of_pictures_to_remove_are_read_from_a_file(tmp_path: Path):
    (tmp_path / "keys.txt").write_bytes(b"./a/1\nb b/2\n\n")
    assert keys_in(tmp_path / "keys.txt") == [b"a/1", b"b b/2"]
    (tmp_path / "none").write_bytes(b"\n")
    for name, words in (("none", "names no key"), ("nothing", "no such file")):
        with pytest.raises(UsageError, match=words):
            keys_in(tmp_path / name)


def test_removal_marks_the_store_as_unreadable_for_older_versions(store: Path):
    remove(store, ["a/1"])
    assert Manifest.read(store).requires == ("denylist",)
    assert np.array_equal(FeatureStore.open(store).ids, [0, 2, 3, 4, 5, 6, 7])
