"""Engine that runs networks by OpenVINO on the CPU, in several asynchronous streams."""

from __future__ import annotations

import os
import sys
import threading
import warnings
import weakref
from concurrent.futures import Future
from functools import cache
from importlib.util import find_spec
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from featstore.backbones import Backbone
from featstore.decode import Preprocessing
from featstore.engines.folded import fold
from featstore.engines.shared import check_features, check_pictures, in_blocks, versions
from featstore.errors import FeatstoreError, UsageError

BLOCK: Final = 8
"""Pictures per inference request; on two cores, 8 pictures in each of two streams were fastest with ResNet50."""
_WEIGHTED: Final = ("Convolution", "Deconvolution", "FullyConnected", "MatMul")
_HINTS: Final = {"fp32": "f32", "bf16": "bf16", "int8-s16": "f32"}


def import_openvino() -> Any:
    """Import OpenVINO without its telemetry; return the package. Raises ImportError if the import fails.

    The package openvino_telemetry contacts an analytics host, writes into ~/intel, adds a handler to the root logger
    and fails for a user without a home directory. If this package cannot be imported, OpenVINO works without it.
    """
    name = "openvino_telemetry"
    hidden = "openvino" not in sys.modules and name not in sys.modules
    if hidden:
        # With None as its entry in sys.modules, importing the telemetry package fails.
        sys.modules[name] = None  # type: ignore[assignment]
    try:
        import openvino
        import openvino.frontend.pytorch.ts_decoder
        import openvino.passes
        import openvino.preprocess

        return openvino
    except ImportError:
        raise
    except Exception as error:
        raise ImportError(f"{type(error).__name__}: {error}") from error
    finally:
        if hidden:
            sys.modules.pop(name, None)


def available() -> bool:
    """Return whether OpenVINO can be imported; warn if it is installed but its import fails."""
    try:
        import_openvino()
    except ImportError as error:
        if find_spec("openvino") is not None:
            warnings.warn(
                f"OpenVINO is installed and cannot be imported ({error}): a slower engine is used", stacklevel=2
            )
        return False
    return True


def core() -> Any:
    """Return the OpenVINO core of this process, which is never destroyed.

    On processors with AMX, the core sets a signal stack for the thread that first compiles a network. If another thread
    destroys the core, this stack is unmapped while still in use. The next signal, such as Ctrl-C or the end of a child
    process, then ends this process without a message.
    """
    return _core_of(os.getpid())


@cache
def _core_of(_: int) -> Any:
    # Keep one OpenVINO core for each process id: in a forked process, the threads of the parent's core do not exist.
    import openvino as ov

    return ov.Core()


def to_graph(module: nn.Module, side: int) -> Any:
    """Return ``module`` as an OpenVINO model, (BLOCK, 3, side, side) normalised float32 -> (BLOCK, d).

    The frontend is called directly, because openvino.convert_model sends telemetry about the conversion.
    """
    try:
        import_openvino()
    except ImportError as error:
        raise UsageError(
            f"the engine openvino cannot be imported ({error}); run: pip install openvino, or use --engine torch-folded"
        ) from None
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    example = torch.zeros(BLOCK, 3, side, side)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        # Trace the network here. Otherwise OpenVINO's decoder would trace it, and also check and freeze it, with many
        # more forward passes.
        traced = torch.jit.trace(fold(module), example, check_trace=False)  # type: ignore[no-untyped-call]
        decoder = TorchScriptPythonDecoder(traced, example_input=(example,))
        frontend = FrontEndManager().load_by_framework("pytorch")
        graph = frontend.convert(frontend.load(decoder))
    graph.reshape([BLOCK, 3, side, side])
    return graph


def with_normalisation(graph: Any, preprocessing: Preprocessing) -> Any:
    """Return ``graph`` with a new input, (BLOCK, side, side, 3) uint8, which the graph converts and normalises."""
    import openvino as ov
    from openvino.preprocess import PrePostProcessor

    steps = PrePostProcessor(graph)
    side = preprocessing.crop
    tensor = steps.input().tensor()
    tensor.set_element_type(ov.Type.u8).set_layout(ov.Layout("NHWC")).set_shape([BLOCK, side, side, 3])
    steps.input().model().set_layout(ov.Layout("NCHW"))
    mean, std = ([255 * value for value in values] for values in (preprocessing.mean, preprocessing.std))
    steps.input().preprocess().convert_element_type(ov.Type.f32).mean(mean).scale(std)
    return steps.build()


