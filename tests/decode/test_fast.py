from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from featstore.decode import DECODER, DECODERS, DecodeFailure, Preprocessing, decode, fast, open_decoder
from featstore.errors import UsageError
from tests.decode.pictures import encode, photograph
from tests.decode.test_bad_pictures import WHOLE


def levels_apart(data: bytes, preprocessing: Preprocessing) -> int:
    exact, quick = decode(data, preprocessing), fast.decode(data, preprocessing)
    assert quick.shape == exact.shape
    assert quick.dtype == np.uint8
    assert quick.flags.c_contiguous
    return int(np.abs(quick.astype(int) - exact).max())


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 99),
    width=st.integers(1, 400),
    height=st.integers(1, 400),
    crop=st.integers(1, 224),
    more=st.integers(0, 40),
    interpolation=st.sampled_from(["bilinear", "bicubic", "lanczos"]),
    options=st.sampled_from([{}, {"progressive": True}, {"subsampling": 0}, {"quality": 40}]),
)
def test_fast_decoder_differs_from_pillow_by_at_most_1_or_2_for_bicubic(
    seed: int, width: int, height: int, crop: int, more: int, interpolation: str, options: dict[str, int]
) -> None:
    data = encode(photograph(seed, width, height), "JPEG", **options)
    allowed = {"bilinear": 1, "bicubic": 2, "lanczos": 0}[interpolation]
    assert levels_apart(data, Preprocessing(crop + more, crop, interpolation)) <= allowed


@pytest.mark.parametrize("fit", ["squash", "pad"])
@pytest.mark.parametrize(("interpolation", "allowed"), [("bilinear", 1), ("bicubic", 2), ("lanczos", 0)])
def test_fast_decoder_with_squash_or_pad_differs_from_pillow_by_at_most_2(
    fit: str, interpolation: str, allowed: int
) -> None:
    how = Preprocessing(61, 61, interpolation, fit=fit)
    for size in [(90, 61), (61, 90), (200, 33), (1, 300), (30, 20)]:
        assert levels_apart(encode(photograph(1, *size)), how) <= allowed


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_fast_decoder_handles_orientation_and_gray_like_the_reference(orientation: int, mode: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(photograph(1, 90, 61).convert(mode), "JPEG", exif=exif)
    assert levels_apart(data, Preprocessing(45, 39)) <= 1


@pytest.mark.parametrize("kind", ["PNG", "GIF", "WEBP", "CMYK"])
def test_fast_decoder_reads_formats_other_than_jpeg_like_the_reference(kind: str) -> None:
    image = photograph(2, 60, 40).convert("CMYK" if kind == "CMYK" else "RGB")
    assert levels_apart(encode(image, "JPEG" if kind == "CMYK" else kind), Preprocessing(64, 56)) <= 1


def test_fast_decoder_calls_the_reference_decoder_for_thin_pictures_and_lanczos() -> None:
    thin = encode(photograph(2, 60, 40).resize((1, 5000)))
    assert levels_apart(thin, Preprocessing(64, 56)) == 0
    assert levels_apart(encode(photograph(2, 60, 40)), Preprocessing(64, 56, "lanczos")) == 0


def test_fast_decoder_reports_truncated_jpegs() -> None:
    preprocessing = Preprocessing(36, 32)
    for kind in ("JPEG", "progressive JPEG"):
        data = WHOLE[kind]
        whole = fast.decode(data, preprocessing)
        for length in range(0, len(data), max(1, len(data) // 100)):
            try:
                result = fast.decode(data[:length], preprocessing)
            except DecodeFailure:
                continue
            np.testing.assert_array_equal(result, whole, err_msg=f"{kind} cut at {length} of {len(data)}")


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=8))
def test_fast_decoder_gives_pixels_or_a_failure_for_changed_bytes(changes: list[tuple[int, int]]) -> None:
    data = bytearray(WHOLE["JPEG"])
    for position, value in changes:
        data[position % len(data)] = value
    try:
        assert fast.decode(bytes(data), Preprocessing(36, 32)).shape == (32, 32, 3)
    except DecodeFailure as failure:
        reason = failure.reason
        assert reason


def test_fast_decoder_fails_with_the_same_messages_as_the_reference() -> None:
    for data in (b"", b"<html>", WHOLE["JPEG"][:300]):
        with pytest.raises(DecodeFailure) as ours:
            fast.decode(data, Preprocessing(36, 32))
        with pytest.raises(DecodeFailure) as theirs:
            decode(data, Preprocessing(36, 32))
        assert str(ours.value) == str(theirs.value)
    with pytest.raises(DecodeFailure, match="too-many-pixels"):
        fast.decode(WHOLE["JPEG"], Preprocessing(36, 32), max_pixels=60 * 44 - 1)


def test_fast_decoder_gives_the_same_pixels_in_several_threads() -> None:
    preprocessing = Preprocessing(72, 64)
    pictures = [encode(photograph(seed, 90, 80), "JPEG") for seed in range(6)]
    expected = [fast.decode(data, preprocessing) for data in pictures]
    barrier = threading.Barrier(6)

    def work(index: int) -> bool:
        barrier.wait()
        return all(np.array_equal(fast.decode(pictures[i], preprocessing), expected[i]) for i in range(6))

    with ThreadPoolExecutor(6) as threads:
        assert all(threads.map(work, range(6)))


def test_decoders_are_found_by_name() -> None:
    assert open_decoder(DECODER) is decode
    assert open_decoder("pillow-torch") is fast.decode
    assert set(DECODERS) == {DECODER, fast.DECODER}
    with pytest.raises(UsageError, match="pillow, pillow-torch"):
        open_decoder("abacus")
