"""What bounded a run, and the option that would help.

What is advised was measured on photographs of 450 x 374 pixels and two cores, in seconds of the processors or, where
waiting is what is saved, of the clock: ``--decode fast`` took 0.5 to 0.6 of exact decoding's; ``--engine openvino`` 0.5
(EfficientNet-Lite0) to 0.8 (ResNet50) of plain torch's, 0.6 to 0.9 of torch-folded's; ``openvino-int8`` 0.3 to 0.5 of
openvino's; two processes brought 1.8 times as many pictures as one where a read takes 200 ms.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any, Final

from featstore.decode import DECODER
from featstore.embed.pipeline import Timings

_WORTH_ADVICE: Final = 10.0
"""Seconds of work below which starting up is what counts, and nothing is to be gained."""
_WORTH: Final = 0.15
"""Share of the processors' time from which reading and decoding are worth making cheaper."""
_FAST_SAVES: Final = 0.38
"""What the fast decoder saves of the processors' time that reading and exact decoding take."""
_FAST: Final = "--decode fast (into a new store: its pixels differ by a level)"


def advice(timings: Timings, engine: Mapping[str, Any], decoder: str, workers: int) -> str:
    """Return in one line what bounded the run and what would make it faster; "" where nothing was forwarded.

    ``engine``: its provenance; ``decoder``: the decoder's class; ``workers``: the threads that decoded.
    """
    network = timings.copy + timings.forward
    clock = timings.waiting + network + timings.blocked
    if not timings.forwarded or clock < _WORTH_ADVICE:
        return ""
    if timings.blocked > max(network, timings.waiting):
        share = f"{timings.blocked / clock:.0%} of the time"
        return f"writing was the bottleneck ({share}): a faster disk for the store, or --dtype float16, would help"
    if network >= timings.waiting:
        share = f"{network / clock:.0%} of the time"
        return f"the network was the bottleneck ({share}){_for_network(timings, engine, decoder)} would help"
    share = f"the network waited {timings.waiting / clock:.0%} of the time"
    if timings.read > timings.decode:
        remedy = "a faster disk, or more processes with --units,"
        return f"reading the pictures was the bottleneck ({share}): {remedy} would help"
    cores = os.cpu_count() or 1
    helps = [f"--workers {cores}"] if workers < cores else []
    helps += [_FAST] if decoder == DECODER else []
    remedy = " or ".join(helps) or "more processes on other hosts, with --units,"
    return f"decoding the pictures was the bottleneck ({share}): {remedy} would help"


def _for_network(timings: Timings, engine: Mapping[str, Any], decoder: str) -> str:
    """Return how to go on after "the network was the bottleneck"."""
    name = str(engine.get("engine"))
    if str(engine.get("device")).startswith("cuda"):
        exact = "--precision bf16 (into a new store), " if engine.get("precision") == "fp32" else ""
        return f": {exact}a lighter --backbone, or more GPUs with --units,"
    if name in ("torch", "torch-folded", "compile") and find_spec("openvino") is not None:
        return ": --engine openvino"
    if name == "torch":
        return ": --engine torch-folded"
    loading = timings.load_processor / timings.processor if timings.processor else 0.0
    if loading >= _WORTH and decoder == DECODER:
        saved = f"some {loading * _FAST_SAVES:.0%} of the processors' time"
        return f", while reading and decoding took {loading:.0%} of the processors' time: {_FAST}, which saves {saved},"
    exact = "" if name.endswith("int8") else "--engine openvino-int8 (into a new store; for heads, not for search), "
    return f": {exact}a lighter --backbone, or a GPU,"
