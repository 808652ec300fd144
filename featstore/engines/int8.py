"""The int8 engine: a network quantised after training, without a data set.

Weights are quantised symmetrically per output channel, activations per tensor, as in Jacob et al. 2018 (arXiv
1712.05877) and Nagel et al. 2021 (arXiv 2106.08295, section 3), after folding BatchNorm. The ranges of the activations
are measured on synthetic pictures (leaves.py). For EfficientNet-Lite0 these worked as well as the user's own pictures
would (cosine 0.994 to fp32 either way). So the int8 network depends on the backbone only.

Processors without VNNI instructions add the products of two neighbouring channels in 16 bits, with saturation: 255 *
127 fits, twice that does not. So the weights are scaled such that the two quantised weights of a pair add up to at most
128, and every processor computes the same integer sums. The features are one precision class, int8-s16. Features of the
older class int8, whose weights used the whole range, differed between kinds of processors and are incompatible.
int8-s16 features are close to those of fp32 but not equal: good for training heads, less so for search.
"""

from __future__ import annotations

import os
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from featstore.backbones import Backbone
from featstore.engines.leaves import dead_leaves
from featstore.engines.openvino import BLOCK, OpenVinoEngine, core, to_graph, with_normalisation
from featstore.errors import UsageError

PRECISION: Final = "int8-s16"
"""Precision class of the features: 8-bit integers such that the sum of two products fits into 16 bits."""
PICTURES: Final = 48
"""Number of synthetic pictures for measuring the ranges."""
_8_BIT_SUMS: Final = frozenset({"avx512_vnni", "avx_vnni", "avx_vnni_int8", "amx_int8", "asimddp", "i8mm"})
"""Linux's names of the instructions, on x86 and aarch64."""
_WITHOUT_8_BIT_SUMS: Final = ("SSE41", "AVX", "AVX2", "AVX512_CORE")
_WEIGHTED: Final = ("Convolution", "GroupConvolution", "MatMul")
Ranges = dict[str, tuple[float, float]]


def has_8_bit_sums() -> bool:
    """Return whether the processor sums products of 8-bit integers in one instruction; without it, int8 is hardly
    faster.

    False also if the system does not report it, or if oneDNN is configured not to use such instructions.
    """
    if os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper() in _WITHOUT_8_BIT_SUMS:
        return False
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            lines = [line for line in file if line.startswith(("flags", "Features"))]
    except OSError:
        return False
    return bool(lines) and not _8_BIT_SUMS.isdisjoint(lines[0].split())


