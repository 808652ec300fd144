"""Augmented views: stores beside a store, extracted with it, with one decoding per picture."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import numpy as np
import pytest

from featstore.embed import sharing
from featstore.embed.recipe import Request
from featstore.errors import IdentityError, UsageError
from featstore.stages.extract import extract_together
from featstore.stages.info import info
from featstore.stages.repair import repair
from featstore.stages.verify import verify
from featstore.store import FeatureStore
from featstore.store.view_stores import view_path, view_stores
from tests.made import extract, tiny_backbone, write_pictures

NAMES = [f"{label}/{number:02d}.png" for label in "ab" for number in range(7)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = write_pictures(tmp_path / "p", NAMES)
    (folder / "a/05.png").write_bytes(b"no picture")
    # b/copy.png has the same bytes as a/00.png.
    (folder / "b/copy.png").write_bytes((folder / "a/00.png").read_bytes())
    return folder


def extract_views(source: Path, store: Path, views: int | None, *, augment: str | None = None, **options: object):
    given = {"backbones": [tiny_backbone()], "supervised": False, "batch": 4, **options}
    return extract_together(source, [store], views=views, augment=augment, **given)


def rows(path: Path) -> dict[str, bytes]:
    """Return the bytes of each vector by key."""
    store = FeatureStore.open(path)
    return {key: vector.tobytes() for key, vector in zip(store.keys, store.features(), strict=True)}


def test_view_0_equals_the_plain_store_and_every_view_has_every_picture(tmp_path: Path, folder: Path) -> None:
    reports = extract_views(folder, tmp_path / "s", 3)
    extract(folder, tmp_path / "plain", backbone=tiny_backbone(), batch=4)
    plain, store = FeatureStore.open(tmp_path / "plain"), FeatureStore.open(tmp_path / "s")
    assert store.features().tobytes() == plain.features().tobytes()
    assert store.fingerprint == plain.fingerprint
    assert [(report.images, report.vectors, report.failures) for report in reports] == [(15, 14, 1)] * 3
    assert sorted(view_stores(tmp_path / "s")) == [1, 2]
    for number, path in view_stores(tmp_path / "s").items():
        view = FeatureStore.open(path)
        assert view.identity.augment == {"policy": "standard", "seed": 0, "view": number, "version": 1}
        assert list(view.keys) == list(store.keys)
        assert view.sha256.tobytes() == store.sha256.tobytes()
        assert view.labels.tolist() == store.labels.tolist()
        assert not set(rows(path).values()) & set(rows(tmp_path / "s").values())
        assert view.failures() == store.failures()
        assert not verify(path).problems


def test_extraction_of_views_decodes_each_picture_once(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, load = [], sharing.load_rgb
    monkeypatch.setattr(sharing, "load_rgb", lambda data, **options: seen.append(data) or load(data, **options))
    extract_views(folder, tmp_path / "s", 4)
    assert len(seen) == len(list(folder.rglob("*.png")))


@pytest.mark.slow
@pytest.mark.parametrize("decode", ["exact", "fast"])
@pytest.mark.parametrize("workers", [1, 4])
def test_augmented_views_do_not_depend_on_the_number_of_processes(
    tmp_path: Path, folder: Path, decode: str, workers: int
) -> None:
    extract_views(folder, tmp_path / "s", 2, augment="light", decode=decode)
    for part in (1, 0):
        extract_views(
            folder, tmp_path / "t", 2, augment="light", decode=decode, units=(part, 2), unit_rows=4, workers=workers
        )
    assert rows(view_path(tmp_path / "s", 1)) == rows(view_path(tmp_path / "t", 1))
    extract(
        tmp_path / "s",
        tmp_path / "u",
        backbone=tiny_backbone(),
        decode=decode,
        augment="light",
        view=1,
        workers=workers,
    )
    assert rows(view_path(tmp_path / "s", 1)) == rows(tmp_path / "u")


def test_augmented_pixels_depend_only_on_picture_bytes_view_number_and_seed(tmp_path: Path, folder: Path) -> None:
    extract_views(folder, tmp_path / "s", 2)
    extract_views(folder, tmp_path / "t", 2, augment_seed=7)
    first, second = rows(view_path(tmp_path / "s", 1)), rows(view_path(tmp_path / "t", 1))
    assert first["b/copy.png"] == first["a/00.png"]
    assert not set(first.values()) & set(second.values())


def test_tiles_are_augmented_inside_their_own_box(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "p", ["a/1.png", "a/2.png"])
    extract_views(folder, tmp_path / "s", 2, tiles=10)
    extract(tmp_path / "s", tmp_path / "t", backbone=tiny_backbone(), augment="standard", view=1)
    found = rows(view_path(tmp_path / "s", 1))
    assert found == rows(tmp_path / "t")
    assert len(set(found.values())) == len(found) == len(FeatureStore.open(tmp_path / "s"))


def test_second_extraction_adds_new_views_and_new_pictures(tmp_path: Path, folder: Path) -> None:
    extract_views(folder, tmp_path / "s", 2, augment="light", augment_seed=3)
    before = rows(view_path(tmp_path / "s", 1))
    write_pictures(folder, ["c/new.png"], seed=99)
    # The call names neither policy nor seed, so it uses those of the existing view 1. View 1 is extended too.
    reports = extract_views(folder, tmp_path / "s", 3)
    assert [report.new_vectors for report in reports] == [1, 1, 15]
    after = rows(view_path(tmp_path / "s", 1))
    assert {key: after[key] for key in before} == before
    assert FeatureStore.open(view_path(tmp_path / "s", 2)).identity.augment["seed"] == 3
    assert [report.new_vectors for report in extract_views(folder, tmp_path / "s", 1)] == [0, 0, 0]


def test_extraction_without_option_views_notes_that_views_are_unchanged(tmp_path: Path, folder: Path) -> None:
    extract_views(folder, tmp_path / "s", 3)
    write_pictures(folder, ["c/new.png"], seed=99)
    (report,) = extract_views(folder, tmp_path / "s", None)
    assert "2 augmented views were not extended; add --views 3" in report.notes
    assert len(FeatureStore.open(view_path(tmp_path / "s", 1))) == 14


def test_new_view_of_an_existing_store_uses_its_network_and_settings(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "p", ["a/1.png", "b/2.png"])
    known = {"backbone": "squeezenet1_1", "weights": "random:0", "size": 64, "fit": "pad", "unit_rows": 8}
    extract(folder, tmp_path / "s", **known, dtype="float16", decode="fast", engine="torch")
    extract_together(folder, [tmp_path / "s"], views=2, supervised=False, engine="torch")
    plain, view = (
        FeatureStore.open(path).identity.to_dict() for path in (tmp_path / "s", view_path(tmp_path / "s", 1))
    )
    assert view.pop("augment")["view"] == 1
    assert view == plain


def test_extraction_of_several_views_loads_the_network_once(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded, load = [], Request.load
    monkeypatch.setattr(Request, "load", lambda self, *given: loaded.append(self) or load(self, *given))
    extract_views(folder, tmp_path / "s", 4)
    assert len(loaded) == 1


def test_interrupted_extraction_of_views_resumes_to_the_same_views(tmp_path: Path, folder: Path) -> None:
    stop = threading.Event()
    reports = extract_views(folder, tmp_path / "s", 3, stop=stop, progress=lambda progress: stop.set())
    assert any(report.stopped for report in reports)
    extract_views(folder, tmp_path / "s", 3)
    extract_views(folder, tmp_path / "t", 3)
    for number in (1, 2):
        assert rows(view_path(tmp_path / "s", number)) == rows(view_path(tmp_path / "t", number))


def test_extract_refuses_views_of_another_policy_or_seed(tmp_path: Path, folder: Path) -> None:
    extract_views(folder, tmp_path / "s", 2, augment="light")
    with pytest.raises(IdentityError, match=r"augment\.policy light, not standard"):
        extract_views(folder, tmp_path / "s", 2, augment="standard")
    with pytest.raises(IdentityError, match=r"augment\.seed 0, not 1"):
        extract_views(folder, tmp_path / "s", 2, augment_seed=1)


def test_store_and_its_augmented_views_can_be_used_after_they_were_moved(tmp_path: Path, folder: Path) -> None:
    extract_views(folder, tmp_path / "s", 2)
    before = rows(view_path(tmp_path / "s", 1))
    (tmp_path / "elsewhere").mkdir()
    for name in ("s", "s.views"):
        shutil.move(tmp_path / name, tmp_path / "elsewhere" / name)
    moved = tmp_path / "elsewhere/s"
    view = FeatureStore.open(view_path(moved, 1))
    assert view.labels.tolist() == FeatureStore.open(moved).labels.tolist()
    write_pictures(folder, ["c/new.png"], seed=99)
    assert [report.new_vectors for report in extract_views(folder, moved, 2)] == [1, 1]
    after = rows(view_path(moved, 1))
    assert {key: after[key] for key in before} == before
    assert len(after) == len(before) + 1


def test_extraction_removes_deleted_and_updates_changed_pictures_in_every_view(tmp_path: Path, folder: Path) -> None:
    extract_views(folder, tmp_path / "s", 2)
    before = rows(view_path(tmp_path / "s", 1))
    (folder / "a/01.png").unlink()
    write_pictures(folder, ["a/02.png"], seed=77)
    extract_views(folder, tmp_path / "s", 2)
    after = rows(view_path(tmp_path / "s", 1))
    assert set(before) - set(after) == {"a/01.png"}
    assert {key for key in after if after[key] != before[key]} == {"a/02.png"}


def test_info_lists_the_augmented_views_of_a_store(tmp_path: Path, folder: Path) -> None:
    extract_views(folder, tmp_path / "s", 3, augment="light")
    told = info(tmp_path / "s")["views"]
    assert [(Path(each["path"]).name, each["augment"]["policy"], each["vectors"]) for each in told] == [
        ("1", "light", 14),
        ("2", "light", 14),
    ]


def test_repair_of_a_view_applies_the_same_augmentation(tmp_path: Path, folder: Path) -> None:
    known = {"backbones": ["squeezenet1_1"], "weights": ["random:0"], "engine": "torch", "size": 32}
    extract_views(folder, tmp_path / "s", 2, **known)
    view = view_path(tmp_path / "s", 1)
    before, plain = (FeatureStore.open(path).features().copy() for path in (view, tmp_path / "s"))
    at_row = int(FeatureStore.open(view).index_of(["a/03.png"])[0])
    (shard,) = (view / "shards").glob("*.h5")
    data = bytearray(shard.read_bytes())
    at = bytes(data).index(before[at_row].tobytes())
    data[at : at + 64] = bytes(64)
    shard.write_bytes(data)
    repair(view)
    # Repair may run another engine than the extraction, so the vectors agree within rounding.
    after = FeatureStore.open(view).features()
    assert np.abs(after - before).max() < 1e-3 < np.abs(plain[at_row] - before[at_row]).max()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"views": 2, "follow": True}, "--follow"),
        ({"views": 0}, "views: 0"),
        ({"views": 2, "augment": "heavy"}, "heavy"),
        ({"views": None, "augment": "light"}, "--views N"),
    ],
)
def test_extract_rejects_invalid_view_options(tmp_path: Path, folder: Path, options: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        extract_views(folder, tmp_path / "s", **options)
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("name", ["s.views", "s.views/1"])
def test_extract_refuses_symbolic_links_in_place_of_views(tmp_path: Path, folder: Path, name: str) -> None:
    extract_views(folder, tmp_path / "s", 2)
    shutil.move(tmp_path / name, tmp_path / "elsewhere")
    (tmp_path / name).symlink_to(tmp_path / "elsewhere")
    assert view_stores(tmp_path / "s") == {}
    with pytest.raises(UsageError, match="symbolic link"):
        extract_views(folder, tmp_path / "s", 2)


def test_extract_rejects_views_for_several_stores(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(UsageError, match="one store at a time"):
        extract_together(folder, [tmp_path / "s", tmp_path / "t"], views=2, supervised=False)


@pytest.mark.parametrize(
    "options", [{"augment": "light"}, {"view": 1}, {"augment_seed": 1}, {"augment": "light", "view": 0}]
)
def test_extract_rejects_an_augmentation_without_a_view_number(tmp_path: Path, folder: Path, options: dict) -> None:
    with pytest.raises(UsageError):
        extract(folder, tmp_path / "s", backbone=tiny_backbone(), **options)
