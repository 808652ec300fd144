"""The reference decoder gives the pixels of torchvision for valid pictures, and follows every documented rule."""

from __future__ import annotations

import io
import struct
import threading
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize, v2

from featstore.decode import DecodeFailure, Preprocessing, decode, load_rgb
from featstore.decode import pillow as module
from tests.decode.pictures import encode, photograph

SMALL = Preprocessing(36, 32)
FITS = st.sampled_from(["squash", "pad"])


def pixels(image: Image.Image) -> NDArray[np.uint8]:
    return np.asarray(image)


def torchvision_pixels(image: Image.Image, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    interpolation = InterpolationMode(preprocessing.interpolation)
    return np.asarray(Compose([Resize(preprocessing.resize, interpolation), CenterCrop(preprocessing.crop)])(image))


def torchvision_fit(image: Image.Image, how: Preprocessing) -> NDArray[np.uint8]:
    interpolation, side = InterpolationMode(how.interpolation), how.crop
    if how.fit == "squash":
        return np.asarray(v2.Resize((side, side), interpolation)(image))
    image = v2.Resize(None, interpolation, max_size=side)(image)
    left, top = (side - image.width) // 2, (side - image.height) // 2
    margins = [left, top, side - image.width - left, side - image.height - top]
    return np.asarray(v2.Pad(margins, fill=how.fill)(image))


@settings(deadline=None, max_examples=60)
@given(
    st.integers(0, 99),
    st.integers(1, 300),
    st.integers(1, 300),
    st.integers(1, 160),
    st.sampled_from(["bilinear", "bicubic"]),
    FITS,
)
def test_pixels_with_fit_squash_or_pad_equal_those_of_torchvision_bit_for_bit(
    seed, width, height, side, interpolation, fit
):
    # torchvision cannot resize a picture so that its shorter side has less than one pixel.
    assume(fit == "squash" or side * min(width, height) >= max(width, height))
    image = photograph(seed, width, height)
    how = Preprocessing(side, side, interpolation, fit=fit)
    found = decode(encode(image), how)
    assert found.flags.c_contiguous
    np.testing.assert_array_equal(found, torchvision_fit(image, how))


@pytest.mark.parametrize("size", [(3000, 2), (2, 3000), (1, 1)])
def test_pad_keeps_at_least_one_pixel_of_very_thin_pictures(size):
    how = Preprocessing(32, 32, mean=(0.0, 0.5, 1.0), fit="pad")
    found = decode(encode(Image.new("RGB", size, (9, 9, 9))), how)
    inside = (found == 9).all(2)
    assert how.fill == (0, 128, 255)
    assert inside.any()
    assert (found[~inside] == how.fill).all()


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 99),
    width=st.integers(1, 400),
    height=st.integers(1, 400),
    crop=st.integers(1, 224),
    more=st.integers(0, 40),
    interpolation=st.sampled_from(["bilinear", "bicubic", "nearest"]),
)
def test_resized_and_cropped_pixels_equal_those_of_torchvision_bit_for_bit(
    seed: int, width: int, height: int, crop: int, more: int, interpolation: str
) -> None:
    preprocessing = Preprocessing(crop + more, crop, interpolation)
    image = photograph(seed, width, height)
    result = decode(encode(image), preprocessing)
    assert result.shape == (crop, crop, 3)
    assert result.dtype == np.uint8
    assert result.flags.c_contiguous
    np.testing.assert_array_equal(result, torchvision_pixels(image, preprocessing))


@pytest.mark.parametrize(("width", "height"), [(500, 375), (375, 500), (232, 300), (232, 232), (1000, 226)])
def test_pixels_of_jpeg_files_equal_those_of_torchvision(width: int, height: int) -> None:
    data, preprocessing = encode(photograph(1, width, height), "JPEG"), Preprocessing(232, 224)
    image = load_rgb(data)
    np.testing.assert_array_equal(decode(data, preprocessing), torchvision_pixels(image, preprocessing))


def test_cropping_before_resizing_changes_pixel_values_by_at_most_1(monkeypatch: pytest.MonkeyPatch) -> None:
    data, preprocessing = encode(photograph(2, 700, 30)), Preprocessing(64, 56)
    exact = decode(data, preprocessing).astype(int)
    monkeypatch.setattr(module, "LARGEST_RESIZED", 1)
    assert np.abs(decode(data, preprocessing) - exact).max() <= 1


@pytest.mark.parametrize(("width", "height"), [(1, 20_000), (20_000, 1), (1, 1)])
def test_very_thin_pictures_are_decoded(width: int, height: int) -> None:
    data = encode(Image.new("RGB", (width, height), (10, 200, 30)))
    assert (decode(data, Preprocessing(232, 224)) == (10, 200, 30)).all()


