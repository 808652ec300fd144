"""Input checks that the estimators share: features and labels, folds, class weights, values of C."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_consistent_length, column_or_1d, validate_data

from featstore import splits
from featstore.blocks import Features
from featstore.columns import is_missing
from featstore.errors import DataError
from featstore.heads.solvers.blocks import dense_blocks, is_blocks
from featstore.heads.solvers.rows import Labels
from featstore.store.features import identity_of, require_same

ClassWeight = Mapping[Any, float] | str | None
_LARGEST_SEED: Final = 2**32 - 1
"""Largest seed of NumPy's RandomState, which scikit-learn uses."""
PerRow = ArrayLike | None
"""Values (n,), one for each of the n training rows, or None for the default."""


def check_training(estimator: Any, X: Any, y: Any) -> tuple[Features, NDArray[np.intp], NDArray[Any]]:
    """Return (features, class numbers (n,), classes (k,) sorted), and set ``n_features_in_``.

    Arrays and sparse matrices are checked as in scikit-learn, except that NaN and infinity are detected later, in the
    first pass over the rows. ``feature_identity_`` is set to the identity that ``X`` carries (backbone, weights,
    preprocessing), or None. Raises DataError (a ValueError) for invalid data, TypeError for complex data.
    """
    estimator.feature_identity_ = identity_of(X)
    require_bytes(getattr(estimator, "memory_limit", 0))
    _refuse_missing(y)
    if is_blocks(X):
        if y is None:
            raise DataError("labels are needed: the target y is None")
        y = column_or_1d(y)
        estimator.n_features_in_ = int(X.shape[1])
        if len(y) != X.shape[0]:
            raise DataError(f"{X.shape[0]:,} rows of features and {len(y):,} labels; there must be one label a row")
    else:
        X, y = validate_data(estimator, X, y, dtype="numeric", accept_sparse="csr", ensure_all_finite=False)
        X, y = dense_blocks(X), column_or_1d(y, warn=True)
    check_classification_targets(y)
    classes, codes = np.unique(y, return_inverse=True)
    if len(classes) < 2:
        raise DataError(f"only one class ({classes[0]}): a classifier needs at least two")
    return X, codes.astype(np.intp), classes


def is_indicator(y: Any) -> bool:
    """Return whether ``y`` is a matrix with two or more columns: label sets, as an array or a sparse matrix."""
    shape = y.shape if hasattr(y, "toarray") else np.asarray(y).shape
    return len(shape) == 2 and shape[1] > 1


def check_label_sets(estimator: Any, X: Any, y: Any) -> tuple[Features, NDArray[np.uint8]]:
    """Return (features, label sets (n, k) of 1 and 0), and set ``classes_`` (the numbers of the labels) and
    ``n_features_in_``.

    ``y``: an indicator matrix (n, k), an array or a sparse matrix. ``feature_identity_`` is set to the identity that
    ``X`` carries, or None. Raises DataError (a ValueError) for invalid data, and for a label that fewer than two rows
    have or fewer than two rows lack.
    """
    estimator.feature_identity_ = identity_of(X)
    require_bytes(estimator.memory_limit)
    if is_blocks(X):
        estimator.n_features_in_ = int(X.shape[1])
    else:
        X = dense_blocks(validate_data(estimator, X, dtype="numeric", accept_sparse="csr", ensure_all_finite=False))
    y = y.toarray() if hasattr(y, "toarray") else np.asarray(y)
    check_consistent_length(np.empty(X.shape[0]), y)
    if not np.isin(y, (0, 1)).all():
        raise DataError("label sets must be a matrix (rows, labels) of 1 and 0: whether a row has a label")
    sets = (y != 0).astype(np.uint8)
    counts = sets.sum(axis=0, dtype=np.int64)
    few = np.flatnonzero((counts < 2) | (len(sets) - counts < 2))
    if len(few):
        raise DataError(
            f"label {few[0]} is in {counts[few[0]]:,} of {len(sets):,} rows; a label needs two rows that have it and "
            f"two that lack it{f' ({len(few):,} labels do not have that)' if len(few) > 1 else ''}"
        )
    estimator.classes_ = np.arange(sets.shape[1])
    return X, sets


def fixed_threshold(thresholds: Any) -> float | None:
    """Return the given threshold of every label, or None for "f1", where each label gets its own threshold.

    Raises DataError for an invalid threshold.
    """
    if isinstance(thresholds, str) and thresholds == "f1":
        return None
    if not isinstance(thresholds, int | float | np.number) or not 0 < thresholds < 1:
        raise DataError(f"thresholds must be 'f1' or a number between 0 and 1, not {thresholds!r}")
    return float(thresholds)


