from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from featstore.backbones import Backbone, load_backbone
from featstore.decode import Preprocessing
from featstore.engines import Engine, engine_for_class, int8, open_engine
from featstore.engines.int8 import _quantisation_range
from featstore.engines.leaves import dead_leaves
from featstore.engines.parity import drift
from featstore.errors import IdentityError, UsageError
from tests.decode.pictures import photograph
from tests.engines.tiny import tiny_backbone


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone("efficientnet_lite0")


@pytest.fixture(scope="module")
def engine(backbone: Backbone) -> Engine:
    return open_engine(backbone, engine="openvino-int8", device="cpu")


@pytest.fixture(scope="module")
def pictures() -> NDArray[np.uint8]:
    return np.stack([np.asarray(photograph(seed, 224, 224)) for seed in range(16)])


@pytest.mark.slow
def test_int8_features_are_close_to_fp32_and_have_the_precision_class_int8_s16(
    engine: Engine, backbone: Backbone, pictures: NDArray[np.uint8]
) -> None:
    features, exact = engine(pictures), open_engine(backbone, engine="openvino", device="cpu")(pictures)
    result = drift(features, exact)
    assert result["cosine_min"] > 0.95, result
    assert result["rms_difference"] < 0.5
    assert drift(np.roll(features, 1, axis=0), exact)["rms_difference"] > 1
    assert result["greatest_difference"] > 1e-3
    assert (engine.name, engine.precision, engine.dimension) == ("openvino-int8", "int8-s16", 1280)
    assert json.loads(json.dumps(engine.provenance()))["precision"] == "int8-s16"


@pytest.mark.slow
def test_int8_engine_runs_every_convolution_in_8_bit_integers(engine: Engine) -> None:
    nodes = [node.get_rt_info() for node in engine._compiled.get_runtime_model().get_ops()]  # type: ignore[attr-defined]
    kinds = {i["runtimePrecision"].astype(str) for i in nodes if "Convolution" in i["layerType"].astype(str)}
    assert kinds <= {"u8", "i8"}


@pytest.mark.slow
def test_int8_engine_built_twice_gives_equal_features() -> None:
    pictures = np.stack([dead_leaves(seed, 32) for seed in range(100, 109)])
    first, second = (open_engine(tiny_backbone(), engine="openvino-int8", device="cpu")(pictures) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    exact = open_engine(tiny_backbone(), engine="torch", device="cpu")(pictures)
    assert 1e-3 < drift(first, exact)["rms_difference"] < 0.2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"engine": "openvino-int8", "precision": "fp32"}, "openvino-int8 computes in int8"),
        ({"precision": "int8"}, "asked for"),
        ({"precision": "int8-s16"}, "asked for"),
    ],
)
def test_engine_openvino_int8_requires_precision_int8_and_vice_versa(
    options: dict[str, str], words: str, backbone: Backbone
) -> None:
    with pytest.raises(UsageError, match=words):
        open_engine(backbone, device="cpu", **options)


class Ends(nn.Module):
    """Two convolutions whose weights are all 1 or -1.

    ``signs``: the weights of the first convolution, for each output channel and colour.
    """

    def __init__(self, signs: list[list[float]]) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, len(signs), 3, bias=False)
        self.stem.weight.data[:] = torch.tensor(signs)[:, :, None, None]
        self.next = nn.Conv2d(len(signs), len(signs), 3, bias=False)
        self.next.weight.data.fill_(1.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.next(torch.relu(self.stem(x))).mean((2, 3))


@pytest.mark.parametrize("signs", [[[1.0] * 3] * 8, [[1.0, 1.0, -1.0]] * 16, [[-1.0] * 3, [1.0] * 3] * 4])
def test_int8_convolutions_do_not_saturate_for_extreme_weights_and_pixels(
    signs: list[list[float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Pixels 0 and 255 become 0 and 1, the ends of the activation range. Without VNNI instructions, sums have 16 bits
    # and would saturate with weights in the whole int8 range: the brightest picture would get half of its true value.
    preprocessing = Preprocessing(32, 32, mean=(0.0,) * 3, std=(1.0,) * 3)
    backbone = Backbone("ends", "output", len(signs), "random:0", "", preprocessing, Ends(signs).eval())
    pictures = np.zeros((6, 32, 32, 3), np.uint8)
    for number, colours in enumerate(([0, 1, 2], [0, 1], [0], [2], [1, 2])):
        pictures[number][..., colours] = 255
    # Calibrate on the tested pictures, so that no activation is clipped.
    monkeypatch.setattr(int8, "dead_leaves", lambda seed, side: pictures[seed % len(pictures)])
    features = open_engine(backbone, engine="openvino-int8", device="cpu")(pictures)
    exact = open_engine(backbone, engine="torch", device="cpu")(pictures)
    # The tolerance allows two rounding errors, relative to the largest value: half a step of 1/63 for the weights in
    # each of the two layers, and 1.5 steps of 1/255 for the activations.
    atol = float(np.abs(exact).max()) * (1 / 63 + 1.5 / 255)
    np.testing.assert_allclose(features, exact, rtol=0, atol=atol)


def test_old_precision_class_int8_is_rejected_with_the_reason() -> None:
    with pytest.raises(IdentityError, match="every kind of processor.*into a new store") as error:
        engine_for_class("int8", "auto")
    assert "\n" not in str(error.value)
    assert engine_for_class("int8-s16", "auto") == ("openvino-int8", "int8-s16")


@pytest.mark.parametrize(("low", "high"), [(0.0, 6.0), (-1.0, 3.0), (-4.0, 2.0), (0.0, 0.0), (1.0, 2.0)])
def test_quantisation_ranges_cover_all_values_and_represent_zero_exactly(low: float, high: float) -> None:
    first, last = (float(value) for value in _quantisation_range(low, high))
    assert first <= min(low, 0) + 1e-6
    assert last >= high - 1e-6
    step = (last - first) / 255
    assert step > 0
    assert abs(first / step - round(first / step)) < 1e-3


def test_int8_calibration_pictures_from_the_dead_leaves_model_are_reproducible() -> None:
    picture = dead_leaves(3, 64)
    assert picture.shape == (64, 64, 3)
    assert picture.dtype == np.uint8
    np.testing.assert_array_equal(picture, dead_leaves(3, 64))
    assert not np.array_equal(picture, dead_leaves(4, 64))
    assert picture.std() > 20
