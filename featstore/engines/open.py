"""Choose and make the engine for a backbone."""

from __future__ import annotations

import os
from typing import Final

import torch

from featstore.backbones import Backbone, plugins
from featstore.engines import openvino
from featstore.engines.base import Engine
from featstore.engines.compiled import CompiledEngine
from featstore.engines.cuda import CudaEngine, can_compile
from featstore.engines.folded import FoldedEngine
from featstore.engines.int8 import PRECISION as INT8
from featstore.engines.int8 import Int8Engine
from featstore.engines.openvino import OpenVinoEngine
from featstore.engines.own import OwnEngine
from featstore.engines.plain import PlainEngine
from featstore.engines.shared import claim_process, resolve_device
from featstore.errors import IdentityError, UsageError

ENGINES: Final = ("auto", "torch", "torch-folded", "compile", "openvino", "openvino-int8")
_WITHOUT_BF16: Final = ("SSE41", "AVX", "AVX2")
"""Values of ONEDNN_MAX_CPU_ISA with which OpenVINO 2026 fails or crashes when it compiles a network in bf16."""
_CPU_ONLY: Final = ("openvino", "openvino-int8")
PRECISIONS: Final = ("auto", "fp32", "bf16", "fp16", "int8", INT8)


def open_engine(backbone: Backbone, *, engine: str = "auto", device: str = "auto", precision: str = "auto") -> Engine:
    """Return an engine for ``backbone``.

    * ``engine``: "torch" (the reference), "torch-folded" (folded BatchNorm, channels_last layout), "compile",
      "openvino" (CPU), "openvino-int8" (CPU), or "auto": on a CPU "openvino" if OpenVINO can be imported, on CUDA
      "compile" if Triton is installed, otherwise "torch-folded";
    * ``device``: "auto" (CUDA if available), "cpu", "cuda" or "cuda:N";
    * ``precision``: "fp32", "bf16", "fp16" (CUDA), "int8" or "int8-s16" (both mean the class of openvino-int8), or
      "auto": on CUDA bf16 (fp16 if the GPU lacks bf16; fp32 with the engine "torch"), on a CPU fp32.

    Raises UsageError for unknown or conflicting values. If the user's own network fails, now or later in the engine,
    UsageError is raised too.
    """
    if engine not in ENGINES:
        raise UsageError(f"there is no engine {engine!r}; there are {', '.join(ENGINES)}")
    if precision not in PRECISIONS:
        raise UsageError(f"there is no precision {precision!r}; there are {', '.join(PRECISIONS)}")
    claim_process()
    where = resolve_device(device)
    if plugins.is_spec(backbone.weights):
        with plugins.code_of(backbone.weights):
            return OwnEngine(_open(backbone, engine, device, where, precision), backbone.weights)
    return _open(backbone, engine, device, where, precision)


def _open(backbone: Backbone, engine: str, device: str, where: torch.device, precision: str) -> Engine:
    if engine in _CPU_ONLY and where.type == "cuda" and device == "auto":
        where = torch.device("cpu")
    return (
        _on_cuda(backbone, engine, where, precision) if where.type == "cuda" else _on_cpu(backbone, engine, precision)
    )


def engine_for_class(precision: str, engine: str) -> tuple[str, str]:
    """Return the arguments (engine, precision) of open_engine for features of an existing precision class.

    ``precision``: the precision class of the existing features. ``engine``: the requested engine. If this engine does
    not compute in that class, open_engine or the identity check of the store raises an error later. Raises
    IdentityError for the class "int8", which no engine makes any more.
    """
    if precision == "int8":
        raise IdentityError(
            "these features are of the precision class int8, whose sums came out otherwise on every kind of "
            f"processor; --engine openvino-int8 now makes the class {INT8}: extract the pictures into a new store"
        )
    if precision == INT8 and engine == "auto":
        return "openvino-int8", precision
    return engine, precision if precision in ("fp32", "bf16", "fp16") and engine != "openvino-int8" else "auto"


def _on_cpu(backbone: Backbone, engine: str, precision: str) -> Engine:
    if engine == "auto":
        engine = "openvino" if openvino.available() else "torch-folded"
    if engine == "openvino-int8":
        if precision not in ("auto", "int8", INT8):
            raise UsageError(f"the engine openvino-int8 computes in int8; for {precision} use --engine openvino")
        return Int8Engine(backbone)
    if precision in ("int8", INT8):
        raise UsageError("int8 has to be asked for by --engine openvino-int8")
    if precision == "auto":
        precision = "fp32"
    if precision == "fp16":
        raise UsageError("CPUs do not compute in fp16; use --precision fp32 or bf16")
    if engine == "torch":
        return _plain(backbone, torch.device("cpu"), precision)
    if engine == "torch-folded":
        return FoldedEngine(backbone, torch.device("cpu"), precision)
    if engine == "compile":
        return CompiledEngine(backbone, precision)
    if precision == "bf16" and (limit := os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper()) in _WITHOUT_BF16:
        raise UsageError(f"OpenVINO has no bf16 where ONEDNN_MAX_CPU_ISA is {limit}; unset it, or use --precision fp32")
    return OpenVinoEngine(backbone, precision)


def _on_cuda(backbone: Backbone, engine: str, device: torch.device, precision: str) -> Engine:
    if engine in _CPU_ONLY:
        raise UsageError(f"the engine {engine} runs on CPUs; use --device cpu, or --engine compile on CUDA")
    if engine == "auto":
        engine = "compile" if can_compile() else "torch-folded"
    if engine == "torch":
        return _plain(backbone, device, precision)
    if precision in ("int8", INT8):
        raise UsageError("int8 has to be asked for by --engine openvino-int8, on a CPU")
    if engine == "compile" and not can_compile():
        raise UsageError("the engine compile needs Triton on CUDA; install triton or use --engine torch-folded")
    if precision == "auto":
        precision = "bf16" if torch.cuda.is_bf16_supported() else "fp16"
    return CudaEngine(backbone, device, precision, compiled=engine == "compile")


def _plain(backbone: Backbone, device: torch.device, precision: str) -> PlainEngine:
    if precision not in ("auto", "fp32"):
        raise UsageError(
            f"the engine torch is the fp32 reference; for {precision} use --engine torch-folded or compile"
        )
    return PlainEngine(backbone, device)
