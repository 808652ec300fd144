"""Export heads to ONNX, which needs the package ``onnx`` (a pip extra of featstore)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from featstore.errors import UsageError
from featstore.files import atomic
from featstore.heads.headfile import TrainedHead
from featstore.heads.label_sets import LabelSetsModel
from featstore.heads.models import KernelModel, LinearModel, NeighboursModel
from featstore.heads.network import NetworkModel
from featstore.heads.network_sets import NetworkSetsModel
from featstore.heads.numbers import NumbersModel
from featstore.text import printable

_OPSET: Final = 17
_IR_VERSION: Final = 8
"""Version of the ONNX operator set, old enough for all ONNX runtimes of recent years."""


def export_onnx(head: TrainedHead, path: Path) -> None:
    """Write ``head`` as an ONNX model, which computes in float32.

    Input: ``features`` (n, d) float32. Outputs: ``label`` (n,) text, and ``probabilities`` (n, k). A head that predicts
    label sets has the output ``chosen`` (n, k) bool instead of ``label``, and its labels are in the metadata. A head
    that predicts numbers has only the output ``number`` (n, 1). Raises UsageError if the package ``onnx`` is missing,
    OSError if writing fails.
    """
    atomic.write_bytes(path, to_onnx(head))


def to_onnx(head: TrainedHead) -> bytes:
    """Return the serialised ONNX model of ``head``, validated by ``onnx.checker``.

    Raises UsageError if the package ``onnx`` is missing.
    """
    try:
        import onnx
    except ImportError:
        raise UsageError("exporting to ONNX needs the package onnx; run: pip install 'image-featstore[onnx]'") from None
    graph = _Graph(head.dimension, head.classes)
    model = head.model
    if isinstance(model, LinearModel):
        decisions = graph.gemm("features", model.coef, model.intercept)
        graph.finish(decisions, graph.softmax(decisions, model.scale))
    elif isinstance(model, KernelModel):
        decisions = graph.gemm(graph.rbf(model), model.coef, model.intercept)
        graph.finish(decisions, graph.softmax(decisions, model.scale))
    elif isinstance(model, NetworkModel):
        decisions = graph.layers(model)
        graph.finish(decisions, graph.softmax(decisions, model.scale))
    elif isinstance(model, LabelSetsModel):
        graph.finish_sets(graph.gemm("features", model.coef, model.intercept), model.thresholds)
    elif isinstance(model, NetworkSetsModel):
        graph.finish_sets(graph.layers(model.network), model.thresholds)
    elif isinstance(model, NumbersModel):
        graph.finish_numbers(graph.gemm("features", model.coef, model.intercept))
    elif isinstance(model, NeighboursModel):
        shares = graph.vote(model)
        graph.finish(shares, shares)
    else:
        raise UsageError(
            f"a head of {printable(head.kind)} has no ONNX form here; export it with --sklearn, for skl2onnx"
        )
    notes = {"featstore head": head.kind, "fingerprint": head.fingerprint}
    if isinstance(model, LabelSetsModel | NetworkSetsModel):
        notes["labels"] = json.dumps(head.classes)
    made = graph.build(notes)
    onnx.checker.check_model(made)
    return bytes(made.SerializeToString())


class _Graph:
    """Builder of an ONNX graph; most methods add nodes and return the name of the last node's output."""

    def __init__(self, dimension: int, classes: list[str]) -> None:
        from onnx import helper

        self._helper = helper
        self._dimension, self._classes = dimension, classes
        self._nodes: list[Any] = []
        self._constants: list[Any] = []
        self._chosen = False

    def _add(self, kind: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        name = output or f"{kind.lower()}_{len(self._nodes)}"
        self._nodes.append(self._helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def _constant(self, value: Any, dtype: Any = np.float32) -> str:
        from onnx import numpy_helper

        name = f"constant_{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def gemm(self, values: str, coef: NDArray[Any], intercept: NDArray[Any]) -> str:
        """Add ONNX nodes that compute ``values @ coef.T + intercept``."""
        return self._add("Gemm", values, self._constant(coef), self._constant(intercept), transB=1)

    def softmax(self, decisions: str, scale: float) -> str:
        """Add ONNX nodes that turn decision values (n, c) into probabilities (n, k)."""
        scaled = self._add("Mul", decisions, self._constant(scale))
        if len(self._classes) > 2:
            return self._add("Softmax", scaled, axis=1)
        positive = self._add("Sigmoid", scaled)
        negative = self._add("Sigmoid", self._add("Neg", scaled))
        return self._add("Concat", negative, positive, axis=1)

    def rbf(self, model: KernelModel) -> str:
        """Add ONNX nodes that compute the kernel matrix (n, m) of standardised features and landmarks."""
        centred = self._add("Sub", "features", self._constant(model.mean))
        values = self._add("Mul", centred, self._constant(1.0 / model.spread))
        squares = self._add("ReduceSumSquare", values, axes=[1], keepdims=1)
        product = self._add("MatMul", values, self._constant(-2.0 * model.landmarks.T))
        landmarks = self._constant(np.einsum("ij,ij->i", model.landmarks, model.landmarks, dtype=np.float64))
        distance = self._add("Add", self._add("Add", product, squares), landmarks)
        distance = self._add("Max", distance, self._constant(0.0))
        return self._add("Exp", self._add("Mul", distance, self._constant(-model.gamma)))

    def layers(self, model: NetworkModel) -> str:
        """Add ONNX nodes that compute the decision values (n, c) of a multilayer perceptron."""
        values = self._add(
            "Mul", self._add("Sub", "features", self._constant(model.mean)), self._constant(1 / model.spread)
        )
        for number, (weight, bias) in enumerate(zip(model.weights, model.biases, strict=True)):
            values = self.gemm(self._add("Relu", values) if number else values, weight, bias)
        return values

    def vote(self, model: NeighboursModel) -> str:
        """Add ONNX nodes that compute each class's share (n, k) of the votes of the nearest training rows."""
        centred = self._add("Sub", "features", self._constant(model.mean))
        length = self._add("ReduceL2", centred, axes=[1], keepdims=1)
        unit = self._add("Div", centred, self._add("Max", length, self._constant(1e-30)))
        similarity = self._add("MatMul", unit, self._constant(model.vectors.T))
        count = self._constant([min(model.neighbours, len(model.vectors))], np.int64)
        found, index = "nearest_similarity", "nearest_index"
        self._nodes.append(self._helper.make_node("TopK", [similarity, count], [found, index], axis=1))
        best = self._add("ReduceMax", found, axes=[1], keepdims=1)
        relative = self._add("Mul", self._add("Sub", found, best), self._constant(1.0 / model.temperature))
        weights = self._add("Unsqueeze", self._add("Exp", relative), self._constant([2], np.int64))
        codes = self._add("Gather", self._constant(model.codes, np.int64), index)
        one_hot = self._add(
            "OneHot", codes, self._constant(model.classes, np.int64), self._constant([0.0, 1.0]), axis=-1
        )
        votes = self._add("ReduceSum", self._add("Mul", weights, one_hot), self._constant([1], np.int64), keepdims=0)
        total = self._add("ReduceSum", votes, self._constant([1], np.int64), keepdims=1)
        return self._add("Div", votes, total)

    def finish(self, decisions: str, probabilities: str) -> None:
        """Add the outputs ``label`` (the class with the largest decision value) and ``probabilities`` to the ONNX
        graph."""
        if len(self._classes) == 2 and decisions != probabilities:
            decisions = self._add("Concat", self._add("Neg", decisions), decisions, axis=1)
        code = self._add("ArgMax", decisions, axis=1, keepdims=0)
        self._add("Gather", self._text(), code, output="label")
        self._add("Identity", probabilities, output="probabilities")

    def finish_sets(self, decisions: str, thresholds: NDArray[np.float64]) -> None:
        """Add the outputs ``chosen`` (whether a label's probability reaches its threshold) and ``probabilities``."""
        self._add("Sigmoid", decisions, output="probabilities")
        self._add("GreaterOrEqual", "probabilities", self._constant(thresholds), output="chosen")
        self._chosen = True

    def finish_numbers(self, numbers: str) -> None:
        self._add("Identity", numbers, output="number")

    def _text(self) -> str:
        from onnx import TensorProto

        raw: Any = [name.encode("utf-8", "surrogatepass") for name in self._classes]
        self._constants.append(self._helper.make_tensor("classes", TensorProto.STRING, [len(raw)], raw))
        return "classes"

    def build(self, notes: dict[str, str]) -> Any:
        """Return the ONNX model of the graph, with ``notes`` as its metadata."""
        from onnx import TensorProto

        helper = self._helper
        features = helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", self._dimension])
        outputs = [
            helper.make_tensor_value_info("chosen", TensorProto.BOOL, ["n", len(self._classes)])
            if self._chosen
            else helper.make_tensor_value_info("label", TensorProto.STRING, ["n"]),
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["n", len(self._classes)]),
        ]
        if not self._classes:
            outputs = [helper.make_tensor_value_info("number", TensorProto.FLOAT, ["n", 1])]
        graph = helper.make_graph(self._nodes, "head", [features], outputs, self._constants)
        opset = [helper.make_opsetid("", _OPSET)]
        model = helper.make_model(graph, producer_name="featstore", opset_imports=opset, ir_version=_IR_VERSION)
        helper.set_model_props(model, notes)
        return model
