"""Train a multilayer perceptron with PyTorch: mini-batches, AdamW, a cosine schedule and early stopping.

All random numbers are NumPy's and come from one seed. The batches are copied into PyTorch's own aligned memory. So the
same rows, seed and number of threads give bit-identical weights. PyTorch's global generator and number of threads are
not changed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional
from torch.optim.adamw import adamw

from featstore.errors import DataError
from featstore.heads.calibration import log_softmax
from featstore.heads.sampling import Draw

_BETAS: Final = (0.9, 0.999)
_EPSILON: Final = 1e-8
"""Constants of AdamW, the defaults of torch.optim.AdamW. That class would load PyTorch's compiler, which takes 2 s; its
function does not."""
_JUDGED_ROWS: Final = 1024
_LEAST_BATCHES: Final = 8
_STEPS_OF_DROPOUT: Final = 1 << 16
"""Dropout compares 16 random bits per unit: torch's own generator takes a tenth of the time of the matrix products."""


@dataclass(frozen=True)
class Plan:
    """Settings of a training: hidden units per layer, outputs of the last layer, and the parameters of MLPHead with the
    same names. ``sets``: whether the targets are label sets, where each output is the logit of a label.
    """

    hidden: tuple[int, ...]
    outputs: int
    dropout: float
    epochs: int
    patience: int
    learning_rate: float
    weight_decay: float
    batch_size: int
    sets: bool = False

    @property
    def of_two_classes(self) -> bool:
        """Whether the outputs are those of a softmax over two classes."""
        return self.outputs == 2 and not self.sets


@dataclass(frozen=True)
class Targets:
    """What each row should give, the weight of its loss, and the rows that are held out to judge epochs.

    ``codes``: class numbers (n,), or label sets (n, k) of 1 and 0. ``weights``: (n,). ``held_out``: row numbers (m,).
    ``label_weights``: (2, k) factors of the loss of each label, for rows that lack it and rows that have it; None: 1.
    """

    codes: NDArray[Any]
    weights: NDArray[np.float32]
    held_out: NDArray[np.intp]
    label_weights: NDArray[np.float32] | None = None

    def weights_of_labels(self, rows: NDArray[np.intp]) -> NDArray[np.float32] | None:
        """Return the factor (m, k) of each label's loss for ``rows``, or None if all factors are 1."""
        if self.label_weights is None:
            return None
        lacking, having = self.label_weights
        return np.asarray(np.where(self.codes[rows] == 1, having, lacking))


@dataclass
class Trained:
    """The best epoch: weights and biases per layer, and decision values (m, c) of the held-out rows.

    ``losses`` and ``held_out_losses``: of each trained epoch; ``held_out_losses`` is empty if there are no held-out
    rows.
    """

    weights: list[NDArray[np.float32]] = field(default_factory=list)
    biases: list[NDArray[np.float32]] = field(default_factory=list)
    decisions: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 1)))
    epochs: int = 0
    losses: list[float] = field(default_factory=list)
    held_out_losses: list[float] = field(default_factory=list)


def train(values: NDArray[np.float32], targets: Targets, draw: Draw, plan: Plan, seed: int) -> Trained:
    """Return the network of the best epoch on ``values`` (n, d); ``draw`` gives the rows of an epoch in their order.

    Training stops if the held-out loss has not fallen for ``plan.patience`` epochs. Without held-out rows, all epochs
    are trained and the weights of the last epoch are returned. Raises DataError if the loss is no longer finite.
    """
    random = np.random.default_rng(seed)
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast("cpu", enabled=False),
        # Silence NumPy's warning of overflow: after each epoch, training checks that the values are finite.
        np.errstate(over="ignore", invalid="ignore"),
    ):
        network = Network(values.shape[1], plan, random)
        trained = Trained()
        for epoch in range(plan.epochs):
            rate = plan.learning_rate * (1 + math.cos(math.pi * epoch / plan.epochs)) / 2
            loss = network.learn(values, targets, draw(random), rate)
            decisions = network.decide(values, targets.held_out)
            if not (math.isfinite(loss) and network.is_finite() and np.isfinite(decisions).all()):
                raise DataError(_why_not_finite(values, epoch, plan))
            trained.losses.append(loss)
            if not len(targets.held_out):
                continue
            judged = _judge(decisions, targets)
            if not trained.held_out_losses or judged < min(trained.held_out_losses):
                trained.epochs, trained.decisions = epoch + 1, decisions
                trained.weights, trained.biases = network.arrays()
            trained.held_out_losses.append(judged)
            if epoch + 1 - trained.epochs >= plan.patience:
                break
        if not trained.epochs:
            trained.epochs = plan.epochs
            trained.weights, trained.biases = network.arrays()
    return trained


