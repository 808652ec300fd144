"""Train a head on features and labels: the function behind ``featstore train``."""

from __future__ import annotations

import importlib.metadata
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featstore import __version__, defaults, splits
from featstore.blocks import Features
from featstore.errors import DataError, UsageError
from featstore.heads.estimators.kernel import KernelSVMHead
from featstore.heads.estimators.linear import LinearSVMHead, LogisticHead
from featstore.heads.estimators.mlp import MLPHead
from featstore.heads.estimators.named import NamedHead, is_named
from featstore.heads.estimators.neighbours import KNNHead
from featstore.heads.headfile import TrainedHead
from featstore.store.features import identity_of
from featstore.text import check_keywords, did_you_mean, natural


@dataclass(frozen=True)
class HeadKind:
    """A kind of head, such as logistic regression.

    ``ties``: text that says which candidate wins if cross-validation scores are equal. ``regularised``, ``weighted``,
    ``folded``: whether the estimator has ``C``, class weights and cross-validation.
    """

    name: str
    title: str
    estimator: Callable[..., Any]
    ties: str
    regularised: bool = True
    weighted: bool = True
    folded: bool = True


HEADS: Final[dict[str, HeadKind]] = {
    kind.name: kind
    for kind in (
        HeadKind("logreg", "logistic regression", LogisticHead, "the smallest log loss"),
        HeadKind("linear-svm", "linear support vector machine", LinearSVMHead, "the smallest C"),
        HeadKind(
            "rbf-svm",
            "support vector machine with RBF kernel",
            KernelSVMHead,
            "the smallest C, and of one C the smallest gamma",
        ),
        HeadKind("knn", "nearest neighbours", KNNHead, "the fewest neighbours", regularised=False, weighted=False),
        HeadKind("mlp", "multilayer perceptron", MLPHead, "", regularised=False, folded=False),
    )
}
"""Featstore's own kinds of head by name. train_head also trains classifiers of other packages, see head_kind."""


def head_kind(name: str) -> HeadKind:
    """Return the kind of head called ``name``: a key of HEADS, or a class given as package.module:Class.

    The class is not imported. Raises UsageError for any other name.
    """
    if name in HEADS:
        return HEADS[name]
    if is_named(name):
        return HeadKind(name, name.rpartition(":")[2], partial(NamedHead, name), "", regularised=False)
    raise UsageError(
        f"there is no head {name!r}; choose one of {', '.join(HEADS)}, or name a scikit-learn classifier as "
        f"package.module:Class{did_you_mean(name, HEADS)}"
    )


def settable(kind: str) -> set[str]:
    """Return the names of the parameters that users may set for a head in HEADS."""
    return set(inspect.signature(HEADS[kind].estimator).parameters) - {"cv", "random_state"}


def train_head(
    X: Features,
    y: ArrayLike,
    *,
    kind: str = "logreg",
    groups: ArrayLike | None = None,
    scored: ArrayLike | None = None,
    seed: int = defaults.SEED,
    folds: int | float = defaults.FOLDS,
    C: float | str = "auto",
    class_weight: Mapping[str, float] | str | None = None,
    fingerprint: str = "",
    identity: Mapping[str, Any] | None = None,
    meta: Mapping[str, Any] | None = None,
    **options: Any,
) -> TrainedHead:
    """Train a head on ``X`` (n, d), an array or block source, and labels ``y`` (n,).

    ``kind``: one of HEADS, or a scikit-learn classifier as package.module:Class, which is imported (see NamedHead).
    Labels are converted to strings; the classes are stored in natural order (1, 2, 10). ``groups`` (n,): rows of the
    same group share a fold. ``scored`` (n,): whether a held-out row counts in cross-validation and calibration (default:
    all rows); the head "mlp" ignores it. ``folds``: a number of folds, or a fraction to hold out once. ``options`` are passed to the
    estimator. ``fingerprint`` and ``identity`` of the features: by default those of ``X``. ``meta``: further JSON to
    store in the head (split, label version).
    Raises UsageError for an unknown kind, a missing label, a single class, a class with a single picture, NaN,
    mismatched shapes, or invalid options.
    """
    chosen = head_kind(kind)
    labels = texts(y)
    if len(labels) != X.shape[0]:
        raise DataError(f"{X.shape[0]:,} rows of features and {len(labels):,} labels; there must be one label a row")
    splits.require_two_of_each(labels, groups)
    # Train on integer class numbers: estimators sort classes, and strings would be sorted as 1, 10, 2.
    names = sorted(set(labels.tolist()), key=natural)
    codes = {name: code for code, name in enumerate(names)}
    weights = _by_code(class_weight, names)
    if kind in HEADS:
        given = {**own_options(chosen, C, weights, folds), **options}
        check_keywords("train", options, settable(kind))
    else:
        own = {"C": None if C == "auto" else C, "class_weight": weights}
        parameters = {**{name: value for name, value in own.items() if value is not None}, **options}
        given = {"cv": folds, "parameters": parameters}
    estimator = chosen.estimator(random_state=seed, **given)
    coded = np.array([codes[label] for label in labels.tolist()], np.int64)
    estimator.fit(X, coded, **fit_options(estimator, groups, scored))
    about = {
        **record(estimator, len(labels), seed, {"class_weight": class_weight}),
        "class_counts": {
            name: int(count) for name, count in zip(names, np.bincount(coded, minlength=len(names)), strict=True)
        },
        "versions": versions(*(["torch"] if kind == "mlp" else [])),
        **({"history": estimator.history_} if hasattr(estimator, "history_") else {}),
        **(meta or {}),
    }
    return TrainedHead(kind, names, estimator.model_, *identified(X, fingerprint, identity), about)


