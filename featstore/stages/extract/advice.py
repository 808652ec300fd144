"""Advice after a run: the work that took most of the time, and the options that would have saved most of it.

The savings were measured on photographs of 450 x 374 pixels with two cores. The figures are the processor time (or the
wall-clock time, where an option saves waiting) with the option, as a share of the time without it.

- ``--decode fast``: 0.5 to 0.6 of exact decoding.
- ``--engine openvino``: 0.2 to 0.5 of plain torch with EfficientNet-Lite0 (0.2 on a busy machine), 0.8 with ResNet50;
  0.6 to 0.9 of torch-folded.
- ``--engine openvino-int8``: 0.3 to 0.5 of openvino on a processor that sums 8-bit products in one instruction; 0.7 on
  others, which is too small a saving to be advised.
- Two processes were 1.8 times as fast as one process if reading a picture takes 200 ms.

tests/slow/account.py checks the advice: it repeats runs with the advised options.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Final

from featstore.embed.pipeline import Timings

_WORTH_ADVICE: Final = 10.0
"""Shortest extraction, in seconds, for which advice is given."""
_WORTH: Final = 0.05
"""Smallest saving, as a share of the run's duration, that the advice mentions."""
_NAMED: Final = 2
"""Largest number of options that the advice mentions."""
_EXACT_DECODER: Final = "pillow"
_FAST_SAVES: Final = 0.38
"""Share of the processor time of reading and exact decoding that --decode fast saves."""
_FAST: Final = "--decode fast (into a new store: its pixels differ by a level)"
_INT8: Final = "--engine openvino-int8 (into a new store; for heads, not for search)"
_ENGINES: Final = {
    "torch": {"openvino": (0.2, 0.8), "torch-folded": (0.11, 0.17)},
    "torch-folded": {"openvino": (0.1, 0.4)},
    "compile": {"openvino": (0.1, 0.4)},
    "openvino": {"openvino-int8": (0.5, 0.7)},
}
"""For each engine in use, the engines that may be faster, and the share of the network's processor time that each of
them saves.

A share is given as (smallest value, largest value)."""
_OPENVINO_STARTUP: Final = 3.2
"""Additional seconds to start OpenVINO instead of torch: importing it, converting and compiling the network.

Measured on two shared cores, medians of five runs each: 2.9 s with EfficientNet-Lite0, 3.5 s with ResNet50.
"""
_COMPARING: Final = 3.0
"""Seconds that comparing an engine's results with plain torch takes at the start; 2.9 and 3.7 were measured."""
_MORE_PROCESSES_SAVE: Final = 1 - 1 / 1.8


@dataclass(frozen=True)
class Saving:
    """An option or another remedy, and the smallest and largest number of wall-clock seconds that it saves."""

    option: str
    least: float
    most: float

    def __str__(self) -> str:
        low, high = f"{max(0.0, self.least):.0f}", f"{self.most:.0f}"
        return f"{self.option} some {high} s" if low == high else f"{self.option} some {low} to {high} s"


def advice(timings: Timings, engine: Mapping[str, Any], decoder: str, workers: int) -> str:
    """Return a line that names the work that took most of the run, and the options that would have saved most time.

    Returns "" for a short run or a run without pictures. ``engine``: the engine's provenance; ``decoder``: name of the
    decoder; ``workers``: number of decoding threads.
    """
    if not timings.forwarded or timings.clock < _WORTH_ADVICE:
        return ""
    parts = {
        "the network": timings.forward + timings.copy,
        "waiting for pictures to be read": timings.waiting if timings.read > timings.decode else 0.0,
        "waiting for pictures to be decoded": timings.waiting if timings.read <= timings.decode else 0.0,
        "writing": timings.blocked,
        "start-up": timings.startup,
        "comparing the source with the store": timings.planning,
        "comparing the engine with plain torch": timings.verifying,
        "waiting for other processes": timings.others,
        "starting again after pictures that killed their decoder": timings.restarts,
    }
    largest = max(parts, key=parts.__getitem__)
    told = f"{largest} took {parts[largest] / timings.clock:.0%} of the time"
    found = [one for one in savings(timings, engine, decoder, workers) if one.most >= _WORTH * timings.clock]
    if not found:
        return told + _without_option(largest, engine)
    return f"{told}; this would have saved part of the {timings.clock:.0f} s: {', '.join(map(str, found[:_NAMED]))}"


def savings(timings: Timings, engine: Mapping[str, Any], decoder: str, workers: int) -> list[Saving]:
    """Return the savings that were possible in an extraction, largest first; parameters as in ``advice``."""
    found = []
    on_gpu = str(engine.get("device")).startswith("cuda")
    loop = timings.forward + timings.copy + timings.waiting + timings.scheduling + timings.blocked
    # Network and decoding share the processors: processor time that one of them saves is used by the other.
    busy = max(1.0, timings.processor / loop) if loop else 1.0
    cores = os.cpu_count() or 1
    if not on_gpu:
        network = max(0.0, timings.processor - timings.load_processor) / busy
        found += _of_engines(str(engine.get("engine")), network)
    if timings.read > timings.decode:
        found.append(_exactly("a faster disk, or more processes with --units,", timings.waiting * _MORE_PROCESSES_SAVE))
    elif workers < cores:
        found.append(_exactly(f"--workers {cores}", timings.waiting * (1 - workers / cores)))
    if decoder == _EXACT_DECODER:
        loading = timings.waiting if on_gpu else timings.load_processor / busy
        if not on_gpu or timings.read <= timings.decode:
            found.append(_exactly(_FAST, loading * _FAST_SAVES))
    found.append(_exactly("a faster disk for the store, or --dtype float16 (into a new one),", timings.blocked / 2))
    return sorted(found, key=lambda one: one.least + one.most, reverse=True)


def _exactly(option: str, seconds: float) -> Saving:
    return Saving(option, seconds, seconds)


def _of_engines(name: str, network: float) -> list[Saving]:
    """Return the best saving by another CPU engine, in a list that is empty if there is no other engine.

    ``name``: the engine used; ``network``: seconds that the network took.
    """
    found = []
    installed = find_spec("openvino") is not None
    for other, (least, most) in _ENGINES.get(name, {}).items():
        is_openvino = other.startswith("openvino")
        if (is_openvino and not installed) or (other == "openvino-int8" and not _int8_gains()):
            continue
        start = _OPENVINO_STARTUP if is_openvino and not name.startswith("openvino") else 0.0
        start += _COMPARING if name == "torch" else 0.0
        option = _INT8 if other == "openvino-int8" else f"--engine {other}"
        found.append(Saving(option, least * network - start, most * network - start))
    # A run uses only one engine: keep the engine that saves most.
    return sorted(found, key=lambda one: one.least + one.most)[-1:]


def _without_option(largest: str, engine: Mapping[str, Any]) -> str:
    """Return the end of the advice if no option is known to save much. ``largest``: the work that took most of the
    time.
    """
    if largest == "the network":
        if not str(engine.get("device")).startswith("cuda"):
            return "; a lighter --backbone, or a GPU, would help"
        exact = "--precision bf16 (into a new store), " if engine.get("precision") == "fp32" else ""
        return f"; {exact}a lighter --backbone, or more GPUs with --units, would help"
    if largest == "waiting for pictures to be decoded":
        return "; more processes on other hosts, with --units, would help"
    return ""


def _int8_gains() -> bool:
    """Return whether this processor sums 8-bit products in one instruction; otherwise int8 is hardly faster."""
    from featstore.engines.int8 import has_8_bit_sums

    return has_8_bit_sums()
