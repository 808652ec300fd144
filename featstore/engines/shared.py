"""Input checks and provenance shared by all engines."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from featstore.errors import FeatstoreError, UsageError

_used_in: int | None = None
"""PID of the process that first used an engine: this process, or a parent from which this process was forked."""


def claim_process() -> None:
    """Record that this process uses an engine. Raises UsageError if the process was forked after an engine was used.

    A forked process has no threads of OpenMP, TBB and OpenVINO, and would wait for these threads forever.
    """
    global _used_in
    _used_in = _used_in or os.getpid()
    if _used_in != os.getpid():
        raise UsageError(
            "this process was forked from one that had used a network, whose threads are missing here; start workers "
            "by spawn (multiprocessing.get_context('spawn'), joblib's default), or use networks in the workers only"
        )


def check_pictures(pictures: NDArray[np.uint8]) -> None:
    """Raise UsageError unless ``pictures`` is (n, h, w, 3) uint8 with n at least 1."""
    if pictures.dtype != np.uint8 or pictures.ndim != 4 or pictures.shape[3] != 3 or not len(pictures):
        raise UsageError(f"an engine takes (n, h, w, 3) uint8 pictures, not {pictures.shape} {pictures.dtype}")


def as_tensor(pictures: NDArray[np.uint8]) -> torch.Tensor:
    """Return ``pictures`` (n, h, w, 3) as a CPU tensor; it shares the memory of a writeable array."""
    check_pictures(pictures)
    # Copy a read-only array, because torch would warn about it.
    return torch.from_numpy(pictures if pictures.flags.writeable else pictures.copy())


def in_blocks(pictures: NDArray[np.uint8], size: int) -> Iterator[tuple[NDArray[np.uint8], int]]:
    """Divide ``pictures`` (n, h, w, 3) into blocks of exactly ``size``; pad the last block with black pictures.

    Yields (block, number of real pictures in the block).
    """
    check_pictures(pictures)
    for start in range(0, len(pictures), size):
        block = pictures[start : start + size]
        count = len(block)
        if count < size:
            block = np.concatenate([block, np.zeros((size - count, *pictures.shape[1:]), np.uint8)])
        yield block, count


@contextlib.contextmanager
def exact_float32(device: torch.device) -> Iterator[None]:
    """Disable TF32 for float32 on CUDA, and make cuDNN use deterministic algorithms."""
    if device.type != "cuda":
        yield
        return
    matmul = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = matmul


def check_features(features: NDArray[np.float32], count: int, dimension: int) -> NDArray[np.float32]:
    """Return ``features``; raise FeatstoreError unless their shape is (count, dimension)."""
    if features.shape != (count, dimension):
        raise FeatstoreError(
            f"the network gave features of shape {features.shape} where {(count, dimension)} were due; it "
            "has to return (n, d) of the same d for every batch"
        )
    return features


def resolve_device(device: str) -> torch.device:
    """Return the device for "auto" (CUDA if available, otherwise CPU), "cpu", "cuda" or "cuda:N".

    Raises UsageError for an unknown or missing device.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        resolved = torch.device(device)
    except RuntimeError:
        raise UsageError(f"there is no device {device!r}; there are auto, cpu, cuda and cuda:N") from None
    if resolved.type not in ("cpu", "cuda"):
        raise UsageError(f"featstore does not run on {device!r}; it runs on cpu and cuda")
    if resolved.type == "cuda":
        if not torch.cuda.is_available():
            raise UsageError("torch finds no CUDA device here; use --device cpu, or install a CUDA build of torch")
        resolved = torch.device("cuda", resolved.index or 0)
        if resolved.index >= torch.cuda.device_count():
            raise UsageError(f"there is no {resolved}; torch finds {torch.cuda.device_count()} CUDA devices")
    return resolved


def versions(device: torch.device) -> dict[str, Any]:
    """Return device, instruction set, threads and versions as JSON types, for the provenance of features.

    ``instruction_set``: on CUDA the compute capability, such as "sm_90"; on a CPU the instruction set of torch's own
    kernels, such as "avx2", and the limit that ONEDNN_MAX_CPU_ISA sets, if any.
    """
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        instructions = "sm_{}{}".format(*torch.cuda.get_device_capability(device))
    else:
        name, instructions = _cpu_name(), torch.backends.cpu.get_cpu_capability().lower()
        if limit := os.environ.get("ONEDNN_MAX_CPU_ISA"):
            instructions += f", oneDNN at most {limit.lower()}"
    return {
        "device": str(device),
        "device_name": name,
        "instruction_set": instructions,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "torchvision": importlib.metadata.version("torchvision"),
    }


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
