"""Extraction from a store: the same pictures with another backbone, and the labels, splits, metadata and history."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from featstore.errors import IdentityError, UsageError
from featstore.stages.compact import compact
from featstore.stages.train import train, train_again
from featstore.store import FeatureStore
from featstore.store.label_history import label_history, undo_label
from featstore.store.labels import set_columns
from featstore.store.manifest import Manifest
from featstore.store.repair.verify import verify_store
from tests.chain import names, write_coloured
from tests.made import extract, tiny_backbone

OTHER = tiny_backbone(5, dimension=6, name="other")


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """Return a store of 18 pictures whose labels were changed twice; the second change was undone."""
    folder = write_coloured(tmp_path / "p", names("train", 6) + names("val", 3))
    extract(folder, tmp_path / "old.store", backbone=tiny_backbone())
    set_columns(tmp_path / "old.store", [b"train/ant/00.png"], {"label": ["bee"], "weight": [3]})
    set_columns(tmp_path / "old.store", [b"train/ant/01.png", b"val/ant/01.png"], {"label": ["bee", "bee"]})
    undo_label(tmp_path / "old.store")
    return tmp_path / "old.store"


def columns(path: Path) -> dict[str, list[object]]:
    """Return the keys and all columns of a store, sorted by key."""
    store = FeatureStore.open(path)
    order = np.argsort(np.array(list(store.keys)))
    return {name: store.column(name)[order].tolist() for name in store.columns} | {"keys": sorted(store.keys)}


def new_store(old: Path, **options: object) -> Path:
    new = old.with_name("new.store")
    report = extract(old, new, **{"backbone": OTHER, **options})
    assert report.pending == 0
    return new


@pytest.mark.parametrize("follow", [False, True])
def test_new_store_has_labels_splits_and_metadata_of_the_old_store(old: Path, follow: bool):
    # Times are stored in whole seconds; wait, so that the labels are older than the new store.
    time.sleep(1.1)
    new = new_store(old, follow=follow)
    assert columns(new) == columns(old)
    assert (len(FeatureStore.open(new)), FeatureStore.open(new).dimension) == (18, 6)
    told = [(each.created, each.origin, each.rows, each.changed, each.columns) for each in label_history(new)]
    assert told == [(each.created, each.origin, each.rows, each.changed, each.columns) for each in label_history(old)]
    for version in range(5):
        then, before = FeatureStore.open(new, at=version), FeatureStore.open(old, at=version)
        assert dict(zip(then.keys, then.labels, strict=True)) == dict(zip(before.keys, before.labels, strict=True))
    assert verify_store(new).problems == []
    assert extract(old, new, backbone=OTHER).new_vectors == 0


@pytest.mark.parametrize("follow", [False, True])
@pytest.mark.parametrize("first", ["compact", "label"])
def test_next_extraction_copies_new_labels_and_pictures_of_the_old_store(old: Path, follow: bool, first: str):
    new = new_store(old, follow=follow)
    if first == "compact":
        compact(old)
        compact(new)
    set_columns(old, [b"val/bee/00.png"], {"label": ["ant"], "note": ["x"]})
    undo_label(old)
    set_columns(old, [b"val/bee/01.png"], {"label": ["ant"]})
    (old.parent / "p/train/ant/02.png").unlink()
    write_coloured(old.parent / "p", ["train/bee/new.png"], seed=7)
    extract(old.parent / "p", old, backbone=tiny_backbone())
    if first == "label":
        compact(old)
    extract(old, new, backbone=OTHER)
    compact(new)
    assert columns(new) == columns(old)
    assert len(label_history(new)) == len(label_history(old))
    assert verify_store(new).problems == []


def test_store_made_with_follow_shows_current_labels_of_its_source_store(old: Path):
    new = new_store(old, follow=True)
    set_columns(old, [b"val/bee/00.png"], {"label": ["ant"]})
    assert columns(new) == columns(old)
    for change in (lambda: set_columns(new, [b"val/bee/00.png"], {"label": ["bee"]}), lambda: undo_label(new)):
        with pytest.raises(UsageError, match=f"has the labels of {old}"):
            change()
    with pytest.raises(UsageError, match="extract these pictures into that store"):
        extract(old.parent / "p", new)
    assert "follow" in Manifest.read(new).requires
    train(new, folds=2, out=new.with_name("a.head"))
    set_columns(old, [b"train/bee/00.png"], {"label": ["ant"]})
    compact(new)
    compact(old)
    assert train_again(new.with_name("a.head")).equal


def test_source_of_labels_is_found_after_both_stores_moved(old: Path, tmp_path: Path):
    new = new_store(old, follow=True)
    before = columns(new)
    (tmp_path / "elsewhere").mkdir()
    moved = [Path(shutil.move(path, tmp_path / "elsewhere" / path.name)) for path in (old, new)]
    assert columns(moved[1]) == before
    away = Path(shutil.move(moved[0], tmp_path / "away.store"))
    assert FeatureStore.open(moved[1]).features().shape == (18, 6)
    with pytest.raises(
        UsageError, match=r"is not there any more; if it moved: featstore extract ITS_PLACE .* --follow"
    ):
        columns(moved[1])
    assert verify_store(moved[1]).problems == []
    extract(away, moved[1], backbone=OTHER, follow=True)
    assert columns(moved[1]) == before


def test_following_a_store_that_itself_follows_a_store_is_refused(old: Path, tmp_path: Path):
    new = new_store(old, follow=True)
    with pytest.raises(UsageError, match="follows .* itself"):
        extract(new, tmp_path / "third.store", backbone=OTHER, follow=True)
    extract(new, tmp_path / "third.store", backbone=OTHER)
    assert columns(tmp_path / "third.store") == columns(old)
    with pytest.raises(UsageError, match="labels of its own, and cannot follow"):
        extract(old, tmp_path / "third.store", follow=True)


def test_extract_notes_name_missing_and_changed_pictures(old: Path):
    (old.parent / "p/train/ant/03.png").unlink()
    write_coloured(old.parent / "p", ["train/ant/04.png"], seed=9)
    report = extract(old, old.with_name("new.store"), backbone=OTHER)
    assert (report.vectors, report.failures, report.reasons) == (17, 1, {"missing": 1})
    assert any("1 picture is not where" in note and "'train/ant/03.png'" in note for note in report.notes)
    assert any("1 picture has changed since" in note and "'train/ant/04.png'" in note for note in report.notes)


def test_extraction_from_a_store_finds_moved_pictures_by_option_root(old: Path):
    shutil.move(old.parent / "p", old.parent / "moved")
    new = new_store(old, root=old.parent / "moved")
    assert columns(new) == columns(old)
    assert FeatureStore.open(new).failures() == []


def test_note_names_the_missing_picture_folder_and_the_option_root(old: Path):
    moved = (old.parent / "p").rename(old.parent / "moved")
    report = extract(old, old.with_name("new.store"), backbone=OTHER)
    assert (report.pending, report.unreached, report.fruitless) == (18, 18, True)
    told = f"18 pictures are pending, because the folder {old.parent / 'p'} is not there; if it was moved, run the same command with --root"
    assert any(note.startswith(told) for note in report.notes)
    report = extract(old, old.with_name("new.store"), backbone=OTHER, root=moved)
    assert (report.pending, report.unreached, report.fruitless) == (0, 0, False)


@pytest.mark.parametrize("sources", [1, 2])
def test_extraction_from_a_store_keeps_vectors_while_the_picture_folder_is_missing(
    old: Path, tmp_path: Path, sources: int
):
    if sources == 2:
        extract(write_coloured(tmp_path / "more", names("test", 2)), old, backbone=tiny_backbone())
    new = new_store(old)
    before = FeatureStore.open(new).counts
    (old.parent / "p").rename(old.parent / "unmounted")
    report = extract(old, new, backbone=OTHER)
    assert (report.change.changed, FeatureStore.open(new).counts) == (0, before)
    assert "18 pictures are not where" in " ".join(report.notes)
    (old.parent / "unmounted").rename(old.parent / "p")
    assert extract(old, new, backbone=OTHER).change.changed == 0


def test_store_of_two_sources_can_be_extracted_with_another_backbone(old: Path, tmp_path: Path):
    more = write_coloured(tmp_path / "more", names("test", 2))
    extract(more, old, backbone=tiny_backbone())
    new = new_store(old)
    assert columns(new) == columns(old)
    assert FeatureStore.open(new).path_of("test/ant/00.png") == more / "test/ant/00.png"
    with pytest.raises(UsageError, match="has pictures of 2 sources, and one root cannot replace them"):
        extract(old, new, root=tmp_path)


def test_extract_from_a_store_refuses_contradictory_options(old: Path, tmp_path: Path):
    with pytest.raises(UsageError, match="is the source itself"):
        extract(old, old)
    with pytest.raises(UsageError, match="takes no layout"):
        extract(old, tmp_path / "new.store", backbone=OTHER, layout="class")
    with pytest.raises(UsageError, match="only a store can be followed"):
        extract(old.parent / "p", tmp_path / "new.store", backbone=OTHER, follow=True)
    with pytest.raises(IdentityError):
        extract(old, new_store(old), backbone=tiny_backbone(1))
