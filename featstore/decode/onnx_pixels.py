"""The preprocessing as an ONNX graph: from a picture of any size to the network's input, with pixels as Pillow's.

Pillow resizes 8-bit pixels in two passes, first horizontally, then vertically. The coefficients are fixed-point numbers
with 22 fractional bits, and each pass rounds its result to 8 bits. The sums in a pass are whole numbers below 2^53, so
float64 matrix products compute them exactly, in any order of summation.
Source: Pillow, src/libImaging/Resample.c (precompute_coeffs, normalize_coeffs_8bpc, clip8).
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np

from featstore.decode.preprocessing import Preprocessing
from featstore.errors import UsageError

INPUT, OUTPUT = "pixels", "input"
OPSET: Final = 17
IR_VERSION: Final = 8
_BITS: Final = 1 << 22
_SUPPORT: Final = {"bilinear": 1.0, "bicubic": 2.0, "lanczos": 3.0}
"""Half the width of each filter kernel: in pixels of the resized picture if it is smaller than the original picture,
otherwise in pixels of the original picture."""
INTERPOLATIONS: Final = tuple(_SUPPORT)


def to_onnx(preprocessing: Preprocessing) -> Any:
    """Return an ONNX model that maps an RGB picture to the normalised input of the network.

    Its input is ``pixels`` (height, width, 3) uint8, its output ``input`` (1, 3, crop, crop) float32. The pixels equal
    those of featstore.decode.decode (the reference decoder, which uses Pillow) for the same picture, except for aspect
    ratios above 300. Raises UsageError for interpolations other than INTERPOLATIONS, and fits other than "crop".
    """
    from onnx import TensorProto, helper

    if preprocessing.fit != "crop":
        # With fits other than "crop", width and height are scaled differently, and Pillow orders its two passes by the
        # scales.
        raise UsageError(
            f"pictures with the fit {preprocessing.fit} have no ONNX form here; export the head alone with --features-only"
        )
    if preprocessing.interpolation not in _SUPPORT:
        raise UsageError(
            f"resizing by {preprocessing.interpolation} has no ONNX form here, only {', '.join(INTERPOLATIONS)}; "
            "export the head alone with --features-only"
        )
    graph = _Graph(preprocessing)
    graph.build()
    pixels = helper.make_tensor_value_info(INPUT, TensorProto.UINT8, ["height", "width", 3])
    crop = preprocessing.crop
    made = helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, [1, 3, crop, crop])
    whole = helper.make_graph(graph.nodes, "preprocessing", [pixels], [made], graph.constants)
    opset = [helper.make_opsetid("", OPSET)]
    return helper.make_model(whole, producer_name="featstore", opset_imports=opset, ir_version=IR_VERSION)


class _Graph:
    """Builder of the ONNX graph. Methods add nodes to the graph and return the names of the nodes' outputs."""

    def __init__(self, preprocessing: Preprocessing) -> None:
        self.preprocessing = preprocessing
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def add(self, kind: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        """Add a node with the operator ``kind`` to the ONNX graph; return the name of its output."""
        from onnx import helper

        name = output or f"pixels_{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def constant(self, value: Any, dtype: Any = np.float64) -> str:
        """Add the constant ``value`` to the ONNX graph; return its name."""
        from onnx import numpy_helper

        name = f"pixels_constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def double(self, name: str) -> str:
        """Add an ONNX node that casts the value ``name`` to float64; return the name of its output."""
        from onnx import TensorProto

        return self.add("Cast", name, to=TensorProto.DOUBLE)

    def build(self) -> None:
        """Add all nodes of the preprocessing to the ONNX graph."""
        from onnx import TensorProto

        crop, shape = self.preprocessing.crop, self.add("Shape", INPUT)
        height, width = (self.double(self.add("Gather", shape, self.constant(at, np.int64))) for at in (0, 1))
        resized = self.resized(width, height)
        across, down = (self.coefficients(have, want) for have, want in ((width, resized[0]), (height, resized[1])))
        pixels = self.add("Transpose", self.double(INPUT), perm=[0, 2, 1])
        rows = self.rounded(self.add("MatMul", pixels, self.add("Transpose", across, perm=[1, 0])))
        flat = self.add("Reshape", rows, self.constant([0, 3 * crop], np.int64))
        both = self.rounded(self.add("MatMul", down, flat))
        planes = self.add("Reshape", both, self.constant([1, crop, 3, crop], np.int64))
        planes = self.add("Cast", self.add("Transpose", planes, perm=[0, 2, 1, 3]), to=TensorProto.FLOAT)
        mean, std = (np.reshape(values, (1, 3, 1, 1)) for values in (self.preprocessing.mean, self.preprocessing.std))
        scaled = self.add("Div", planes, self.constant(255, np.float32))
        centred = self.add("Sub", scaled, self.constant(mean, np.float32))
        self.add("Div", centred, self.constant(std, np.float32), output=OUTPUT)

    def resized(self, width: str, height: str) -> tuple[str, str]:
        """Add ONNX nodes that compute width and height after resizing (see featstore.decode.geometry.resized_size)."""
        shorter = self.constant(self.preprocessing.resize)
        most, least = self.add("Max", width, height), self.add("Min", width, height)
        longer = self.add("Floor", self.add("Div", self.add("Mul", shorter, most), least))
        upright = self.add("LessOrEqual", width, height)
        return self.add("Where", upright, shorter, longer), self.add("Where", upright, longer, shorter)

    def coefficients(self, have: str, want: str) -> str:
        """Add ONNX nodes that compute the resizing matrix (crop, have) of one axis.

        The matrix resizes an axis of ``have`` pixels to ``want`` pixels and keeps only the central ``crop`` pixels.
        """
        crop, half = self.preprocessing.crop, self.constant(0.5)
        support = self.constant(_SUPPORT[self.preprocessing.interpolation])
        # ONNX's Round rounds halves to even, as Python's round does.
        first = self.add("Round", self.add("Mul", self.add("Sub", want, self.constant(crop)), half))
        scale = self.add("Div", have, want)
        spread = self.add("Max", scale, self.constant(1.0))
        reach = self.add("Mul", support, spread)
        places = self.add("Add", self.constant(np.arange(crop).reshape(-1, 1)), first)
        centre = self.add("Mul", self.add("Add", places, half), scale)
        begin = self.add("Floor", self.add("Add", self.add("Sub", centre, reach), half))
        end = self.add("Floor", self.add("Add", self.add("Add", centre, reach), half))
        source = self.add("Range", self.constant(0.0), have, self.constant(1.0))
        offset = self.add("Add", self.add("Sub", source, centre), half)
        weights = self.filtered(self.add("Mul", offset, self.add("Div", self.constant(1.0), spread)))
        inside = self.add("And", self.add("GreaterOrEqual", source, begin), self.add("Less", source, end))
        weights = self.add("Where", inside, weights, self.constant(0.0))
        total = self.add("ReduceSum", weights, self.constant([1], np.int64), keepdims=1)
        scaled = self.add("Mul", self.add("Div", weights, total), self.constant(_BITS))
        # Round halves away from zero, as Pillow does.
        magnitude = self.add("Floor", self.add("Add", self.add("Abs", scaled), half))
        return self.add("Mul", self.add("Sign", scaled), magnitude)

    def filtered(self, x: str) -> str:
        """Add ONNX nodes that compute the values of the interpolation filter at the distances ``x``."""
        if self.preprocessing.interpolation == "lanczos":
            return self.add("Mul", self.sinc(x), self.sinc(self.add("Div", x, self.constant(3.0))))
        distance = self.add("Abs", x)
        if self.preprocessing.interpolation == "bilinear":
            return self.add("Max", self.add("Sub", self.constant(1.0), distance), self.constant(0.0))
        a = -0.5
        near = self.add("Sub", self.add("Mul", self.constant(a + 2), distance), self.constant(a + 3))
        near = self.add("Mul", self.add("Mul", near, distance), distance)
        near = self.add("Add", near, self.constant(1.0))
        far = self.add("Mul", self.add("Sub", distance, self.constant(5.0)), distance)
        far = self.add("Mul", self.add("Add", far, self.constant(8.0)), distance)
        far = self.add("Mul", self.add("Sub", far, self.constant(4.0)), self.constant(a))
        far = self.add("Where", self.add("Less", distance, self.constant(2.0)), far, self.constant(0.0))
        return self.add("Where", self.add("Less", distance, self.constant(1.0)), near, far)

    def sinc(self, x: str) -> str:
        """Add ONNX nodes that compute sinc(x) = sin(pi x) / (pi x), which is 1 at 0."""
        angle = self.add("Mul", x, self.constant(math.pi))
        zero = self.add("Equal", angle, self.constant(0.0))
        safe = self.add("Where", zero, self.constant(1.0), angle)
        return self.add("Where", zero, self.constant(1.0), self.add("Div", self.add("Sin", safe), safe))

    def rounded(self, sums: str) -> str:
        """Add ONNX nodes that round ``sums`` of fixed-point products to integers from 0 to 255."""
        halved = self.add("Add", sums, self.constant(_BITS >> 1))
        whole = self.add("Floor", self.add("Div", halved, self.constant(_BITS)))
        return self.add("Clip", whole, self.constant(0.0), self.constant(255.0))
