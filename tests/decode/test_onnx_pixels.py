"""Preprocessing as an ONNX model: bit-identical to Pillow for every size and filter."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image

from featstore.decode import Preprocessing
from featstore.decode.onnx_pixels import INTERPOLATIONS, to_onnx
from featstore.decode.pillow import resize_and_crop
from featstore.errors import UsageError

SIZES = [(37, 53), (53, 37), (32, 32), (20, 20), (9, 31), (200, 33), (1, 1), (300, 7), (28, 64)]


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_onnx_preprocessing_gives_the_same_pixels_as_pillow(interpolation):
    how = Preprocessing(32, 28, interpolation, True, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    model = to_onnx(how)
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for width, height in SIZES:
        picture = np.random.default_rng((width, height)).integers(0, 256, (height, width, 3), np.uint8)
        (made,) = session.run(None, {"pixels": picture})
        expected = resize_and_crop(Image.fromarray(picture), how)
        np.testing.assert_array_equal(np.rint(made[0].transpose(1, 2, 0) * 255).astype(np.uint8), expected)


def test_onnx_normalisation_is_bit_identical_to_that_of_the_engines():
    how = Preprocessing(16, 16)
    session = onnxruntime.InferenceSession(to_onnx(how).SerializeToString(), providers=["CPUExecutionProvider"])
    picture = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    (made,) = session.run(None, {"pixels": picture})
    mean, std = np.float32(how.mean), np.float32(how.std)
    expected = (picture.astype(np.float32) / np.float32(255) - mean) / std
    assert made[0].transpose(1, 2, 0).tobytes() == np.ascontiguousarray(expected).tobytes()


@pytest.mark.parametrize("how", [Preprocessing(16, 16, "nearest"), Preprocessing(16, 16, fit="pad")])
def test_onnx_preprocessing_rejects_filter_nearest_and_rejects_fit_pad(how):
    with pytest.raises(UsageError, match="--features-only"):
        to_onnx(how)
