"""Requirements on every engine, including the maximum difference of its features from those of plain torch."""

from __future__ import annotations

import json
import threading

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from featstore.backbones import Backbone, load_backbone
from featstore.engines import Engine, open_engine
from featstore.engines import open as opening
from featstore.engines.parity import EXACT, measure_drift
from featstore.engines.parity import drift as drift_of
from featstore.errors import UsageError
from tests.decode.pictures import photograph
from tests.engines.tiny import needs_openvino_in_bf16

KINDS = [
    ("torch", "fp32"),
    ("torch-folded", "fp32"),
    ("openvino", "fp32"),
    # Most processors emulate bfloat16 in software, which takes minutes instead of seconds.
    pytest.param(("torch-folded", "bf16"), marks=pytest.mark.slow),
    pytest.param(("openvino", "bf16"), marks=[pytest.mark.slow, needs_openvino_in_bf16]),
]


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone("efficientnet_lite0")


@pytest.fixture(scope="module")
def reference(backbone: Backbone) -> Engine:
    return open_engine(backbone, engine="torch", device="cpu")


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: "-".join(kind))
def engine(request: pytest.FixtureRequest, backbone: Backbone) -> Engine:
    name, precision = request.param
    return open_engine(backbone, engine=name, device="cpu", precision=precision)


@pytest.fixture(scope="module")
def pictures(engine: Engine) -> NDArray[np.uint8]:
    """Return 11 pictures; for torch in bf16 they are small, because emulated bf16 takes a second per large picture."""
    side = 96 if (engine.name, engine.precision) == ("torch-folded", "bf16") else 224
    return np.stack([np.asarray(photograph(seed, side, side)) for seed in range(11)])


def test_engine_features_are_close_to_those_of_plain_torch(
    engine: Engine, reference: Engine, pictures: NDArray[np.uint8]
) -> None:
    drift = measure_drift(engine, reference, pictures)
    assert drift["greatest_difference"] <= (EXACT if engine.precision == "fp32" else 2.0), drift
    assert drift["cosine_min"] > 0.99
    bgr = drift_of(engine(pictures[:4, ..., ::-1].copy()), reference(pictures[:4]))
    assert bgr["greatest_difference"] > 1
    assert bgr["cosine_min"] < 0.99


def test_engine_returns_submitted_batches_in_order_with_their_sizes(
    engine: Engine, pictures: NDArray[np.uint8]
) -> None:
    sizes = [3, 8, 1, 9]
    expected = [engine(pictures[:size]) for size in sizes]
    pending = []
    for size in sizes:
        batch = pictures[:size].copy()
        pending.append(engine.submit(batch))
        batch[:] = 0  # The caller may overwrite a batch after submitting it.
    for features, one, size in zip(expected, pending, sizes, strict=True):
        assert one.result().shape == (size, engine.dimension)
        assert one.result().dtype == np.float32
        np.testing.assert_array_equal(one.result(), features)


def test_engine_gives_bit_identical_features_for_a_repeated_batch(engine: Engine, pictures: NDArray[np.uint8]) -> None:
    np.testing.assert_array_equal(engine(pictures), engine(pictures))


def test_engine_gives_the_same_features_in_another_thread(engine: Engine, pictures: NDArray[np.uint8]) -> None:
    results: list[NDArray[np.float32]] = []
    thread = threading.Thread(target=lambda: results.append(engine(pictures[:2])))
    thread.start()
    thread.join()
    np.testing.assert_array_equal(results[0], engine(pictures[:2]))


def test_engine_rejects_pictures_of_wrong_shape_or_dtype(engine: Engine) -> None:
    for shape in ((0, 224, 224, 3), (224, 224, 3), (1, 3, 224, 224)):
        with pytest.raises(UsageError, match="uint8"):
            engine(np.zeros(shape, np.uint8))
    with pytest.raises(UsageError, match="uint8"):
        engine(np.zeros((1, 224, 224, 3), np.float32))  # type: ignore[arg-type]


def test_engine_accepts_read_only_pictures_without_a_warning(engine: Engine, pictures: NDArray[np.uint8]) -> None:
    frozen = pictures[:2].copy()
    frozen.flags.writeable = False
    np.testing.assert_array_equal(engine(frozen), engine(pictures[:2]))


def test_engine_provenance_is_json_serialisable(engine: Engine) -> None:
    provenance = engine.provenance()
    assert json.loads(json.dumps(provenance)) == provenance
    assert (provenance["engine"], provenance["precision"]) == (engine.name, engine.precision)
    assert provenance["device"] == "cpu"
    assert provenance["threads"] >= 1
    assert provenance["instruction_set"] not in ("", "unknown")


@pytest.mark.slow
def test_openvino_engine_rejects_pictures_of_another_size(backbone: Backbone) -> None:
    with pytest.raises(UsageError, match="224 x 224"):
        open_engine(backbone, engine="openvino", device="cpu")(np.zeros((1, 200, 200, 3), np.uint8))


@pytest.mark.slow
def test_engine_auto_prefers_openvino_on_the_cpu(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    assert open_engine(backbone, device="cpu").name == "openvino"
    monkeypatch.setattr(opening.openvino, "available", lambda: False)
    without = open_engine(backbone, device="cpu")
    assert (without.name, without.precision) == ("torch-folded", "fp32")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"engine": "abacus"}, "abacus"),
        ({"device": "moon"}, "moon"),
        ({"device": "meta"}, "meta"),
        ({"device": "cuda:99"}, "CUDA|cuda:99"),
        ({"precision": "fp8"}, "fp8"),
        ({"precision": "fp16", "device": "cpu"}, "fp16"),
        ({"precision": "bf16", "engine": "torch", "device": "cpu"}, "reference"),
    ],
)
def test_unknown_engines_devices_and_precisions_are_rejected(
    options: dict[str, str], words: str, backbone: Backbone
) -> None:
    with pytest.raises(UsageError, match=words) as error:
        open_engine(backbone, **options)
    assert "\n" not in str(error.value)


def test_opening_an_engine_does_not_change_the_backbone(backbone: Backbone) -> None:
    before = {name: value.clone() for name, value in backbone.module.state_dict().items()}
    open_engine(backbone, engine="torch-folded", device="cpu", precision="bf16")
    after = backbone.module.state_dict()
    assert set(after) == set(before)
    assert all(value.dtype == before[name].dtype and torch.equal(value, before[name]) for name, value in after.items())


@pytest.mark.parametrize("limit", ["avx", "AVX2"])
def test_openvino_bf16_is_rejected_if_instructions_are_limited_to_avx(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    with pytest.raises(
        UsageError, match=f"no bf16 where ONEDNN_MAX_CPU_ISA is {limit.upper()}; unset it, or use --precision fp32"
    ):
        open_engine(backbone, engine="openvino", device="cpu", precision="bf16")
