"""Regions read from large TIFF files equal crops of the whole picture; damage elsewhere in the file has no effect."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
import pytest

from featstore.decode import DecodeFailure, load_rgb, tiff
from featstore.decode.tiff import open_parts
from featstore.sources.reading import open_picture_file

tifffile = pytest.importorskip("tifffile")
RANDOM = np.random.default_rng(0)
SIZE = (90, 70)
BOXES = [(0, 0, 90, 70), (0, 0, 16, 16), (10, 20, 60, 40), (89, 69, 90, 70), (31, 0, 33, 70)]


@pytest.fixture(autouse=True)
def _small(monkeypatch) -> None:
    monkeypatch.setattr(tiff, "STREAMED_PIXELS", 1)


def write(path: Path, pixels: np.ndarray, **options: object) -> bytes:
    tifffile.imwrite(path, pixels, **options)
    return path.read_bytes()


def pixels(samples: int, dtype: str = "uint8") -> np.ndarray:
    shape = (SIZE[1], SIZE[0]) if samples == 1 else (SIZE[1], SIZE[0], samples)
    # Every row is repeated five times, so that the compression has an effect.
    return np.repeat(RANDOM.integers(0, np.iinfo(dtype).max, shape, dtype), 5, axis=0)[: SIZE[1]]


@pytest.mark.parametrize("layout", [{"tile": (16, 32)}, {"rowsperstrip": 7}, {"rowsperstrip": 70}])
@pytest.mark.parametrize(
    ("samples", "dtype", "light"), [(1, "uint8", "minisblack"), (3, "uint8", "rgb"), (3, "uint16", "rgb")]
)
@pytest.mark.parametrize("options", [{}, {"bigtiff": True}, {"compression": "zlib", "predictor": True}])
def test_tiff_regions_equal_crops_of_the_whole_picture(tmp_path, layout, samples, dtype, light, options):
    data = write(tmp_path / "a.tif", pixels(samples, dtype), photometric=light, **layout, **options)
    whole, parts = load_rgb(data), open_parts(io.BytesIO(data), 1 << 20)
    assert parts is not None
    assert parts.size == whole.size == SIZE
    for box in BOXES:
        np.testing.assert_array_equal(np.asarray(parts.crop(box)), np.asarray(whole.crop(box)))


def test_tiff_regions_are_read_from_an_open_file(tmp_path):
    data = write(tmp_path / "a.tif", pixels(3), photometric="rgb", tile=(16, 16))
    with open_picture_file(tmp_path, b"a.tif") as file:
        np.testing.assert_array_equal(open_parts(file, 1 << 20).crop(BOXES[2]), load_rgb(data).crop(BOXES[2]))


@pytest.mark.parametrize("compression", ["lzw", "packbits", "zstd"])
def test_tiff_regions_are_exact_for_every_compression(tmp_path, compression):
    pytest.importorskip("imagecodecs")
    data = write(tmp_path / "a.tif", pixels(3), photometric="rgb", tile=(16, 16), compression=compression)
    parts = open_parts(io.BytesIO(data), 1 << 20)
    for box in BOXES:
        np.testing.assert_array_equal(np.asarray(parts.crop(box)), np.asarray(load_rgb(data).crop(box)))


def test_transparent_pixels_of_tiff_regions_are_composited_over_white(tmp_path):
    data = write(tmp_path / "a.tif", pixels(4), photometric="rgb", extrasamples=["unassalpha"], tile=(16, 16))
    parts = open_parts(io.BytesIO(data), 1 << 20)
    np.testing.assert_array_equal(np.asarray(parts.crop(BOXES[2])), np.asarray(load_rgb(data).crop(BOXES[2])))


@pytest.mark.parametrize(
    ("samples", "options"),
    [
        (1, {"photometric": "miniswhite"}),
        (3, {"photometric": "rgb", "planarconfig": "separate"}),
        (3, {"photometric": "rgb", "extratags": [(274, 3, 1, 6, True)]}),
        (3, {"photometric": "rgb", "compression": "jpeg", "tile": (16, 16)}),
    ],
)
def test_unusual_tiff_files_are_not_read_in_regions(tmp_path, samples, options):
    if "compression" in options:
        pytest.importorskip("imagecodecs")
    values = pixels(samples)
    values = np.moveaxis(values, -1, 0) if "planarconfig" in options else values
    assert open_parts(io.BytesIO(write(tmp_path / "a.tif", values, **options)), 1 << 20) is None


def test_small_tiff_files_and_other_formats_are_not_read_in_regions(tmp_path, monkeypatch):
    assert open_parts(io.BytesIO(b"\x89PNG"), 1 << 20) is None
    monkeypatch.setattr(tiff, "STREAMED_PIXELS", 90 * 70)
    assert open_parts(io.BytesIO(write(tmp_path / "a.tif", pixels(1))), 1 << 20) is None


def test_damaged_tiff_segment_affects_only_regions_that_contain_it(tmp_path):
    data = bytearray(write(tmp_path / "a.tif", pixels(3), photometric="rgb", tile=(16, 16), compression="zlib"))
    with tifffile.TiffFile(io.BytesIO(bytes(data))) as file:
        start, count = file.pages[0].dataoffsets[1], file.pages[0].databytecounts[1]
        last = file.pages[0].dataoffsets[-1]
    data[start : start + count] = bytes(count)
    parts = open_parts(io.BytesIO(bytes(data[: last + 1])), 1 << 20)
    assert parts.crop((0, 0, 16, 16)).size == (16, 16)
    for box, reason in (((10, 0, 20, 9), "corrupt"), ((81, 65, 90, 70), "truncated")):
        with pytest.raises(DecodeFailure) as caught:
            parts.crop(box)
        assert caught.value.reason == reason


def test_tiff_regions_and_segments_have_size_limits(tmp_path, monkeypatch):
    data = write(tmp_path / "a.tif", pixels(3), photometric="rgb", tile=(16, 16))
    with pytest.raises(DecodeFailure, match="too-many-pixels"):
        open_parts(io.BytesIO(data), 100).crop((0, 0, 11, 10))
    monkeypatch.setattr(tiff, "_SEGMENT_BYTES", 16 * 16 * 3 - 1)
    with pytest.raises(DecodeFailure, match="too-many-pixels"):
        open_parts(io.BytesIO(data), 1 << 20)


def test_tiff_without_a_readable_page_is_not_read_in_regions():
    assert open_parts(io.BytesIO(b"II*\0" + bytes(100)), 1 << 20) is None


def test_large_tiff_without_tifffile_fails_with_the_remedy(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tifffile", None)
    file = io.BytesIO(write(tmp_path / "a.tif", pixels(1)))
    assert open_parts(file, 90 * 70) is None
    file.seek(0)
    with pytest.raises(DecodeFailure, match=r"install image-featstore\[tiff\] to read it in parts"):
        open_parts(file, 90 * 70 - 1)


def test_cache_of_tiff_segments_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(tiff, "CACHED_BYTES", 3 * 16 * 16 * 3)
    parts = open_parts(io.BytesIO(write(tmp_path / "a.tif", pixels(3), photometric="rgb", tile=(16, 16))), 1 << 20)
    parts.crop((0, 0, *SIZE))
    assert len(parts._kept) == 3
