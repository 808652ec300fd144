from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

from featstore.decode import Preprocessing
from featstore.pages.units import MARK, _crop, write_units_page
from featstore.stages.units import units
from featstore.store import FeatureStore
from tests.chain import make_store, names, write_coloured
from tests.page_reading import read, require_shown
from tests.pages.conftest import EVIL
from tests.stages.test_units import made


def read_uri(uri: str) -> np.ndarray:
    """Return the pixels of a picture that is embedded in a page."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",", 1)[1]))))


def test_units_page_shows_pictures_of_both_ends_and_escapes_names(hostile, tmp_path):
    _, store, trained, _ = hostile
    name = "<script>alert(2)<"
    report = units(store, head=trained.path, class_name=name, count=2, n=24, least=True)
    assert write_units_page(report, tmp_path / "page.html") == []
    page = read(tmp_path / "page.html")
    assert len(page.pictures) == 2 * 2 * 24
    for text in (name, EVIL.replace("\n", "\\n"), f"Unit {report.units[0].unit}", "Most", "Least"):
        assert text in page.text
    how = "active" if report.units[0].class_mean > report.units[0].mean else "inactive"
    assert f"contribution {report.units[0].contribution:+.4g}, by being {how}" in page.text
    one = report.units[0].most[0]
    assert f"{one.value:.4g}, percentile {one.percentile:.2f}" in page.text
    require_shown(tmp_path / "page.html")


def test_units_page_says_where_pictures_are_missing_and_if_none_is_meant(hostile, tmp_path):
    _, store, _, _ = hostile
    notes = write_units_page(units(store, 0, n=2), tmp_path / "page.html", root=tmp_path)
    assert len(notes) == 1
    assert "2 pictures of this page are not below" in notes[0]
    assert "--root says where they are now" in read(tmp_path / "page.html").text
    write_units_page(units(store, 0, where="label == 'wasp'"), tmp_path / "none.html")
    text = read(tmp_path / "none.html").text
    assert "no picture meets the condition label == 'wasp'" in text
    assert "No picture is shown." in text


def test_units_page_shows_the_place_of_the_maximum_of_a_map(tmp_path):
    folder = write_coloured(tmp_path / "p", names("", 3), size=(60, 40))
    for path in folder.rglob("*.png"):
        # One bright spot in a dark picture, which the random filters react to.
        pixels = np.zeros((40, 60, 3), np.uint8)
        pixels[24:30, 36:42] = 255
        Image.fromarray(pixels).save(path)
    store = make_store(folder, tmp_path / "s", layer="0", pool="none", fit="squash")
    maps = np.asarray(FeatureStore.open(store).features()).reshape(6, 6, 7, 7)
    unit = int(np.argmax(maps.max(axis=(0, 2, 3)) - maps.min(axis=(0, 2, 3))))
    for path in list(folder.rglob("00.png")):
        Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(path)
    make_store(folder, store, layer="0", pool="none", fit="squash")
    report = units(store, unit, n=4)
    assert report.grid == (7, 7)
    write_units_page(report, tmp_path / "page.html")
    page = read(tmp_path / "page.html")
    assert sorted(page.pictures) == sorted([(60, 40)] * 4 + page.pictures[::2])
    assert all(width in (9, 10) and height in (6, 7) for width, height in page.pictures[::2])
    assert "its part at the maximum of the 7 x 7 map" in page.text
    assert "stride 2.28571" in page.text


def test_crop_is_the_part_under_a_cell_and_the_picture_gets_its_outline():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (70, 140, 3), np.uint8))
    before = np.asarray(image)
    shown = read_uri(_crop(image, (3, 4), (7, 7), Preprocessing(14, 14, fit="squash")).uri)
    assert (shown == before[30:40, 80:100]).all()
    outlined = (np.asarray(image) != before).any(axis=2)
    assert not outlined[30:40, 80:100].any()
    assert (np.asarray(image)[29, 79:101] == MARK).all()
    assert outlined.sum() <= 2 * (12 + 22)
    margin = _crop(image, (0, 4), (7, 7), Preprocessing(14, 14, fit="pad"))
    assert (margin.uri, margin.note) == (None, "in the margin")


def test_page_of_maps_with_unknown_preprocessing_shows_whole_pictures(tmp_path):
    # The pictures of this store do not exist, and its preprocessing lacks fields.
    store = made(tmp_path / "s", dimension=12, pool="none", shape=(2, 3, 2), layer="output of layer3")
    write_units_page(units(store.path, 1), tmp_path / "page.html")
    assert "where a cell of the map lies in them is not known" in read(tmp_path / "page.html").text