UPRIGHT = np.zeros((40, 60, 3), np.uint8)
UPRIGHT[:20, :30] = (255, 0, 0)
UPRIGHT[:20, 30:] = (0, 255, 0)
UPRIGHT[20:, :30] = (0, 0, 255)
# The pixels that a camera stores for the same upright scene, by EXIF orientation.
STORED = {
    1: UPRIGHT,
    2: UPRIGHT[:, ::-1],
    3: UPRIGHT[::-1, ::-1],
    4: UPRIGHT[::-1],
    5: UPRIGHT.transpose(1, 0, 2),
    6: np.rot90(UPRIGHT, 1),
    7: UPRIGHT[::-1, ::-1].transpose(1, 0, 2),
    8: np.rot90(UPRIGHT, -1),
}


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "JPEG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int, kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    lossless = {"WEBP": {"lossless": True}, "JPEG": {"quality": 100, "subsampling": 0}}.get(kind, {})
    data = encode(Image.fromarray(np.ascontiguousarray(STORED[orientation])), kind, exif=exif, **lossless)
    result = pixels(load_rgb(data)).astype(int)
    assert result.shape == UPRIGHT.shape
    assert np.abs(result - UPRIGHT).max() <= (8 if kind == "JPEG" else 0)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_invalid_exif_orientation_is_ignored(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    np.testing.assert_array_equal(pixels(load_rgb(encode(Image.fromarray(UPRIGHT), exif=exif))), UPRIGHT)


def gray_of(data: bytes) -> NDArray[np.uint8]:
    result = pixels(load_rgb(data))
    assert (result == result[:, :, :1]).all()
    return result[:, :, 0]


def test_gray_and_one_bit_pictures_become_rgb() -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    np.testing.assert_array_equal(gray_of(encode(Image.fromarray(levels))), levels)
    bits = Image.fromarray(levels).point(lambda v: 255 * (v > 100)).convert("1")
    np.testing.assert_array_equal(gray_of(encode(bits)), np.where(levels > 100, 255, 0))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_gray_is_reduced_to_its_high_byte(kind: str) -> None:
    levels = np.linspace(0, 65535, 400).astype(np.uint16).reshape(20, 20)
    np.testing.assert_array_equal(gray_of(encode(Image.fromarray(levels), kind)), levels >> 8)


def test_big_endian_16_bit_gray_becomes_8_bit() -> None:
    levels = np.linspace(0, 65535, 64).astype(">u2").reshape(8, 8)
    data = b"P5 8 8 65535\n" + levels.tobytes()
    assert np.abs(gray_of(data).astype(int) - (levels >> 8)).max() <= 1


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.5, 1.0], [0, 128, 255]),
        ([0.0, 100.0, 255.0], [0, 100, 255]),
        ([-1.0, 0.0, 3.0], [0, 64, 255]),
        ([0.0, np.nan, 1.0], [0, 0, 255]),
        ([np.nan, np.nan, np.nan], [0, 0, 0]),
        ([5000.0, 5000.0, 5000.0], [0, 0, 0]),
        ([0.0, np.inf, 1e30], [0, 0, 255]),
    ],
)
def test_float_tiff_becomes_8_bit_gray(values: list[float], expected: list[int]) -> None:
    data = encode(Image.fromarray(np.array([values], np.float32)), "TIFF")
    assert gray_of(data).tolist() == [expected]


@pytest.mark.parametrize(
    ("values", "expected"),
    [([0, 7, 255], [0, 7, 255]), ([0, 256, 65535], [0, 1, 255]), ([-100, 0, 2_000_000], [0, 0, 255])],
)
def test_32_bit_integer_tiff_becomes_8_bit_gray(values: list[int], expected: list[int]) -> None:
    assert gray_of(encode(Image.fromarray(np.array([values], np.int32)), "TIFF")).tolist() == [expected]


def test_picture_with_an_alpha_channel_is_composited_over_white() -> None:
    rgba = np.array([[[9, 9, 9, 255], [9, 9, 9, 0], [0, 100, 200, 128]]], np.uint8)
    result = pixels(load_rgb(encode(Image.fromarray(rgba))))[0].astype(int)
    assert result[0].tolist() == [9, 9, 9]
    assert result[1].tolist() == [255, 255, 255]
    assert np.abs(result[2] - [127, 177, 227]).max() <= 1


def test_opaque_alpha_channel_does_not_change_the_colours() -> None:
    image = photograph(3, 50, 40)
    with_alpha = image.convert("RGBA")
    np.testing.assert_array_equal(pixels(load_rgb(encode(with_alpha))), pixels(image))


@pytest.mark.parametrize("transparency", [1, b"\xff\x00\xff"])
def test_transparent_palette_colour_becomes_white(transparency: Any) -> None:
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8), "L").convert("P")
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    data = encode(image, transparency=transparency)
    assert pixels(load_rgb(data)).tolist() == [[[255, 0, 0], [255, 255, 255], [0, 0, 255]]]


