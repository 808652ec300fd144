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
from featstore.heads.estimators.inputs import (
    ClassWeight,
    check_label_sets,
    check_training,
    checked_weights,
    class_weights,
    fixed_threshold,
    is_indicator,
    is_whole,
    number,
    row_weights,
    seed_of,
    whole_number,
)
from featstore.heads.estimators.linear import DecisionHead
from featstore.heads.label_sets import best_thresholds
from featstore.heads.network import MOST_LAYERS, NetworkModel
from featstore.heads.network_sets import NetworkSetsModel
from featstore.heads.sampling import Draw, balanced_sampler
from featstore.heads.solvers import one_vs_rest
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
        Softmax over one output per class; or "sigmoid": the sigmoid of a single output for two classes, or of one
        output per label for label sets.
    balance : "none", "weights" or "sampler"
        "weights" is ``class_weight="balanced"``. "sampler" draws each epoch's rows with replacement, every class
        equally often; not for label sets.
    class_weight : None, "balanced" or mapping
        Weight of each class, as in scikit-learn. Only with ``balance="none"``. "balanced" for label sets: the rows that
        have a label weigh as much in the label's loss as the rows that lack it. Label sets take no mapping.
    thresholds : "f1" or float
        Only for label sets. "f1" chooses the threshold of each label such that F1 on the held-out part is greatest (0.5
        if there is none); a number between 0 and 1 is the threshold of every label.
    validation_fraction : float
        Share of the rows, stratified, that judges the epochs and on which temperature scaling or thresholds are fitted.
        Label sets are stratified by the rarest label of each row. If no row can be held out, because every class has a
        single row or group, all epochs are trained.
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
        Class labels, sorted; or the column numbers of the labels.
    thresholds_ : ndarray of shape (k,)
        Probability from which on a label is predicted; only for label sets.
    feature_identity_ : dict or None
        Identity that the training features carried (see ``featstore.FeatureArray``); prediction refuses another one.
    epochs_ : int
        The epoch whose weights were kept, counted from 1.
    n_iter_ : int
        Number of epochs that were trained.
    history_ : dict
        Loss of each epoch, "loss" on the training rows (with dropout) and "held_out_loss".
    model_ : NetworkModel or NetworkSetsModel
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
        thresholds: float | str = "f1",
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
        self.thresholds = thresholds
        self.validation_fraction = validation_fraction
        self.epochs = epochs
        self.patience = patience
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.batch_size = batch_size
        self.memory_limit = memory_limit
        self.random_state = random_state

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = isinstance(self.output, str) and self.output == "sigmoid"
        tags.classifier_tags.multi_class = not tags.classifier_tags.multi_label
        return tags

    def fit(self, X: Any, y: Any, sample_weight: ArrayLike | None = None, *, groups: ArrayLike | None = None) -> Self:
        """Fit on ``X`` (n, d), an array, sparse matrix or block source, and classes (n,) or label sets (n, k) of 1 and
        0, which need ``output="sigmoid"``.

        ``groups`` (n,): rows of a group are held out together. ``sample_weight`` (n,): factor of each row's loss; a row
        of weight 0 is never held out. Raises DataError (a ValueError) for a single class, a label that fewer than two
        rows have or fewer than two rows lack, NaN or infinity, different numbers of rows, invalid weights or
        parameters, or a loss that is not finite.
        """
        of_sets = is_indicator(y)
        codes: Any
        if of_sets:
            X, codes = check_label_sets(self, X, y)
        else:
            X, codes, self.classes_ = check_training(self, X, y)
        plan = self._plan(int(X.shape[1]), len(self.classes_), of_sets=of_sets)
        fixed = fixed_threshold(self.thresholds)
        if groups is not None:
            check_consistent_length(codes, groups)
        seed = seed_of(self.random_state)
        targets_of = self._sets if of_sets else self._targets
        targets = targets_of(codes, sample_weight, groups, seed)
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
        layers = tuple(trained.weights), tuple(trained.biases)
        truth = targets.codes[targets.held_out]
        self.model_: NetworkModel | NetworkSetsModel
        if of_sets:
            self.thresholds_ = np.full(len(self.classes_), 0.5 if fixed is None else fixed)
            if fixed is None and len(truth):
                self.thresholds_ = best_thresholds(trained.decisions, truth == 1)
            self.model_ = NetworkSetsModel(NetworkModel(*layers, scaler.mean, scaler.scale), self.thresholds_)
            return self
        scale = calibration.fit_scale(trained.decisions, truth, len(self.classes_)) if len(truth) else 1.0
        self.model_ = NetworkModel(*layers, scaler.mean, scaler.scale, scale)
        return self

    def predict(self, X: Any) -> NDArray[Any]:
        """Return the predicted class (n,) of each row, or label sets (n, k) as 1 and 0."""
        if isinstance(getattr(self, "model_", None), NetworkSetsModel):
            return (self.predict_proba(X) >= self.thresholds_).astype(np.int64)
        return super().predict(X)

    def _targets(
        self, codes: NDArray[np.intp], sample_weight: ArrayLike | None, groups: ArrayLike | None, seed: int
    ) -> Targets:
        """Return class numbers, loss weights with mean 1, and the held-out rows."""
        from featstore.heads.solvers.perceptron import Targets

        by_row = row_weights(sample_weight, codes)
        by_class = class_weights(self._weight(), self.classes_, codes)
        weights = np.ones(len(codes)) if by_class is None else by_class[codes] / by_class.max()
        scaled = _scaled(weights, by_row)
        kept = np.flatnonzero(scaled)
        if len(np.unique(codes[kept])) < 2:
            raise DataError("class_weight and sample_weight leave fewer than two classes with a weight above 0")
        return Targets(codes, scaled, self._held_out(codes[kept], kept, groups, seed))

    def _sets(
        self, sets: NDArray[np.uint8], sample_weight: ArrayLike | None, groups: ArrayLike | None, seed: int
    ) -> Targets:
        """Return label sets, loss weights of rows (mean 1) and of labels, and the held-out rows."""
        from featstore.heads.solvers.perceptron import Targets

        weight, factors = self._weight(), None
        if self.balance == "sampler":
            raise DataError("balance='sampler' draws classes equally often, and a label set is no class; use 'weights'")
        if weight is not None and not (isinstance(weight, str) and weight == "balanced"):
            raise DataError(f"class_weight of label sets must be 'balanced' or None, not {weight!r}")
        if weight is not None:
            having = sets.sum(axis=0, dtype=np.int64)
            factors = (len(sets) / (2 * np.stack([len(sets) - having, having]))).astype(np.float32)
        scaled = _scaled(np.ones(len(sets)), checked_weights(sample_weight, len(sets)))
        kept = np.flatnonzero(scaled)
        counts = sets[kept].sum(axis=0, dtype=np.int64)
        lost = np.flatnonzero((counts == 0) | (counts == len(kept)))
        if len(lost):
            raise DataError(
                f"sample_weight: all or none of the rows with a weight above 0 have label {lost[0]}; give more rows a "
                "weight"
            )
        return Targets(sets, scaled, self._held_out(sets[kept], kept, groups, seed), factors)

    def _weight(self) -> ClassWeight:
        """Return the weights of the classes or labels. Raises DataError if two parameters give them."""
        if self.balance != "none" and self.class_weight is not None:
            raise DataError(f"balance={self.balance!r} and class_weight both weigh the classes; give one of them")
        return "balanced" if self.balance == "weights" else self.class_weight

    def _held_out(
        self, codes: NDArray[Any], rows: NDArray[np.intp], groups: ArrayLike | None, seed: int
    ) -> NDArray[np.intp]:
        """Return those of ``rows`` that are held out; none if the other rows would lack a class or label.

        ``codes``: the class numbers or label sets of ``rows``; ``groups``: (n,) groups of all rows.
        """
        share = self.validation_fraction
        if not isinstance(share, float | np.floating) or not 0 < share < 1:
            raise DataError(f"validation_fraction must lie between 0 and 1, not {share!r}")
        if groups is not None:
            groups = np.asarray(groups)[rows]
        strata = one_vs_rest.rarest_label(codes) if codes.ndim == 2 else codes
        try:
            folds = splits.one_fold(strata, groups=groups, fraction=float(share), seed=seed)
            if codes.ndim == 2:
                folds = one_vs_rest.keep_trained(codes, folds, groups)
        except DataError:
            # No row can be held out, for example because no class has two rows or groups.
            return rows[:0]
        return rows[folds >= 0]

    def _draw(self, targets: Targets) -> Draw:
        """Return a function that draws the rows of an epoch: all in random order, or each class equally often."""
        rows = np.setdiff1d(np.flatnonzero(targets.weights), targets.held_out)
        if self.balance != "sampler":
            return lambda random: random.permutation(rows)
        return balanced_sampler(rows, targets.codes[rows])

    def _plan(self, dimension: int, classes: int, *, of_sets: bool) -> Plan:
        """Return the parameters of the perceptron after checking them. Raises DataError for an invalid parameter."""
        from featstore.heads.solvers.perceptron import Plan

        hidden: Any = self.hidden.tolist() if isinstance(self.hidden, np.ndarray) else self.hidden
        hidden = (hidden,) if is_whole(hidden) else hidden
        if isinstance(hidden, str | bytes) or not isinstance(hidden, Sequence) or not 1 <= len(hidden) < MOST_LAYERS:
            raise DataError(f"hidden must be a number of units, or 1 to {MOST_LAYERS - 1} of them, not {hidden!r}")
        if not all(is_whole(units) and units > 0 for units in hidden):
            raise DataError(f"hidden must be whole numbers of at least 1, not {hidden!r}")
        outputs = classes
        if not isinstance(self.output, str) or self.output not in OUTPUTS:
            raise DataError(f"output must be softmax or sigmoid, not {self.output!r}")
        if of_sets and self.output == "softmax":
            raise DataError("label sets need output='sigmoid': a softmax predicts one class for a row")
        if self.output == "sigmoid" and not of_sets:
            if classes != 2:
                raise DataError(
                    f"Only binary classification is supported with output='sigmoid', and there are {classes:,} classes; "
                    "use softmax (label sets are a matrix of 1 and 0)"
                )
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
            number("dropout", self.dropout, 0, 0.999),
            whole_number("epochs", self.epochs, _MOST_EPOCHS),
            whole_number("patience", self.patience, _MOST_EPOCHS),
            number("learning_rate", self.learning_rate, 1e-12, 1e12),
            number("weight_decay", self.weight_decay, 0, 1e6),
            whole_number("batch_size", self.batch_size, _MOST_ROWS),
            sets=of_sets,
        )


def _scaled(weights: NDArray[np.float64], by_row: NDArray[np.float64] | None) -> NDArray[np.float32]:
    """Return ``weights`` (n,) times the weights ``by_row`` (n,), scaled to the mean 1."""
    weights = weights if by_row is None else weights * (by_row / (by_row.max() or 1))
    # Compute in float32, as the training does: a very small weight becomes 0 in float32.
    return np.asarray(weights / (weights.mean() or 1), np.float32)