def measure_ranges(graph: Any, backbone: Backbone, pictures: NDArray[np.uint8]) -> Ranges:
    """Return the minimum and maximum of each quantised activation of ``graph`` over ``pictures``.

    ``graph``: the backbone's, as from ``to_graph``; not changed. ``pictures``: (n, crop, crop, 3) uint8, n a multiple
    of BLOCK. The names of the activations give their place in the graph.
    """
    import openvino as ov
    from openvino import opset13 as ops

    graph = graph.clone()
    places = _places(graph)
    extremes = []
    for output in places.values():
        axes = np.arange(len(output.get_partial_shape()))
        extremes += [ops.reduce_min(output, axes, False), ops.reduce_max(output, axes, False)]
    watched = with_normalisation(ov.Model(extremes, graph.get_parameters(), "ranges"), backbone.preprocessing)
    compiled = core().compile_model(watched, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    blocks = pictures.reshape(-1, BLOCK, *pictures.shape[1:])
    values = np.array([list(compiled({0: block}).values()) for block in blocks], np.float64).reshape(len(blocks), -1, 2)
    if not np.isfinite(values).all():
        raise UsageError(f"the activations of {backbone.name} are not finite; int8 needs other weights")
    return {name: (float(values[:, i, 0].min()), float(values[:, i, 1].max())) for i, name in enumerate(places)}


class Int8Engine(OpenVinoEngine):
    """OpenVINO with 8-bit weights and activations. Only used if requested by name."""

    name = "openvino-int8"

    def __init__(self, backbone: Backbone) -> None:
        pictures = np.stack([dead_leaves(seed, backbone.preprocessing.crop) for seed in range(PICTURES)])
        graph = _graph(backbone)
        _quantise(graph, measure_ranges(graph, backbone, pictures))
        super().__init__(backbone, PRECISION, graph=graph)


def _graph(backbone: Backbone) -> Any:
    from openvino.passes import ConstantFolding, Manager

    graph = to_graph(backbone.module, backbone.preprocessing.crop)
    passes = Manager()
    passes.register_pass(ConstantFolding())  # reshaped weights become constants
    passes.run_passes(graph)
    return graph


def _is_constant(output: Any) -> bool:
    return bool(output.get_node().get_type_name() == "Constant")


def _places(graph: Any) -> dict[str, Any]:
    """Return the activations to quantise, named "<number>:<kind of the consumer>", in the order of the graph.

    These are the inputs of layers with weights, and both inputs of additions that join two branches.
    """
    places: dict[tuple[str, int], tuple[str, Any]] = {}
    for node in graph.get_ordered_ops():
        kind = node.get_type_name()
        if kind in _WEIGHTED and _is_constant(node.input_value(1)):
            sources = [node.input_value(0)]
        elif kind == "Add" and not any(_is_constant(node.input_value(i)) for i in (0, 1)) and _joins(node):
            sources = [node.input_value(0), node.input_value(1)]
        else:
            continue
        for source in sources:
            key = (source.get_node().get_friendly_name(), source.get_index())
            if key not in places:
                places[key] = (f"{len(places)}:{kind}", source)
    return dict(places.values())


def _joins(node: Any) -> bool:
    """Return whether an addition joins two branches of the network; otherwise it adds a computed bias."""
    shapes = [tuple(node.input_value(i).get_partial_shape().to_shape()) for i in (0, 1)]
    return shapes[0] == shapes[1] and len(shapes[0]) == 4


def _quantise(graph: Any, ranges: Ranges) -> None:
    """Insert FakeQuantize operations into ``graph``; OpenVINO turns them into integer arithmetic."""
    from openvino import opset13 as ops

    places = _places(graph)
    for node in graph.get_ordered_ops():
        kind = node.get_type_name()
        if kind in _WEIGHTED and _is_constant(node.input_value(1)):
            weights = node.input_value(1)
            end = _range_by_channel(node, weights.get_node().get_data())
            quantised = ops.fake_quantize(weights, -end, end, -end, end, 255)
            node.input(1).replace_source_output(quantised.output(0))
    for name, output in places.items():
        low, high = _quantisation_range(*ranges[name])
        consumers = output.get_target_inputs()
        quantised = ops.fake_quantize(output, low, high, low, high, 256)
        for consumer in consumers:
            consumer.replace_source_output(quantised.output(0))
    graph.validate_nodes_and_infer_types()


def _range_by_channel(node: Any, weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the weight that maps to 127 in each output channel, shaped to broadcast over the weights.

    Consider two weights whose products are added in 16 bits. The returned value is at least the absolute value of each
    and of their sum. So, rounded to steps of 1/127 of it, they add up to at most 128, and 128 * 255 fits.
    """
    kind = node.get_type_name()
    if kind == "GroupConvolution":  # Axes (groups, out, in, height, width).
        inputs, axes = 2, tuple(range(2, weights.ndim))
    elif kind == "Convolution":
        inputs, axes = 1, tuple(range(1, weights.ndim))
    else:
        inputs = weights.ndim - 1 if node.get_attributes()["transpose_b"] else weights.ndim - 2
        axes = (inputs,)
    channels = np.moveaxis(weights, inputs, -1)
    largest = np.abs(channels)
    if channels.shape[-1] % 2 == 0:
        pairs = np.abs(channels[..., ::2] + channels[..., 1::2])
        largest = np.maximum(largest, np.repeat(pairs, 2, axis=-1))
    elif channels.shape[-1] > 1:
        # With an odd number of channels, kernels differ in the partner of the last one.
        largest = 2 * largest
    greatest: NDArray[np.float32] = np.moveaxis(largest, -1, inputs).max(axis=axes, keepdims=True)
    return np.maximum(greatest, np.float32(1e-12))


def _quantisation_range(low: float, high: float) -> tuple[np.float32, np.float32]:
    """Return the range of 256 levels: unsigned if nothing is negative, otherwise symmetric with an exact zero."""
    if low >= 0:
        return np.float32(0), np.float32(max(high, 1e-6))
    greatest = max(-low * 127 / 128, high, 1e-6)
    return np.float32(-greatest * 128 / 127), np.float32(greatest)