class OpenVinoEngine:
    """Engine that runs a graph compiled for this CPU in blocks of BLOCK pictures, in several parallel streams.

    ``precision``: fp32 is exact; bf16 is a precision class of its own, faster if the CPU supports bf16.
    """

    name = "openvino"
    in_flight = 2

    def __init__(self, backbone: Backbone, precision: str = "fp32", *, graph: Any = None) -> None:
        """Compile the network of ``backbone`` for this CPU.

        ``graph``: this network as a quantised OpenVINO model (see int8.py), or None to convert the network here.
        """
        if graph is None:
            graph = to_graph(backbone.module, backbone.preprocessing.crop)
        import openvino as ov

        self.dimension = backbone.dimension
        self.precision = precision
        self._side = backbone.preprocessing.crop
        normalised = with_normalisation(graph, backbone.preprocessing)
        self._compiled = core().compile_model(normalised, "CPU", _configuration(precision))
        streams = int(self._compiled.get_property("NUM_STREAMS"))
        # Use two inference requests per stream, so that a stream that finishes a block can start the next block at
        # once.
        self._queue = ov.AsyncInferQueue(self._compiled, 2 * streams)
        self._queue.set_callback(_finish)
        # An OpenVINO thread still runs Python code for a moment after it has set a result. Wait for these threads: if
        # the interpreter ended first, the process would abort ("terminate called without an active exception").
        weakref.finalize(self, self._queue.wait_all)
        self._streams = streams

    def submit(self, pictures: NDArray[np.uint8]) -> Future[NDArray[np.float32]]:
        """Start computing the features of the RGB pictures (n, h, w, 3)."""
        check_pictures(pictures)
        if pictures.shape[1:3] != (self._side, self._side):
            raise UsageError(f"this engine was built for pictures of {self._side} x {self._side} pixels")
        batch = _Batch(len(pictures), self.dimension)
        for number, (block, count) in enumerate(in_blocks(pictures, BLOCK)):
            # OpenVINO's start_async waits for an idle request and copies the block into it.
            self._queue.start_async({0: block}, (batch, number * BLOCK, count))
        return batch.future

    def __call__(self, pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the features (n, d) of the RGB pictures (n, h, w, 3)."""
        return check_features(self.submit(pictures).result(), len(pictures), self.dimension)

    def provenance(self) -> dict[str, Any]:
        """Return the provenance of features: engine, precision, streams, device, threads, instruction set, versions."""
        import openvino

        own = {"engine": self.name, "precision": self.precision, "streams": self._streams, "block": BLOCK}
        threads = int(self._compiled.get_property("INFERENCE_NUM_THREADS"))
        ours = {"threads": threads, "openvino": openvino.__version__, "instruction_set": self._instruction_set()}
        return {**own, **versions(torch.device("cpu")), **ours}

    def _instruction_set(self) -> str:
        """Return the instruction sets of the kernels that OpenVINO chose for layers with weights, such as "avx2"."""
        found = set()
        for node in self._compiled.get_runtime_model().get_ops():
            about = {name: node.get_rt_info()[name].astype(str) for name in ("layerType", "primitiveType")}
            if about["layerType"] in _WEIGHTED:
                # Format: <kernel>_<instruction set>_<type>, for example brgconv_avx512_core_f32 or jit_avx2_I8.
                found.add(about["primitiveType"].partition("_")[2].rpartition("_")[0])
        return ", ".join(sorted(found - {""})) or "unknown"


def _configuration(precision: str) -> dict[str, Any]:
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    # No pinning: two processes that share the work would pin their threads to the same cores. Set the precision,
    # because OpenVINO uses bfloat16 by default on a CPU that supports it.
    configuration: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": _HINTS[precision],
        "INFERENCE_NUM_THREADS": threads,
        "ENABLE_CPU_PINNING": False,
        "PERFORMANCE_HINT": "THROUGHPUT",
    }
    if threads <= 4:
        configuration["NUM_STREAMS"] = threads
    return configuration


class _Batch:
    """The features of one submitted batch, filled block by block by OpenVINO's threads."""

    def __init__(self, count: int, dimension: int) -> None:
        self.features = np.empty((count, dimension), np.float32)
        self.future: Future[NDArray[np.float32]] = Future()
        self._missing = count
        self._lock = threading.Lock()

    def fill(self, start: int, count: int, features: NDArray[np.float32]) -> None:
        """Copy the first ``count`` rows of ``features`` into the features of the batch, from its row ``start`` on."""
        self.features[start : start + count] = features[:count]
        with self._lock:
            self._missing -= count
            done = self._missing == 0
        if done and not self.future.done():
            self.future.set_result(self.features)


def _finish(request: Any, place: tuple[_Batch, int, int]) -> None:
    """Store the features of a finished request in its batch. Called in an OpenVINO thread, so it must not raise."""
    batch, start, count = place
    try:
        batch.fill(start, count, request.get_output_tensor(0).data)
    except Exception as error:
        if not batch.future.done():
            batch.future.set_exception(FeatstoreError(f"OpenVINO failed on a batch ({error})"))