def fit_options(estimator: Any, groups: ArrayLike | None, scored: ArrayLike | None) -> dict[str, Any]:
    """Return the options ``groups`` and ``scored`` of the ``estimator``'s ``fit``; MLPHead and RidgeHead lack
    ``scored``.
    """
    takes = "scored" in inspect.signature(estimator.fit).parameters
    return {"groups": groups, **({"scored": scored} if takes else {})}


def record(estimator: Any, rows: int, seed: int, given: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the record in a head's ``meta`` of its fitted ``estimator``: parameters, choice, scores, passes.

    ``given``: values to record in place of the estimator's parameters of these names.
    """
    parameters = estimator.get_params()
    parameters |= {name: value for name, value in (given or {}).items() if name in parameters}
    return {
        "parameters": _json(parameters),
        "chosen": {
            name.rstrip("_"): float(getattr(estimator, name))
            for name in ("C_", "alpha_", "gamma_", "n_neighbors_", "epochs_")
            if hasattr(estimator, name)
        },
        "cross_validation": _json(getattr(estimator, "cv_results_", None)),
        "seed": seed,
        "passes": estimator.effort_.passes if hasattr(estimator, "effort_") else None,
        "rows": rows,
    }


def identified(X: Features, fingerprint: str, identity: Mapping[str, Any] | None) -> tuple[str, dict[str, Any]]:
    """Return the given fingerprint and identity of the features, or those that ``X`` carries if none is given."""
    carried = getattr(X, "identity", None) if identity is None and identity_of(X) is not None else None
    if carried is not None:
        return carried.fingerprint, carried.to_dict()
    return fingerprint, dict(identity or {})


def own_options(
    kind: HeadKind, C: float | str, weights: Mapping[int, float] | str | None, folds: int | float
) -> dict[str, Any]:
    """Return those parameters of the estimator that are options of ``train``. Raises UsageError if the head lacks one
    of them.
    """
    if not (kind.regularised or kind.weighted) and (weights is not None or C != "auto"):
        raise UsageError(f"{kind.name} has neither C nor class weights; leave these options out")
    if not kind.weighted and weights is not None:
        raise UsageError(f"{kind.name} has no class weights here; leave this option out")
    if not kind.regularised and C != "auto":
        raise UsageError(f"{kind.name} has no C; leave this option out")
    if not kind.folded and folds != defaults.FOLDS:
        raise UsageError(
            f"{kind.name} has no cross-validation; leave the folds out, and set the share that it holds out with "
            "validation_fraction (--set validation_fraction=0.1)"
        )
    own = {
        "C": (kind.regularised, C),
        "class_weight": (kind.weighted, weights),
        "cv": (kind.folded, folds),
    }
    return {name: value for name, (has, value) in own.items() if has}


def _by_code(class_weight: Mapping[str, float] | str | None, names: list[str]) -> Mapping[int, float] | str | None:
    """Return ``class_weight`` with class numbers (indices in ``names``) as keys.

    Raises DataError for a label not in ``names``.
    """
    if not isinstance(class_weight, Mapping):
        return class_weight
    weights = {}
    for label, weight in class_weight.items():
        if str(label) not in names:
            raise DataError(
                f"class_weight names {label!r}, which is none of the classes{did_you_mean(str(label), names)}"
            )
        weights[names.index(str(label))] = weight
    return weights


def texts(y: ArrayLike) -> NDArray[np.str_]:
    """Return the labels ``y`` (n,) as strings. Raises DataError if a label is missing (None or NaN)."""
    # Use dtype object, because numpy would convert NaN in a list with strings to the string "nan".
    labels = np.asarray(y, object).tolist()
    missing = sum(label is None or label != label for label in labels)
    if missing:
        raise DataError(f"{missing:,} row(s) have no label; leave them out")
    return np.array([str(label) for label in labels])


def versions(*more: str) -> dict[str, str]:
    """Return the versions of the libraries that affect a trained head, and the versions of the packages ``more``."""
    found = {"featstore": __version__}
    for name in ("numpy", "scipy", "scikit-learn", *more):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _json(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _json(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return _json(value.tolist())
    if isinstance(value, list | tuple):
        return [_json(item) for item in value]
    if isinstance(value, np.generic):
        return _json(value.item())
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value if isinstance(value, str | int | float | bool | None) else str(value)
