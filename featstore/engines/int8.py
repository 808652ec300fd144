"""The int8 engine: a network quantised after training, without a data set.

BatchNorm is folded into convolutions. Then weights are quantised symmetrically per output channel and activations per
tensor, as in Jacob et al. 2018 (arXiv 1712.05877) and Nagel et al. 2021 (arXiv 2106.08295, section 3). The ranges of
the activations are measured on synthetic pictures (leaves.py), so the int8 network depends only on the backbone. With
EfficientNet-Lite0, features had the same cosine to fp32 features (0.994) with synthetic pictures as with photographs.

Processors without VNNI instructions add the products of two neighbouring channels in 16 bits: 255 * 127 fits into 16
bits, the sum 2 * 255 * 127 saturates. Therefore weights are scaled such that two neighbouring quantised weights add up
to at most 128. All processors then compute the same integer sums. The features form one precision class, int8-s16. The
older class int8 used the whole range of weights; its features differed between processors, so it is incompatible.
int8-s16 features are close to fp32 features but not equal: they suit training heads better than search.
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
"""Precision class of the features: 8-bit arithmetic in which the sum of two neighbouring products fits into 16 bits."""
PICTURES: Final = 48
"""Number of synthetic pictures for measuring the ranges of activations."""
_8_BIT_SUMS: Final = frozenset({"avx512_vnni", "avx_vnni", "avx_vnni_int8", "amx_int8", "asimddp", "i8mm"})
"""Linux's names of the CPU features with instructions for sums of 8-bit products, on x86 and aarch64."""
_WITHOUT_8_BIT_SUMS: Final = ("SSE41", "AVX", "AVX2", "AVX512_CORE")
_WEIGHTED: Final = ("Convolution", "GroupConvolution", "MatMul")
Ranges = dict[str, tuple[float, float]]


def has_8_bit_sums() -> bool:
    """Return whether the processor has an instruction that adds products of 8-bit integers.

    Without this instruction int8 is hardly faster than fp32. Returns False also if the operating system does not list
    the processor's instructions, or if oneDNN is configured not to use this instruction.
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

    ``graph``: the result of ``to_graph`` for ``backbone``; it is not changed. ``pictures``: (n, crop, crop, 3) uint8, n
    a multiple of BLOCK. The keys of the result are the names of activations as in ``_places``.
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
    """Engine that runs a network with 8-bit weights and activations by OpenVINO.

    Used only if the user asks for this engine, or if the existing features are int8-s16 features.
    """

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
    # Constant folding replaces a reshape of constant weights by one constant, which _is_constant can recognise.
    passes.register_pass(ConstantFolding())
    passes.run_passes(graph)
    return graph


def _is_constant(output: Any) -> bool:
    return bool(output.get_node().get_type_name() == "Constant")


def _places(graph: Any) -> dict[str, Any]:
    """Return a dict from name to activation for the activations to quantise, in the order of the graph.

    A name is "<number>:<type of the operation that reads the activation>". The activations are the inputs of layers
    with weights, and the two inputs of each addition that joins two branches.
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
    """Return whether the addition ``node`` joins two branches of the network rather than adding a computed bias."""
    shapes = [tuple(node.input_value(i).get_partial_shape().to_shape()) for i in (0, 1)]
    return shapes[0] == shapes[1] and len(shapes[0]) == 4


def _quantise(graph: Any, ranges: Ranges) -> None:
    """Insert FakeQuantize operations into ``graph``, in place; OpenVINO compiles these to integer arithmetic."""
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
    """Return, for each output channel, the weight that is quantised to 127; the array broadcasts over the weights.

    Products of two neighbouring weights a and b are added in 16 bits. The returned value is at least |a|, |b| and |a +
    b|. Therefore the quantised a and b, in steps of 1/127 of this value, add up to at most 128, and 128 * 255 fits into
    16 bits.
    """
    kind = node.get_type_name()
    if kind == "GroupConvolution":  # The weights have the axes (groups, out, in, height, width).
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
        # With an odd number of channels, OpenVINO's kernels differ in which channel they add to the last one.
        largest = 2 * largest
    greatest: NDArray[np.float32] = np.moveaxis(largest, -1, inputs).max(axis=axes, keepdims=True)
    return np.maximum(greatest, np.float32(1e-12))


def _quantisation_range(low: float, high: float) -> tuple[np.float32, np.float32]:
    """Return (lowest, highest) of the 256 quantisation levels for values between ``low`` and ``high``.

    The levels start at 0 if no value is negative; otherwise they are -128 to 127 times one step.
    """
    if low >= 0:
        return np.float32(0), np.float32(max(high, 1e-6))
    greatest = max(-low * 127 / 128, high, 1e-6)
    return np.float32(-greatest * 128 / 127), np.float32(greatest)