def test_transparent_colour_of_a_png_becomes_white() -> None:
    rgb = Image.fromarray(np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8))
    assert pixels(load_rgb(encode(rgb, transparency=(1, 2, 3)))).tolist() == [[[255, 255, 255], [4, 5, 6]]]
    gray = Image.fromarray(np.array([[7, 8]], np.uint8))
    assert gray_of(encode(gray, transparency=7)).tolist() == [[255, 8]]


def test_gray_picture_with_an_alpha_channel_is_composited_over_white() -> None:
    image = Image.merge("LA", [Image.new("L", (2, 1), 50), Image.fromarray(np.array([[255, 0]], np.uint8))])
    assert gray_of(encode(image)).tolist() == [[50, 255]]


def test_cmyk_jpeg_and_tiff_become_rgb() -> None:
    image = photograph(4, 64, 48).convert("CMYK")
    np.testing.assert_array_equal(pixels(load_rgb(encode(image, "TIFF"))), pixels(image.convert("RGB")))
    decoded = pixels(load_rgb(encode(image, "JPEG", quality=95))).astype(int)
    assert np.abs(decoded - pixels(image.convert("RGB"))).mean() < 6


def test_ycck_jpeg_becomes_rgb() -> None:
    data = encode(Image.new("CMYK", (16, 16), (155, 127, 127, 0)), "JPEG", quality=100)
    marker = data.index(b"Adobe")
    # The last byte of Adobe's marker names the colour transform: 2 is YCCK.
    ycck = data[: marker + 11] + b"\x02" + data[marker + 12 :]
    with Image.open(io.BytesIO(ycck)) as image:
        assert image.info["adobe_transform"] == 2
    # The file stores inverted values, so the picture is uniformly gray; 100 and its inverse 155 are accepted.
    assert np.abs(gray_of(ycck).astype(int) - 155).max() <= 1 or np.abs(gray_of(ycck).astype(int) - 100).max() <= 1


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_only_the_first_frame_or_page_of_a_picture_is_used(kind: str) -> None:
    frames = [Image.new("RGB", (20, 10), colour) for colour in ((250, 0, 0), (0, 250, 0), (0, 0, 250))]
    options: dict[str, Any] = {"lossless": True} if kind == "WEBP" else {}
    data = encode(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    with Image.open(io.BytesIO(data)) as image:
        assert getattr(image, "n_frames", 1) == 3
    assert (pixels(load_rgb(data)) == (250, 0, 0)).all()


def test_progressive_jpeg_is_decoded() -> None:
    image = photograph(5, 200, 100)
    plain, progressive = encode(image, "JPEG"), encode(image, "JPEG", progressive=True)
    assert progressive != plain
    np.testing.assert_array_equal(decode(progressive, SMALL), decode(plain, SMALL))


@pytest.mark.parametrize("kind", ["BMP", "PPM", "TGA", "JPEG2000", "AVIF", "DIB"])
def test_less_common_formats_are_decoded(kind: str) -> None:
    image = photograph(6, 64, 48)
    result = pixels(load_rgb(encode(image, kind))).astype(int)
    assert np.abs(result - pixels(image)).mean() < (12 if kind == "AVIF" else 1)


def test_decoding_in_threads_gives_the_same_pixels_and_keeps_warning_filters() -> None:
    pictures = [encode(photograph(seed, 90, 70), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff") for seed in range(8)]
    expected = [decode(data, SMALL) for data in pictures]
    barrier = threading.Barrier(8)

    def work(index: int) -> bool:
        barrier.wait()
        return all(np.array_equal(decode(pictures[i], SMALL), expected[i]) for i in [index, *range(8)] * 3)

    filters = list(warnings.filters)
    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(work, range(8)))
    assert warnings.filters == filters


def test_picture_that_is_a_decompression_bomb_is_refused_before_decoding() -> None:
    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    crc = zlib.crc32(b"IHDR" + header)
    bomb = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + header + struct.pack(">I", crc) + b"\0\0\0\0IDAT"
    with pytest.raises(DecodeFailure, match="2,500,000,000") as failure:
        decode(bomb, SMALL)
    assert failure.value.reason == "too-many-pixels"


def test_max_pixels_limits_the_size_of_a_picture() -> None:
    data = encode(photograph(7, 100, 100))
    assert decode(data, SMALL, max_pixels=10_000).shape == (32, 32, 3)
    with pytest.raises(DecodeFailure, match="too-many-pixels"):
        decode(data, SMALL, max_pixels=9_999)


def test_max_pixels_may_exceed_the_limit_of_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4000)
    assert decode(encode(photograph(7, 100, 100)), SMALL, max_pixels=10_000).shape == (32, 32, 3)
