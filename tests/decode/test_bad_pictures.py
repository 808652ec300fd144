"""Damaged picture files: decoding gives pixels or a DecodeFailure with a clear message, and no other exception."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from featstore.decode import DecodeFailure, Preprocessing, decode
from tests.decode.pictures import encode, photograph

SMALL = Preprocessing(36, 32)
REASONS = {"truncated", "not-a-picture", "too-many-pixels", "unsupported", "corrupt", "out-of-memory"}
KINDS = ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "JPEG2000", "AVIF"]
WHOLE = {kind: encode(photograph(1, 60, 44), kind) for kind in KINDS}
WHOLE["progressive JPEG"] = encode(photograph(1, 60, 44), "JPEG", progressive=True)
WHOLE["deflated TIFF"] = encode(photograph(1, 60, 44), "TIFF", compression="tiff_deflate")
WHOLE["interlaced-like GIF"] = encode(photograph(1, 60, 44).convert("P"), "GIF", interlace=1)


def attempt(data: bytes) -> NDArray[np.uint8] | DecodeFailure:
    """Decode ``data``; return the pixels or the DecodeFailure. Other exceptions propagate."""
    try:
        return decode(data, SMALL)
    except DecodeFailure as failure:
        return failure


def outcome(data: bytes) -> str:
    """Decode ``data`` and check the result; return "pixels", or the reason of the DecodeFailure."""
    result = attempt(data)
    if isinstance(result, DecodeFailure):
        assert result.reason in REASONS
        assert result.message
        assert "\n" not in str(result)
        return result.reason
    assert result.shape == (32, 32, 3)
    return "pixels"


@pytest.mark.parametrize("kind", sorted(WHOLE))
def test_truncated_pictures_give_a_decode_failure(kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    data = WHOLE[kind]
    whole = decode(data, SMALL)
    for length in range(0, len(data), max(1, len(data) // 200)):
        if outcome(data[:length]) == "pixels":
            # Decoding may succeed only if the missing bytes contain no pixel data.
            np.testing.assert_array_equal(attempt(data[:length]), whole, err_msg=f"cut at {length} of {len(data)}")
    assert capfd.readouterr() == ("", "")


@settings(deadline=None, max_examples=150)
@given(
    kind=st.sampled_from(sorted(WHOLE)),
    changes=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=8),
    head=st.booleans(),
)
def test_pictures_with_changed_bytes_give_pixels_or_a_decode_failure(
    kind: str, changes: list[tuple[int, int]], head: bool
) -> None:
    data = bytearray(WHOLE[kind])
    for position, value in changes:
        data[position % (min(len(data), 64) if head else len(data))] = value
    outcome(bytes(data))


@settings(deadline=None, max_examples=100)
@given(st.binary(max_size=300))
def test_decoding_any_bytes_gives_pixels_or_a_decode_failure(data: bytes) -> None:
    outcome(data)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not-a-picture"),
        (bytes(100), "not-a-picture"),
        (b"<!DOCTYPE html><title>404 Not Found</title>", "not-a-picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "unsupported"),
        (b"\xff\xd8\xff\xe0", "not-a-picture"),
        (WHOLE["JPEG"][:40], "truncated"),
        (WHOLE["JPEG"][: len(WHOLE["JPEG"]) // 2], "truncated"),
        (WHOLE["PNG"][: len(WHOLE["PNG"]) // 2], "truncated"),
        (WHOLE["PNG"][:29] + b"CRC?" + WHOLE["PNG"][33:], "corrupt"),
    ],
)
def test_decode_failure_reason_names_the_kind_of_damage(data: bytes, reason: str) -> None:
    assert outcome(data) == reason


def test_postscript_files_are_refused_as_unsupported(tmp_path: object) -> None:
    assert outcome(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 72 72\n%%EndComments\nquit\n") == "unsupported"


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0", b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\x7f", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff"]
)
def test_corrupt_exif_block_is_ignored(exif: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    image = photograph(2, 60, 44)
    plain = decode(encode(image, "JPEG"), SMALL)
    np.testing.assert_array_equal(decode(encode(image, "JPEG", exif=exif), SMALL), plain)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_corrupt_icc_profile_is_ignored(kind: str) -> None:
    image = photograph(2, 60, 44)
    plain = decode(encode(image, kind), SMALL)
    np.testing.assert_array_equal(decode(encode(image, kind, icc_profile=b"\0garbage" * 20), SMALL), plain)


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, *chunks: bytes) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + chunk(b"IEND", b"")


def test_png_without_pixel_data_is_reported_as_corrupt() -> None:
    assert outcome(png(100, 100)) == "corrupt"


def test_png_with_a_compressed_text_bomb_is_decoded_with_little_memory() -> None:
    bomb = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(50_000_000)))
    data = png(8, 8, bomb, chunk(b"IDAT", zlib.compress(bytes(9 * 8))))
    assert outcome(data) in ("pixels", "corrupt")


def test_png_without_its_palette_gives_pixels_or_a_decode_failure() -> None:
    image = Image.fromarray(np.arange(16, dtype=np.uint8).reshape(4, 4)).convert("P")
    data = encode(image)
    start = data.index(b"PLTE") - 4
    length = struct.unpack(">I", data[start : start + 4])[0]
    assert outcome(data[:start] + data[start + 12 + length :]) in ("pixels", "corrupt")
