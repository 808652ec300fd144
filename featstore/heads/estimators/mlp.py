"""The multilayer perceptron as a scikit-learn classifier."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.validation import check_consistent_length

from featstore import defaults, splits
from featstore.errors import DataError
from featstore.heads import calibration
from featstore.heads.estimators.inputs import ClassWeight, check_training, class_weights, row_weights, seed_of
from featstore.heads.estimators.linear import DecisionHead
from featstore.heads.network import MOST_LAYERS, NetworkModel
from featstore.heads.sampling import Draw, balanced_sampler
from featstore.heads.solvers.blocks import measure
from featstore.heads.solvers.copies import standardised_copy
from featstore.heads.solvers.passes import few_threads

if TYPE_CHECKING:
    from featstore.heads.solvers.perceptron import Plan, Targets

OUTPUTS: Final = ("softmax", "sigmoid")
BALANCES: Final = ("none", "weights", "sampler")
_MOST_WEIGHTS: Final = 1 << 26
"""Largest number of weights of a network. The weights take 256 MiB; with gradients and Adam's moments four times as
much.
"""
_MOST_EPOCHS: Final = 1000
_MOST_ROWS: Final = 1 << 16


class MLPHead(DecisionHead):
    """Multilayer perceptron with ReLU and dropout, trained with AdamW in mini-batches on standardised features.

    The learning rate falls to 0 by a half cosine over ``epochs``. Training stops early if the loss on a held-out part
    of the rows no longer falls, and the weights of the best epoch are kept. Needs PyTorch for training, not for
    prediction.

    Parameters
    ----------
    hidden : int or sequence of int
        Units of each hidden layer.
    dropout : float
        Share of hidden units that a training step leaves out, from 0 to 0.999.
    output : "softmax" or "sigmoid"
        Softmax over one output per class, or, for two classes, the sigmoid of a single output.
    balance : "none", "weights" or "sampler"
        "weights" is ``class_weight="balanced"``. "sampler" draws each epoch's rows with replacement, every class
        equally often.
    class_weight : None, "balanced" or mapping
        Weight of each class, as in scikit-learn. Only with ``balance="none"``.
    validation_fraction : float
        Share of the rows, stratified, that judges the epochs and on which temperature scaling is fitted. If no row can
        be held out, because every class has a single row or group, all epochs are trained.
    epochs : int
        Largest number of epochs.
    patience : int
        Number of epochs without a lower held-out loss after which training stops.
    learning_rate : float
        Learning rate of the first epoch.
    weight_decay : float
        Decoupled weight decay of AdamW.
    batch_size : int
        Largest number of rows in a mini-batch. An epoch of 64 or more rows has at least 8 mini-batches.
    memory_limit : int
        Bytes of the float32 copy of the training rows, above which the copy is a temporary file.
    random_state : int, RandomState or None
        Seed of the held-out part, the first weights, the batches and dropout.

    Attributes
    ----------
    classes_ : ndarray of shape (k,)
        Class labels, sorted.
    feature_identity_ : dict or None
        Identity that the training features carried (see ``featstore.FeatureArray``); prediction refuses another one.
    epochs_ : int
        The epoch whose weights were kept, counted from 1.
    n_iter_ : int
        Number of epochs that were trained.
    history_ : dict
        Loss of each epoch, "loss" on the training rows (with dropout) and "held_out_loss".
    model_ : NetworkModel
        The fitted model in numpy alone.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from featstore.heads import MLPHead
    >>> X, y = load_iris(return_X_y=True)
    >>> head = MLPHead(hidden=32, dropout=0.1).fit(X, y)
    >>> head.predict(X[:2])
    array([0, 0])
    >>> head.predict_proba(X[:2]).shape
    (2, 3)
    """

    def __init__(
        self,
        hidden: int | Sequence[int] = defaults.MLP_HIDDEN,
        *,
        dropout: float = defaults.MLP_DROPOUT,
        output: str = "softmax",
        balance: str = "none",
        class_weight: ClassWeight = None,
        validation_fraction: float = defaults.MLP_VALIDATION,
        epochs: int = defaults.MLP_EPOCHS,
        patience: int = defaults.MLP_PATIENCE,
        learning_rate: float = defaults.MLP_LEARNING_RATE,
        weight_decay: float = defaults.MLP_WEIGHT_DECAY,
        batch_size: int = defaults.MLP_BATCH,
        memory_limit: int = defaults.HEAD_MEMORY,
        random_state: Any = defaults.SEED,
    ) -> None:
        self.hidden = hidden
        self.dropout = dropout
        self.output = output
        self.balance = balance
        self.class_weight = class_weight
        self.validation_fraction = validation_fraction
        self.epochs = epochs
        self.patience = patience
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.batch_size = batch_size
        self.memory_limit = memory_limit
        self.random_state = random_state

    def fit(self, X: Any, y: Any, sample_weight: ArrayLike | None = None, *, groups: ArrayLike | None = None) -> Self:
        """Fit on ``X`` (n, d), an array, sparse matrix or block source, and ``y`` (n,).

        ``groups`` (n,): rows of a group are held out together. ``sample_weight`` (n,): factor of each row's loss; a row
        of weight 0 is never held out. Raises DataError (a ValueError) for a single class, NaN or infinity, different
        numbers of rows, invalid weights or parameters, or a loss that is not finite.
        """
        X, codes, self.classes_ = check_training(self, X, y)
        plan = self._plan(int(X.shape[1]), len(self.classes_))
        by_row = row_weights(sample_weight, codes)
        seed = seed_of(self.random_state)
        targets = self._targets(codes, by_row, groups, seed)
        scaler, rows, _ = measure(X, standardize=True)
        # Import here: importing the heads must not load PyTorch.
        from featstore.heads.solvers import perceptron

        # One thread for BLAS and OpenMP: PyTorch's threads would mostly wait for each other, because the matrix
        # products are small.
        with (
            few_threads(rows, len(scaler.mean), user_api=None),
            standardised_copy(X, scaler, rows, self.memory_limit) as values,
        ):
            trained = perceptron.train(values, targets, self._draw(targets), plan, seed)
        self.epochs_, self.n_iter_ = trained.epochs, len(trained.losses)
        self.history_ = {"loss": trained.losses, "held_out_loss": trained.held_out_losses}
        scale = 1.0
        if len(targets.held_out):
            scale = calibration.fit_scale(trained.decisions, codes[targets.held_out], len(self.classes_))
        weights, biases = tuple(trained.weights), tuple(trained.biases)
        self.model_ = NetworkModel(weights, biases, scaler.mean, scaler.scale, scale)
        return self

    def _targets(
        self, codes: NDArray[np.intp], by_row: NDArray[np.float64] | None, groups: ArrayLike | None, seed: int
    ) -> Targets:
        """Return class numbers, loss weights with mean 1, and the held-out rows."""
        from featstore.heads.solvers.perceptron import Targets

        if self.balance != "none" and self.class_weight is not None:
            raise DataError(f"balance={self.balance!r} and class_weight both weigh the classes; give one of them")
        weight = "balanced" if self.balance == "weights" else self.class_weight
        by_class = class_weights(weight, self.classes_, codes)
        weights = np.ones(len(codes)) if by_class is None else by_class[codes] / by_class.max()
        weights = weights if by_row is None else weights * (by_row / by_row.max())
        # Compute in float32, as the training does: a very small weight becomes 0 in float32.
        scaled = np.asarray(weights / (weights.mean() or 1), np.float32)
        kept = np.flatnonzero(scaled)
        if len(np.unique(codes[kept])) < 2:
            raise DataError("class_weight and sample_weight leave fewer than two classes with a weight above 0")
        share = self.validation_fraction
        if not isinstance(share, float | np.floating) or not 0 < share < 1:
            raise DataError(f"validation_fraction must lie between 0 and 1, not {share!r}")
        if groups is not None:
            check_consistent_length(codes, groups)
            groups = np.asarray(groups)[kept]
        try:
            folds = splits.one_fold(codes[kept], groups=groups, fraction=float(share), seed=seed)
        except DataError:
            # No row can be held out, because no class has two rows or groups.
            folds = np.full(len(kept), -1)
        return Targets(codes, scaled, kept[folds >= 0])

    def _draw(self, targets: Targets) -> Draw:
        """Return a function that draws the rows of an epoch: all in random order, or each class equally often."""
        rows = np.setdiff1d(np.flatnonzero(targets.weights), targets.held_out)
        if self.balance != "sampler":
            return lambda random: random.permutation(rows)
        return balanced_sampler(rows, targets.codes[rows])

    def _plan(self, dimension: int, classes: int) -> Plan:
        """Return the parameters of the perceptron after checking them. Raises DataError for an invalid parameter."""
        from featstore.heads.solvers.perceptron import Plan

        hidden: Any = (self.hidden,) if _is_whole(self.hidden) else self.hidden
        if isinstance(hidden, str) or not isinstance(hidden, Sequence) or not 1 <= len(hidden) < MOST_LAYERS:
            raise DataError(f"hidden must be a number of units, or 1 to {MOST_LAYERS - 1} of them, not {hidden!r}")
        if not all(_is_whole(units) and units > 0 for units in hidden):
            raise DataError(f"hidden must be whole numbers of at least 1, not {hidden!r}")
        outputs = classes
        if not isinstance(self.output, str) or self.output not in OUTPUTS:
            raise DataError(f"output must be softmax or sigmoid, not {self.output!r}")
        if self.output == "sigmoid":
            if classes != 2:
                raise DataError(f"output='sigmoid' is for two classes, and there are {classes:,}; use softmax")
            outputs = 1
        widths = [dimension, *map(int, hidden), outputs]
        count = sum((one + 1) * other for one, other in pairwise(widths))
        if count > _MOST_WEIGHTS:
            raise DataError(f"hidden={hidden!r} gives {count:,} weights, at most {_MOST_WEIGHTS:,} are possible")
        if not isinstance(self.balance, str) or self.balance not in BALANCES:
            raise DataError(f"balance must be none, weights or sampler, not {self.balance!r}")
        return Plan(
            tuple(widths[1:-1]),
            outputs,
            _number("dropout", self.dropout, 0, 0.999),
            _whole("epochs", self.epochs, _MOST_EPOCHS),
            _whole("patience", self.patience, _MOST_EPOCHS),
            _number("learning_rate", self.learning_rate, 1e-12, 1e12),
            _number("weight_decay", self.weight_decay, 0, 1e6),
            _whole("batch_size", self.batch_size, _MOST_ROWS),
        )


def _is_whole(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _whole(name: str, value: Any, most: int) -> int:
    if not _is_whole(value) or not 1 <= value <= most:
        raise DataError(f"{name} must be a whole number from 1 to {most:,}, not {value!r}")
    return int(value)


def _number(name: str, value: Any, least: float, most: float) -> float:
    number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    if not number or not least <= value <= most:
        raise DataError(f"{name} must be a number from {least:g} to {most:g}, not {value!r}")
    return float(value)