def batches_of(rows: int, batch_size: int) -> int:
    """Return the number of mini-batches of an epoch of ``rows`` rows.

    The number is at least _LEAST_BATCHES if each mini-batch then has at least _LEAST_BATCHES rows. With one step per
    epoch, training on few rows would end far from the optimum.
    """
    return max(math.ceil(rows / batch_size), min(_LEAST_BATCHES, rows // _LEAST_BATCHES))


def _why_not_finite(values: NDArray[np.float32], epoch: int, plan: Plan) -> str:
    if not all(
        np.isfinite(values[start : start + _JUDGED_ROWS]).all() for start in range(0, len(values), _JUDGED_ROWS)
    ):
        return "the features are too large for float32 after standardising; scale them down"
    return (
        f"the loss of the network is not finite in epoch {epoch + 1}: learning_rate={plan.learning_rate:g} or "
        f"weight_decay={plan.weight_decay:g} is too large for these features; give a smaller value "
        "(--set learning_rate=0.0001)"
    )


def _judge(decisions: NDArray[np.float64], targets: Targets) -> float:
    """Return the weighted mean log loss of the held-out rows; for label sets, averaged over the labels."""
    rows = targets.held_out
    if targets.codes.ndim == 1:
        losses = -log_softmax(decisions)[np.arange(len(rows)), targets.codes[rows]]
    else:
        by_label = np.logaddexp(0, np.where(targets.codes[rows] == 1, -decisions, decisions))
        factors = targets.weights_of_labels(rows)
        losses = (by_label if factors is None else by_label * factors).mean(axis=1)
    return float(np.average(losses, weights=targets.weights[rows]))


class Network:
    """The layers of a perceptron in training: weights, biases, AdamW state, and buffers for a batch."""

    def __init__(self, dimension: int, plan: Plan, random: np.random.Generator) -> None:
        self._plan, self._random = plan, random
        widths = [dimension, *plan.hidden, plan.outputs]
        self.layers = [_layer(*pair, random) for pair in pairwise(widths)]
        self._parameters = [one for layer in self.layers for one in layer]
        self._means = [torch.zeros_like(one) for one in self._parameters]
        self._squares = [torch.zeros_like(one) for one in self._parameters]
        self._steps = [torch.zeros((), dtype=torch.float32, device="cpu") for _ in self._parameters]
        self._batch = torch.empty((max(plan.batch_size, _JUDGED_ROWS), dimension), dtype=torch.float32, device="cpu")

    def learn(self, values: NDArray[np.float32], targets: Targets, order: NDArray[np.intp], rate: float) -> float:
        """Train one epoch on the rows of ``order`` with the learning rate ``rate``; return the mean loss."""
        total = 0.0
        # Make batches of nearly equal size: the gradient of a batch with only a few rows would be noise.
        for rows in np.array_split(order, batches_of(len(order), self._plan.batch_size)):
            outputs = self._forward(self._gather(values, rows), training=True)
            loss = (_losses(outputs, targets, rows) * torch.from_numpy(targets.weights[rows])).mean()
            loss.backward()  # type: ignore[no-untyped-call]
            self._step(rate)
            total += float(loss.detach()) * len(rows)
        return total / len(order)

    def decide(self, values: NDArray[np.float32], rows: NDArray[np.intp]) -> NDArray[np.float64]:
        """Return the network's decision values (m, c) for ``rows`` of ``values``, without dropout.

        c is 1 for two classes, else the number of classes or labels.
        """
        with torch.no_grad():
            parts = [
                self._forward(self._gather(values, rows[start : start + _JUDGED_ROWS]), training=False).numpy()
                for start in range(0, len(rows), _JUDGED_ROWS)
            ]
        decisions = np.concatenate([np.zeros((0, self._plan.outputs)), *parts])
        return decisions[:, 1:] - decisions[:, :1] if self._plan.of_two_classes else decisions

    def is_finite(self) -> bool:
        """Return whether all weights and biases are finite."""
        return all(bool(torch.isfinite(one).all()) for one in self._parameters)

    def arrays(self) -> tuple[list[NDArray[np.float32]], list[NDArray[np.float32]]]:
        """Return copies of the weights and biases. The two outputs of a softmax over two classes become one, their
        difference.
        """
        weights, biases = ([layer[part].detach().numpy().copy() for layer in self.layers] for part in (0, 1))
        if self._plan.of_two_classes:
            weights[-1], biases[-1] = weights[-1][1:] - weights[-1][:1], biases[-1][1:] - biases[-1][:1]
        return weights, biases

    def _gather(self, values: NDArray[np.float32], rows: NDArray[np.intp]) -> torch.Tensor:
        batch = self._batch[: len(rows)]
        # mode="clip" lets numpy write to ``out`` without a temporary copy; all row numbers are in range anyway.
        np.take(values, rows, axis=0, out=batch.numpy(), mode="clip")
        return batch

    def _forward(self, values: torch.Tensor, *, training: bool) -> torch.Tensor:
        for number, (weight, bias) in enumerate(self.layers):
            if number:
                kept = self._kept(values.shape) if training and self._plan.dropout else np.ones(1, np.float32)
                values = _Rectified.apply(values, kept)
            values = functional.linear(values, weight, bias)
        return values

    def _kept(self, shape: torch.Size) -> NDArray[np.float32]:
        """Return a random mask of the units that dropout keeps, scaled so that the expected value stays the same."""
        dropped = round(self._plan.dropout * _STEPS_OF_DROPOUT)
        bits = self._random.integers(0, _STEPS_OF_DROPOUT, tuple(shape), np.uint16)
        return np.asarray((bits >= dropped) * np.float32(_STEPS_OF_DROPOUT / (_STEPS_OF_DROPOUT - dropped)))

    def _step(self, rate: float) -> None:
        """Update weights and biases by one step of AdamW (Loshchilov and Hutter 2019) with the learning rate
        ``rate``."""
        gradients = [one.grad for one in self._parameters if one.grad is not None]
        with torch.no_grad():
            adamw(
                self._parameters,
                gradients,
                self._means,
                self._squares,
                [],
                self._steps,
                fused=True,
                amsgrad=False,
                maximize=False,
                beta1=_BETAS[0],
                beta2=_BETAS[1],
                eps=_EPSILON,
                lr=rate,
                weight_decay=self._plan.weight_decay,
            )
        for one in self._parameters:
            one.grad = None


class _Rectified(torch.autograd.Function):
    """ReLU times a mask, computed by NumPy. With PyTorch, threads would wait for each other after each of these short
    operations.
    """

    @staticmethod
    def forward(context: Any, values: torch.Tensor, kept: NDArray[np.float32]) -> torch.Tensor:
        """Return ReLU of ``values`` (m, units), multiplied by the dropout mask ``kept``."""
        context.factor = (values.numpy() > 0) * kept
        return _times(values, context.factor)

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        """Return the gradient of the loss with respect to ``values``, the input. The mask has no gradient."""
        return _times(gradient, context.factor), None


def _times(values: torch.Tensor, factor: NDArray[np.float32]) -> torch.Tensor:
    """Return ``values * factor`` in PyTorch's own aligned memory."""
    made = torch.empty_like(values)
    np.multiply(values.detach().numpy(), factor, out=made.numpy())
    return made


def _layer(inputs: int, outputs: int, random: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Return random weights (outputs, inputs) and bias (outputs,), initialised as by torch.nn.Linear."""
    bound = 1 / math.sqrt(inputs)
    return _parameter((outputs, inputs), bound, random), _parameter((outputs,), bound, random)


def _parameter(shape: tuple[int, ...], bound: float, random: np.random.Generator) -> torch.Tensor:
    made = torch.empty(shape, dtype=torch.float32, device="cpu")
    made.numpy()[...] = random.uniform(-bound, bound, shape)
    return made.requires_grad_()


def _losses(outputs: torch.Tensor, targets: Targets, rows: NDArray[np.intp]) -> torch.Tensor:
    """Return the log loss (m,) of each of ``rows``; for label sets, the mean of the binary cross-entropies."""
    codes = targets.codes[rows]
    if codes.ndim == 2:
        factors = targets.weights_of_labels(rows)
        weight = None if factors is None else torch.from_numpy(factors)
        sets = torch.from_numpy(codes.astype(np.float32))
        losses = functional.binary_cross_entropy_with_logits(outputs, sets, weight=weight, reduction="none")
        return losses.mean(dim=1)
    truth = torch.from_numpy(codes.astype(np.int64, copy=False))
    if outputs.shape[1] == 1:
        return functional.binary_cross_entropy_with_logits(outputs[:, 0], truth.to(torch.float32), reduction="none")
    return functional.cross_entropy(outputs, truth, reduction="none")
