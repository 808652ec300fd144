from __future__ import annotations

import os

import pytest

from featstore.embed.pipeline import Timings
from featstore.stages.extract import advice as module
from featstore.stages.extract.advice import advice

TORCH, FOLDED, OPENVINO, INT8 = (
    {"engine": name, "device": "cpu", "precision": precision}
    for name, precision in (
        ("torch", "fp32"),
        ("torch-folded", "fp32"),
        ("openvino", "fp32"),
        ("openvino-int8", "int8"),
    )
)
GPU = {"engine": "compile", "device": "cuda:0", "precision": "bf16"}
NETWORK = {"forward": 9, "waiting": 1, "forwarded": 5, "processor": 20}
DECODING = {"forward": 1, "waiting": 9, "read": 1, "decode": 8, "forwarded": 5}
CORES = os.cpu_count() or 1


@pytest.mark.parametrize(
    ("timings", "engine", "decoder", "workers", "words"),
    [
        (NETWORK, TORCH, "pillow", 2, ["the network was the bottleneck (90% of the time): --engine openvino would"]),
        (NETWORK, FOLDED, "pillow", 2, ["the network", "--engine openvino would"]),
        # A quarter of the processors' time, of which fast decoding saves 38 %.
        ({**NETWORK, "load_processor": 5}, OPENVINO, "pillow", 2, ["took 25%", "--decode fast", "saves some 10%"]),
        ({**NETWORK, "load_processor": 5}, OPENVINO, "pillow-torch", 2, ["--engine openvino-int8", "lighter"]),
        ({**NETWORK, "load_processor": 1}, OPENVINO, "pillow", 2, ["--engine openvino-int8"]),
        (NETWORK, INT8, "pillow", 2, ["): a lighter --backbone, or a GPU, would help"]),
        (NETWORK, GPU, "pillow", 2, ["): a lighter --backbone, or more GPUs with --units, would help"]),
        (NETWORK, {**GPU, "precision": "fp32"}, "pillow", 2, ["--precision bf16"]),
        ({"forward": 4, "copy": 3, "waiting": 6, "forwarded": 5}, INT8, "pillow", 2, ["the network", "(54% of the time)"]),
        (DECODING, GPU, "pillow", CORES, ["decoding", "(the network waited 90% of the time): --decode fast"]),
        (DECODING, GPU, "pillow", 0, ["decoding", f"--workers {CORES} or --decode fast"]),
        (DECODING, GPU, "pillow-torch", CORES, ["decoding", "): more processes on other hosts, with --units, would"]),
        ({**DECODING, "read": 9}, GPU, "pillow", CORES, ["reading the pictures was", "a faster disk, or more processes"]),
        ({"forward": 1, "blocked": 9, "forwarded": 5}, GPU, "pillow", 2, ["writing was the bottleneck", "float16"]),
    ],
)  # fmt: skip
def test_the_bottleneck_and_the_option_that_helps_are_named(timings, engine, decoder, workers, words):
    said = advice(Timings(**timings), engine, decoder, workers)
    assert all(each in said for each in words), said
    assert said.endswith(" would help")


def test_no_engine_is_advised_that_is_not_there(monkeypatch):
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    assert "): --engine torch-folded would help" in advice(Timings(**NETWORK), TORCH, "pillow", 2)
    assert "openvino would" not in advice(Timings(**NETWORK), FOLDED, "pillow", 2)


def test_nothing_is_said_of_nothing():
    assert advice(Timings(), TORCH, "pillow", 2) == ""