def require_bytes(memory_limit: Any) -> None:
    """Raise DataError unless ``memory_limit`` is a number of bytes of at least 0."""
    number = isinstance(memory_limit, int | float | np.number) and not isinstance(memory_limit, bool)
    if not number or not memory_limit >= 0:
        raise DataError(f"memory_limit must be a number of bytes of at least 0, not {memory_limit!r}")


def _refuse_missing(y: Any) -> None:
    """Raise DataError if a label is None, NaN or NA; scikit-learn's error for missing labels is hard to understand."""
    labels = np.asarray(y) if y is not None else np.zeros(0)
    if labels.dtype != object:
        return
    missing = sum(map(is_missing, labels.reshape(-1).tolist()))
    if missing == labels.size and missing:
        raise DataError(f"none of the {missing:,} rows has a label: y is missing everywhere")
    if missing:
        raise DataError(
            f"{missing:,} of {labels.size:,} labels are missing; leave these rows out: keep = pandas.notna(y), X[keep], "
            "y[keep]"
        )


def training_set(
    estimator: Any,
    X: Any,
    y: Any,
    groups: ArrayLike | None,
    sample_weight: ArrayLike | None = None,
    *,
    folded: bool = True,
    scored: ArrayLike | None = None,
) -> tuple[Features, Labels]:
    """Return (features, labels with folds and weights) to train a regularised head.

    Sets ``classes_`` and ``n_features_in_`` of the head.

    ``folded``: whether to assign cross-validation folds; without folds, no row is held out. A row of weight 0 is never
    held out. ``scored``: see scored_rows. Raises the DataErrors of check_training, class_weights, row_weights,
    assign_folds and scored_rows.
    """
    X, codes, estimator.classes_ = check_training(estimator, X, y)
    by_row = row_weights(sample_weight, codes)
    by_class = class_weights(estimator.class_weight, estimator.classes_, codes)
    if not folded:
        return X, Labels(codes, np.full_like(codes, -1), by_class, by_row)
    folds = assign_folds(codes, groups, estimator.cv, seed_of(estimator.random_state))
    if by_row is not None:
        folds = np.where(by_row > 0, folds, -1)
    return X, Labels(codes, folds, by_class, by_row, scored_rows(scored, folds))


def row_weights(sample_weight: ArrayLike | None, codes: NDArray[np.intp]) -> NDArray[np.float64] | None:
    """Return the weight (n,) of each row, or None if all weights are 1; a scalar is the weight of every row.

    ``codes``: class numbers (n,). Raises the DataErrors of checked_weights, and DataError if fewer than two classes
    have rows of positive weight.
    """
    weights = checked_weights(sample_weight, len(codes))
    if weights is not None and len(np.unique(codes[weights > 0])) < 2:
        raise DataError("sample_weight: all weights but those of one class are zero; a classifier needs two classes")
    return weights


def checked_weights(sample_weight: ArrayLike | None, rows: int) -> NDArray[np.float64] | None:
    """Return the weight (rows,) of each row, or None if all weights are 1; a scalar is the weight of every row.

    Raises DataError for weights that are negative, not finite or not one per row.
    """
    if sample_weight is None:
        return None
    weights = np.asarray(sample_weight, np.float64)
    if weights.ndim > 1:
        raise DataError(f"Sample weights must be 1D array or scalar, not of shape {weights.shape}")
    weights = np.full(rows, weights) if weights.ndim == 0 else weights
    if weights.shape != (rows,):
        raise DataError(f"sample_weight has the shape {weights.shape}, where ({rows},) is needed: one weight a row")
    if not np.isfinite(weights).all() or (weights < 0).any():
        raise DataError("sample_weight holds weights that are negative or not finite; a weight is at least 0")
    return weights


def candidates(C: float | str, Cs: Sequence[float]) -> list[float]:
    """Return the values of C to try, in increasing order: ``Cs`` if ``C`` is "auto", otherwise only ``C``.

    Raises DataError if a value is not positive or not finite.
    """
    if isinstance(C, str) and C != "auto":
        raise DataError(f"C must be a positive number or 'auto', not {C!r}")
    values = sorted(float(c) for c in Cs) if isinstance(C, str) else [float(C)]
    if not values or not all(0 < value < np.inf for value in values):
        raise DataError("C must be positive and finite")
    return values


