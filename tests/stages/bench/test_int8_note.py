from __future__ import annotations

import pytest

from featstore.stages.bench.rounds import Measured
from featstore.stages.bench.speed import _notes


@pytest.mark.parametrize(("rate", "gains"), [(10.4, False), (11.9, False), (25.0, True)])
def test_bench_notes_that_int8_is_not_faster_than_fp32(rate, gains):
    measured = [
        Measured("forward, openvino", [10.0, 10.0, 10.0], {"engine": "openvino", "precision": "fp32"}),
        Measured("forward, openvino-int8", [rate] * 3, {"engine": "openvino-int8", "precision": "int8-s16"}),
    ]
    said = [note for note in _notes("pictures", "imagenet", 8, 8, measured, ["img2vec", "timm"]) if "gains" in note]
    assert said == (
        []
        if gains
        else [f"openvino-int8 gains nothing here: {rate / 10:.2f} times the rate of openvino, which is exact"]
    )
