from __future__ import annotations

import os
import re
import time

import pytest

from featstore.decode import decode
from featstore.embed.pipeline import Timings
from featstore.embed.recipe import EXACT_ENGINES
from featstore.engines import ENGINES
from featstore.stages.extract import advice as module
from featstore.stages.extract.advice import advice, savings
from tests.made import extract, tiny_backbone, write_pictures

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
# 200 s of processor time in 100 s of wall-clock time: two cores that are always busy.
NETWORK = {"forward": 90, "waiting": 10, "forwarded": 5, "processor": 200}
DECODING = {"forward": 10, "waiting": 90, "read": 10, "decode": 80, "forwarded": 5}
CORES = os.cpu_count() or 1


@pytest.mark.parametrize(
    ("timings", "engine", "decoder", "workers", "words"),
    [
        (NETWORK, TORCH, "pillow", 2, "the network took 90% of the time; this would have saved part of the 100 s: --engine openvino some 14 to 74 s"),
        (NETWORK, FOLDED, "pillow", 2, "100 s: --engine openvino some 7 to 37 s"),
        (NETWORK, OPENVINO, "pillow", 2, "100 s: --engine openvino-int8 (into a new store; for heads, not for search) some 50 to 70 s"),
        (NETWORK, INT8, "pillow", 2, "the network took 90% of the time; a lighter --backbone, or a GPU, would help"),
        (NETWORK, GPU, "pillow-torch", 2, "a lighter --backbone, or more GPUs with --units, would help"),
        (NETWORK, {**GPU, "precision": "fp32"}, "pillow-torch", 2, "--precision bf16"),
        # The advice states percentages of the time of the whole command, including start-up.
        ({**NETWORK, "startup": 100}, INT8, "pillow", 2, "start-up took 50% of the time"),
        ({**NETWORK, "planning": 80, "verifying": 20}, INT8, "pillow", 2, "the network took 45% of the time"),
        (DECODING, GPU, "pillow", CORES, f"waiting for pictures to be decoded took 90% of the time; this would have saved part of the 100 s: {module._FAST} some 34 s"),
        (DECODING, GPU, "pillow", CORES / 2, f"100 s: --workers {CORES} some 45 s, {module._FAST} some 34 s"),
        (DECODING, GPU, "pillow-torch", CORES, "; more processes on other hosts, with --units, would help"),
        ({**DECODING, "read": 90}, GPU, "pillow", CORES, "to be read took 90% of the time; this would have saved part of the 100 s: a faster disk, or more processes with --units, some 40 s"),
        ({"forward": 10, "blocked": 90, "forwarded": 5}, GPU, "pillow-torch", 2, "writing took 90% of the time; this would have saved part of the 100 s: a faster disk for the store, or --dtype float16 (into a new one), some 45 s"),
    ],
)  # fmt: skip
def test_advice_names_the_bottleneck_and_the_largest_saving(timings, engine, decoder, workers, words, monkeypatch):
    monkeypatch.setattr(module, "_int8_gains", lambda: True)
    assert words in advice(Timings(**timings), engine, decoder, workers)


@pytest.mark.parametrize(("loading", "first"), [(20, "--engine openvino"), (180, "--decode fast")])
def test_advice_starts_with_the_largest_saving(loading, first):
    timings = Timings(**{**NETWORK, "load_processor": loading})
    assert savings(timings, TORCH, "pillow", CORES)[0].option.startswith(first)


def test_advice_names_no_engine_that_is_not_installed(monkeypatch):
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    assert "--engine torch-folded some 8 to 14 s" in advice(Timings(**NETWORK), TORCH, "pillow-torch", 2)
    assert "openvino" not in advice(Timings(**NETWORK), FOLDED, "pillow-torch", 2)


def test_advice_does_not_name_int8_on_processors_where_int8_is_not_faster(monkeypatch):
    monkeypatch.setattr(module, "_int8_gains", lambda: False)
    said = advice(Timings(**NETWORK), OPENVINO, "pillow-torch", 2)
    assert "a lighter --backbone, or a GPU, would help" in said
    assert "int8" not in said


def test_short_extractions_get_no_advice_on_speed():
    assert advice(Timings(), TORCH, "pillow", 2) == ""
    assert advice(Timings(forward=9, forwarded=5), TORCH, "pillow", 2) == ""


def test_exact_engines_are_all_engines_except_auto_and_int8():
    assert {*EXACT_ENGINES, "auto", "openvino-int8"} == set(ENGINES)


@pytest.mark.slow
def test_extraction_that_follows_the_advice_saves_the_promised_time(tmp_path, monkeypatch):
    folder = write_pictures(tmp_path / "pictures", [f"{number:02d}.png" for number in range(40)])
    monkeypatch.setattr(module, "_WORTH_ADVICE", 0.0)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)

    def slowly(data, preprocessing, *, max_pixels):
        time.sleep(0.1)
        return decode(data, preprocessing, max_pixels=max_pixels)

    def run(name, workers):
        return extract(
            folder, tmp_path / name, backbone=tiny_backbone(), engine="torch", batch=2, workers=workers, decoder=slowly
        )

    first = run("one", 1)
    found = re.search(r"to be decoded took \d+% of the time; .*: --workers 4 some (\d+) s", first.advice)
    assert found is not None, first.advice
    second = run("other", 4)
    saved = first.timings["waiting"] - second.timings["waiting"]
    assert saved == pytest.approx(int(found[1]), abs=1.0)