def check_features(estimator: Any, X: Any) -> Features:
    """Return the features ``X`` for prediction after comparing their width and identity with the training features.

    Raises DataError if the width differs, IdentityError if the identity differs (for example the backbone).
    """
    require_same(getattr(estimator, "feature_identity_", None), X, "the head")
    if is_blocks(X):
        if X.shape[1] != estimator.n_features_in_:
            raise DataError(
                f"features of {X.shape[1]} values, where this head was trained on {estimator.n_features_in_}; "
                "use the backbone that it was trained with"
            )
        return X
    checked = validate_data(estimator, X, reset=False, dtype="numeric", accept_sparse="csr", ensure_all_finite=False)
    features: Features = dense_blocks(checked)
    return features


def assign_folds(codes: NDArray[np.intp], groups: ArrayLike | None, cv: int | float, seed: int) -> NDArray[np.intp]:
    """Return the fold (n,) of each row, see featstore.splits.

    ``cv``: the number of folds, or the fraction of rows to hold out once (fold 0; the other rows get -1).
    """
    if groups is not None:
        check_consistent_length(codes, groups)
    if isinstance(cv, float) and cv < 1:
        return splits.one_fold(codes, groups=groups, fraction=cv, seed=seed)
    return splits.folds(codes, groups=groups, count=int(cv), seed=seed)


def scored_rows(scored: ArrayLike | None, folds: NDArray[np.intp]) -> NDArray[np.bool_] | None:
    """Return whether each row (n,) counts in scores when it is held out; None if all rows do.

    Raises DataError for another number of rows than ``folds`` (n,), and for a fold without a scored row.
    """
    if scored is None:
        return None
    kept = np.asarray(scored, bool)
    check_consistent_length(folds, kept)
    if len(np.setdiff1d(folds[folds >= 0], folds[kept])):
        raise DataError("a fold has no scored row; give other groups, or fewer folds")
    return kept


def class_weights(weight: ClassWeight, classes: NDArray[Any], codes: NDArray[np.intp]) -> NDArray[np.float64] | None:
    """Return the weight (k,) of each class, or None if all weights are 1.

    ``weight``: "balanced" means n / (k * n_class), as in scikit-learn, for n training rows, k classes and n_class rows
    of a class.
    Raises DataError if ``weight`` is not "balanced", None or a mapping from class to a finite weight >= 0, or if
    fewer than two classes have a positive weight.
    """
    if weight is None:
        return None
    if isinstance(weight, str):
        if weight != "balanced":
            raise DataError(f"class_weight must be 'balanced', a mapping or None, not {weight!r}")
        counts = np.bincount(codes, minlength=len(classes))
        return np.asarray(len(codes) / (len(classes) * counts), np.float64)
    known = {label: index for index, label in enumerate(classes.tolist())}
    out = np.ones(len(classes))
    for label, value in weight.items():
        if label not in known:
            raise DataError(f"class_weight names {label!r}, which is none of the classes")
        if not isinstance(value, int | float | np.number) or not 0 <= value < np.inf:
            raise DataError(f"the weight of class {label!r} must be a finite number of at least 0, not {value!r}")
        out[known[label]] = value
    if np.count_nonzero(out) < 2:
        raise DataError("class_weight leaves fewer than two classes with a weight above 0; a classifier needs two")
    return out


def seed_of(random_state: Any) -> int:
    """Return an integer seed from scikit-learn's random_state (an int, None, or a RandomState).

    Raises DataError for any other value, and for a number that is no seed.
    """
    if random_state is None:
        return int(np.random.SeedSequence().generate_state(1)[0])
    if isinstance(random_state, int | np.integer) and 0 <= random_state <= _LARGEST_SEED:
        return int(random_state)
    if not isinstance(random_state, np.random.RandomState) and random_state is not np.random:
        raise DataError(
            f"random_state must be a whole number from 0 to {_LARGEST_SEED:,}, a numpy.random.RandomState or None, not "
            f"{random_state!r}"
        )
    return int(random_state.randint(0, 2**31 - 1))


def is_whole(value: Any) -> bool:
    """Return whether ``value`` is an integer of Python or NumPy; True and False are none."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def whole_number(name: str, value: Any, most: int) -> int:
    """Return the parameter ``name`` as an int. Raises DataError unless it is a whole number from 1 to ``most``."""
    if not is_whole(value) or not 1 <= value <= most:
        raise DataError(f"{name} must be a whole number from 1 to {most:,}, not {value!r}")
    return int(value)


def number(name: str, value: Any, least: float, most: float) -> float:
    """Return the parameter ``name`` as a float. Raises DataError unless it is a number from ``least`` to ``most``."""
    valid = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    if not valid or not least <= value <= most:
        raise DataError(f"{name} must be a number from {least:g} to {most:g}, not {value!r}")
    return float(value)
