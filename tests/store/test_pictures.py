from __future__ import annotations

import tarfile

import numpy as np
import pytest
from PIL import Image

from featstore.store import FeatureStore
from featstore.store.pictures import NoPicture, Pictures
from tests.chain import make_store, names, write_coloured


def same(picture, path):
    return np.array_equal(np.asarray(picture), np.asarray(Image.open(path)))


def test_pictures_of_a_store_are_returned_by_key(chain):
    store = FeatureStore.open(chain.store)
    pictures = Pictures(store)
    for key in store.keys:
        assert same(pictures(key), chain.folder / key)
    with pytest.raises(NoPicture, match="unknown-key"):
        pictures("no such key")


def test_pictures_of_a_store_are_found_after_files_were_changed_and_moved(tmp_path):
    folder = write_coloured(tmp_path / "p", names("", 3))
    store = make_store(folder, tmp_path / "s", unit_rows=2)
    write_coloured(folder, ["ant/00.png", "bee/44.png"], seed=8, size=(30, 30))
    make_store(folder, store, unit_rows=2)
    opened = FeatureStore.open(store)
    for key in opened.keys:
        assert same(Pictures(opened)(key), folder / key)
    folder.rename(tmp_path / "elsewhere")
    with pytest.raises(NoPicture) as failure:
        Pictures(opened)("ant/00.png")
    assert failure.value.reason == "missing"
    gone = Pictures(opened)
    assert gone.notes() == []
    for key in opened.keys[:2]:
        with pytest.raises(NoPicture):
            gone(key)
    assert gone.notes() == ["2 pictures of this page are not where the store says: --root says where they are now"]
    for pictures in (Pictures(opened, tmp_path / "elsewhere"), Pictures(None, tmp_path / "elsewhere")):
        assert same(pictures("bee/44.png"), tmp_path / "elsewhere/bee/44.png")
        assert pictures.notes() == []
    with pytest.raises(NoPicture, match="say with root"):
        Pictures(None)("ant/00.png")


def test_pictures_of_a_store_are_found_in_an_archive(tmp_path):
    folder = write_coloured(tmp_path / "p", names("", 2))
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.add(folder / "ant/00.png", "x/ant.png")
        archive.add(folder / "bee/01.png", "x/bee.png")
    store = FeatureStore.open(make_store(tmp_path / "a.tar", tmp_path / "s"))
    pictures = {key.rsplit("/", 1)[-1]: Pictures(store)(key) for key in store.keys}
    assert same(pictures["ant.png"], folder / "ant/00.png")
    assert same(pictures["bee.png"], folder / "bee/01.png")


def test_key_that_leads_out_of_the_root_is_not_read(tmp_path):
    write_coloured(tmp_path, ["ant/secret.png"])
    with pytest.raises(NoPicture) as failure:
        Pictures(None, tmp_path / "ant/deeper")("../secret.png")
    assert failure.value.reason == "outside-root"


def test_changed_picture_is_not_shown_without_an_explicit_root(tmp_path):
    folder = write_coloured(tmp_path / "p", names("", 2))
    store = FeatureStore.open(make_store(folder, tmp_path / "s"))
    secret = write_coloured(tmp_path / "secret", ["ant/00.png"], seed=5)
    (secret / "ant/00.png").replace(folder / "ant/00.png")
    pictures = Pictures(store)
    with pytest.raises(NoPicture, match="not those that the store knows") as failure:
        pictures("ant/00.png")
    assert failure.value.reason == "changed"
    assert same(pictures("bee/00.png"), folder / "bee/00.png")
    assert pictures.notes() == ["1 picture of this page is not where the store says: --root says where they are now"]
    assert same(Pictures(store, folder)("ant/00.png"), folder / "ant/00.png")
