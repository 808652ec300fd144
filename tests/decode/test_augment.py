"""Augmented pictures: their size, their random numbers, and equality with torchvision's transforms."""

from __future__ import annotations

import hashlib
import io
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

from featstore.decode import DECODERS, Augment, Preprocessing, augment, decode, load_rgb, open_decoder, open_fitting
from featstore.decode.augment import generator
from featstore.defaults import FITS, POLICIES
from featstore.errors import UsageError
from tests.decode.pictures import encode, photograph

ODD = {
    "one pixel": Image.new("RGB", (1, 1), (9, 8, 7)),
    "one column": Image.new("RGB", (1, 5000), (9, 8, 7)),
    "one row": Image.new("L", (5000, 1), 9),
    "gray": photograph(1, 60, 41).convert("L"),
    "palette": photograph(1, 60, 41).convert("P"),
    "transparent": photograph(1, 60, 41).convert("RGBA"),
    "16 bit": Image.fromarray(np.arange(60 * 41, dtype=np.uint16).reshape(41, 60) * 20),
}


def preprocessing(fit: str, crop: int = 24) -> Preprocessing:
    return Preprocessing(crop + 4 if fit == "crop" else crop, crop, fit=fit)


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("kind", ODD)
def test_augmented_unusual_pictures_have_the_networks_input_size(
    decoder: str, fit: str, policy: str, kind: str
) -> None:
    data = encode(ODD[kind], "PNG")
    for view in range(1, 6):
        pixels = open_decoder(decoder, Augment(policy, view))(data, preprocessing(fit))
        assert (pixels.shape, pixels.dtype) == ((24, 24, 3), np.uint8)
        assert pixels.flags.c_contiguous


@given(
    width=st.integers(1, 300),
    height=st.integers(1, 300),
    crop=st.integers(1, 64),
    fit=st.sampled_from(FITS),
    policy=st.sampled_from(POLICIES),
    view=st.integers(1, 9999),
    decoder=st.sampled_from(sorted(DECODERS)),
)
def test_augmented_pictures_of_any_size_have_the_networks_input_size(
    width: int, height: int, crop: int, fit: str, policy: str, view: int, decoder: str
) -> None:
    image = photograph(1, width, height)
    pixels = open_fitting(decoder, Augment(policy, view))(image, preprocessing(fit, crop), bytes(32))
    assert (pixels.shape, pixels.dtype) == ((crop, crop, 3), np.uint8)


def test_augmentation_random_numbers_never_change_between_versions() -> None:
    random = generator(hashlib.sha256(b"picture").digest(), None, 1, 0)
    assert random.random(3).tolist() == [0.44381565885664975, 0.6451363668925502, 0.4984628386341252]


def test_augmentation_random_numbers_depend_on_picture_box_view_and_seed() -> None:
    one, other = hashlib.sha256(b"one").digest(), hashlib.sha256(b"other").digest()
    given = [(one, None, 1, 0), (other, None, 1, 0), (one, (0, 0, 5, 5), 1, 0), (one, None, 2, 0), (one, None, 1, 1)]
    assert len({generator(*each).random() for each in given}) == len(given)


def test_augmentation_does_not_change_global_random_generators() -> None:
    before, python = torch.get_rng_state(), np.random.get_state()[1].tolist()
    open_fitting("pillow", Augment("standard", 1))(photograph(1, 50, 40), preprocessing("crop"), bytes(32))
    assert torch.equal(torch.get_rng_state(), before)
    assert np.random.get_state()[1].tolist() == python


@pytest.mark.parametrize("decoder", DECODERS)
def test_augmentation_in_several_threads_gives_the_same_pixels_as_in_one(decoder: str) -> None:
    pictures = [encode(photograph(seed, 90, 61), "PNG") for seed in range(12)]
    run = open_decoder(decoder, Augment("standard", 3, 5))
    alone = [run(data, preprocessing("crop")) for data in pictures]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda data: run(data, preprocessing("crop")), pictures))
    assert all(np.array_equal(one, other) for one, other in zip(alone, together, strict=True))


