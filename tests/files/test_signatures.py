from __future__ import annotations

import io
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from featstore.decode import DecodeFailure, load_rgb, opening
from featstore.files.signatures import describe


@pytest.mark.parametrize(
    ("data", "reason", "words"),
    [
        (b"", "not-a-picture", "empty"),
        (bytes(5000), "not-a-picture", "zero"),
        (b"<!DOCTYPE html><html>404", "not-a-picture", "HTML"),
        (b"\xef\xbb\xbf\n<html lang=en>", "not-a-picture", "HTML"),
        (b'<?xml version="1.0"?><svg xmlns="x">', "unsupported", "SVG"),
        (b'<?xml version="1.0"?><feed>', "not-a-picture", "XML"),
        (b"%!PS-Adobe-3.0 EPSF", "unsupported", "PostScript"),
        (b"\x00\x00\x00\x18ftypheic\x00\x00", "unsupported", "HEIF"),
        (b"\x00\x00\x00\x18ftypisom\x00\x00", "not-a-picture", "media"),
        (b"version https://git-lfs.github.com/spec/v1\n", "not-a-picture", "git lfs pull"),
        (b"PK\x03\x04\x14\x00", "not-a-picture", "ZIP"),
        (b"just words\n", "not-a-picture", "text"),
        (bytes(range(1, 200)), "not-a-picture", "01 02 03 04 05 06 07 08"),
    ],
)
def test_description_of_file_content_names_the_actual_file_type(data: bytes, reason: str, words: str) -> None:
    assert describe(data)[0] == reason
    assert words in describe(data)[1]


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=64))
def test_description_of_file_content_is_one_line_for_any_bytes(data: bytes) -> None:
    reason, message = describe(data)
    assert reason in ("not-a-picture", "unsupported")
    assert message
    assert "\n" not in message


@pytest.mark.parametrize("orientation", [1, 6])
def test_heic_orientation_is_applied_as_for_jpeg(orientation: int):
    pillow_heif = pytest.importorskip("pillow_heif")
    halves = np.zeros((40, 60, 3), np.uint8)
    halves[:20] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    made, jpeg = io.BytesIO(), io.BytesIO()
    pillow_heif.from_pillow(Image.fromarray(halves)).save(made, quality=95, exif=exif.tobytes())
    Image.fromarray(halves).save(jpeg, "jpeg", quality=95, exif=exif.tobytes())
    found, expected = (np.asarray(load_rgb(one.getvalue())).astype(int) for one in (made, jpeg))
    assert found.shape == expected.shape
    assert np.abs(found - expected).mean() < 8
    with pytest.raises(DecodeFailure) as caught:
        load_rgb(made.getvalue()[:-50])
    assert caught.value.reason == "truncated"


def test_error_for_heic_without_pillow_heif_names_the_extra_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    opening._heif.cache_clear()
    try:
        with pytest.raises(DecodeFailure, match=r"install image-featstore\[heif\]"):
            load_rgb(b"\x00\x00\x00\x18ftypheic" + bytes(100))
    finally:
        opening._heif.cache_clear()
