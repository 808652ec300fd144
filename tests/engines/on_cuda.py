"""Check the CUDA engines and measure their speed, on a machine with a CUDA device.

    python -m tests.engines.on_cuda [BACKBONE] [WEIGHTS]

For each engine and precision, this program checks three things. Features differ little from those of plain torch on the
CPU. Overlapping batches give the same features as single batches. Batches that are too large for the GPU memory are
halved. The program measures pictures per second with pixels in host memory, and of the CUDA graph alone. The exit code
is 1 if an exact engine is not exact or a batch differs.
"""

from __future__ import annotations

import sys
import time

import numpy as np
import torch

from featstore.backbones import Backbone, load_backbone
from featstore.engines import Engine, open_engine
from featstore.engines.cuda import CudaEngine
from featstore.engines.parity import EXACT, measure_drift
from tests.decode.pictures import photograph

KINDS = (
    ("torch", "fp32"),
    ("torch-folded", "fp32"),
    ("compile", "fp32"),
    ("torch-folded", "bf16"),
    ("compile", "bf16"),
    ("compile", "fp16"),
)


def rate(engine: Engine, pictures: np.ndarray, seconds: float = 5.0) -> float:
    """Return the speed in pictures per second; up to ``engine.in_flight`` batches are computed at the same time."""
    engine(pictures)
    pending, done, start = [], 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        pending.append(engine.submit(pictures))
        if len(pending) > engine.in_flight:
            done += len(pending.pop(0).result())
    done += sum(len(one.result()) for one in pending)
    return done / (time.perf_counter() - start)


def bare_rate(engine: CudaEngine, seconds: float = 5.0) -> float:
    """Return the speed of the CUDA graph alone in pictures per second; the pixels are already in GPU memory."""
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        for _ in range(10):
            engine._graph.replay()
        torch.cuda.synchronize()
        count += 10 * engine.block
    return count / (time.perf_counter() - start)


def check(backbone: Backbone, name: str, precision: str, pictures: np.ndarray, reference: Engine) -> bool:
    torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    engine = open_engine(backbone, engine=name, device="cuda", precision=precision)
    opened = time.perf_counter() - start
    result = measure_drift(engine, reference, pictures, batch=16)
    sizes = (3, 16, 1, 9)
    pending = [engine.submit(pictures[:size]) for size in sizes]
    good = all(np.array_equal(one.result(), engine(pictures[:size])) for one, size in zip(pending, sizes, strict=True))
    if engine.precision == "fp32":
        good &= result["greatest_difference"] <= EXACT
    many = np.resize(pictures, (512, *pictures.shape[1:]))
    line = f"{name:13} {precision:5} opened {opened:6.1f} s, {rate(engine, many):8.0f} a second"
    if isinstance(engine, CudaEngine):
        line += f", bare graph {bare_rate(engine):8.0f}"
    shown = {key: float(f"{value:.3g}") for key, value in result.items() if key != "pictures"}
    print(
        line, f"peak {torch.cuda.max_memory_allocated() / 2**30:.2f} GiB", shown, "ok" if good else "FAILS", flush=True
    )
    return good


def main(name: str = "efficientnet_lite0", weights: str | None = None) -> int:
    backbone = load_backbone(name, weights)
    side = backbone.preprocessing.crop
    pictures = np.stack([np.asarray(photograph(seed, side, side)) for seed in range(32)])
    reference = open_engine(backbone, engine="torch", device="cpu")
    print(torch.cuda.get_device_name(), torch.__version__, name, backbone.weights)
    good = [check(backbone, engine, precision, pictures, reference) for engine, precision in KINDS]
    return 0 if all(good) else 1


if __name__ == "__main__":
    if not torch.cuda.is_available():
        sys.exit("there is no CUDA device here")
    sys.exit(main(*sys.argv[1:]))