def test_augmented_picture_equals_that_of_torchvision_with_the_same_random_numbers() -> None:
    image, how = photograph(4, 120, 90), preprocessing("crop", 40)
    found = augment.augment(image, how, "standard", generator(bytes(32), None, 2, 0))
    random = generator(bytes(32), None, 2, 0)
    tries, flip, order, factors = random.random((10, 4)), random.random(), random.random(3), random.random(3)
    expected = None
    for area, shape, x, y in tries.tolist():
        ratio = np.exp(np.log(3 / 4) + shape * (np.log(4 / 3) - np.log(3 / 4)))
        share = 120 * 90 * (0.08 + 0.92 * area)
        w, h = round((share * ratio) ** 0.5), round((share / ratio) ** 0.5)
        if w <= 120 and h <= 90:
            left, top = int(x * (121 - w)), int(y * (91 - h))
            expected = functional.resized_crop(
                image, top, left, h, w, [40, 40], InterpolationMode.BILINEAR, antialias=True
            )
            break
    assert expected is not None
    if flip < 0.5:
        expected = functional.horizontal_flip(expected)
    changes = [functional.adjust_brightness, functional.adjust_contrast, functional.adjust_saturation]
    for number in order.argsort().tolist():
        expected = changes[number](expected, 0.6 + 0.8 * factors[number])
    assert np.array_equal(found, np.asarray(expected))


def test_augmentation_light_keeps_colours_and_most_of_the_centre_crop() -> None:
    # Red is the column and green the row, so that each pixel shows its place in the original picture.
    rows, columns = np.mgrid[0:100, 0:100].astype(np.uint8)
    image = Image.fromarray(np.stack([columns, rows, np.full_like(rows, 200)], 2))
    for view in range(1, 30):
        pixels = open_fitting("pillow", Augment("light", view))(image, preprocessing("crop"), bytes(32))
        assert set(pixels[..., 2].ravel().tolist()) == {200}
        seen = np.ptp(pixels[..., 0].astype(int)) * np.ptp(pixels[..., 1].astype(int))
        assert seen > 0.7 * 100 * 100


def test_colour_jitter_does_not_change_the_padding_of_fit_pad() -> None:
    how = preprocessing("pad")
    pixels = open_fitting("pillow", Augment("standard", 1))(photograph(1, 200, 20), how, bytes(32))
    assert set(map(tuple, pixels[:3].reshape(-1, 3).tolist())) == {how.fill}


@pytest.mark.parametrize("decoder", DECODERS)
def test_unaugmented_pixels_do_not_depend_on_the_digest_and_the_box(decoder: str) -> None:
    data = encode(photograph(1, 90, 61), "PNG")
    plain = open_fitting(decoder)(load_rgb(data), preprocessing("crop"), bytes(32), (1, 2, 3, 4))
    assert np.array_equal(plain, open_decoder(decoder)(data, preprocessing("crop")))


def test_augmentation_does_not_change_later_decoding_without_augmentation() -> None:
    data = encode(photograph(1, 90, 61), "JPEG")
    before = decode(data, preprocessing("crop"))
    for policy in POLICIES:
        open_decoder("pillow", Augment(policy, 1))(data, preprocessing("crop"))
    assert np.array_equal(before, decode(data, preprocessing("crop")))


def test_damaged_picture_gives_the_same_error_with_and_without_augmentation() -> None:
    from featstore.decode import DecodeFailure

    file = io.BytesIO()
    photograph(1, 90, 61).save(file, "JPEG")
    with pytest.raises(DecodeFailure) as failure:
        open_decoder("pillow", Augment("light", 1))(file.getvalue()[:200], preprocessing("crop"))
    with pytest.raises(DecodeFailure) as plain:
        open_decoder("pillow")(file.getvalue()[:200], preprocessing("crop"))
    assert str(failure.value) == str(plain.value)


@pytest.mark.parametrize(
    "values", [("heavy", 1), ("light", 0), ("light", True), ("light", 10_000), ("light", 1, -1), ("light", 1, 0, 2)]
)
def test_augment_rejects_unknown_policies_views_seeds_and_versions(values: tuple[object, ...]) -> None:
    with pytest.raises(UsageError):
        Augment(*values)  # type: ignore[arg-type]
