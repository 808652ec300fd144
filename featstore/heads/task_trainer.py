"""Train heads that predict something other than one class per picture: label sets or numbers."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featstore import defaults
from featstore.blocks import Features
from featstore.errors import DataError, UsageError
from featstore.heads.estimators.mlp import MLPHead
from featstore.heads.estimators.one_vs_rest import OneVsRestHead
from featstore.heads.estimators.ridge import RidgeHead
from featstore.heads.headfile import LabelSetsHead, NumbersHead, TrainedHead
from featstore.heads.trainer import (
    HeadKind,
    fit_options,
    head_kind,
    identified,
    own_options,
    record,
    settable,
    versions,
)
from featstore.store.targets import CLASSES, LABEL_SETS, NUMBERS, Targets
from featstore.text import check_keywords, counted, natural

TASK_HEADS: Final[dict[str, dict[str, HeadKind]]] = {
    LABEL_SETS: {
        "logreg": HeadKind(
            "logreg", "logistic regression for label sets", OneVsRestHead, "the smallest log loss", weighted=False
        ),
        "mlp": HeadKind("mlp", "multilayer perceptron for label sets", MLPHead, "", regularised=False, folded=False),
    },
    NUMBERS: {
        "ridge": HeadKind(
            "ridge", "ridge regression", RidgeHead, "the largest alpha", regularised=False, weighted=False
        )
    },
}
"""The kinds of head for each task other than classes, by name; the first is the default."""


def kind_for(task: str, name: str) -> HeadKind:
    """Return the kind of head called ``name`` for a task (see headfile.ALL_TASKS). Raises UsageError for an unknown
    name.
    """
    if task == CLASSES and name in TASK_HEADS[NUMBERS]:
        raise UsageError(f"{name} predicts numbers: name their column with target (--target COLUMN)")
    if task == CLASSES:
        return head_kind(name)
    kinds = TASK_HEADS[task]
    if name not in kinds:
        raise UsageError(f"{task} are learnt by the head {' or '.join(kinds)}, not by {name}")
    return kinds[name]


def settable_for(task: str, name: str) -> set[str]:
    """Return the names of the parameters that users may set for featstore's own head ``name`` of a task."""
    if task == CLASSES:
        return settable(name)
    return set(inspect.signature(kind_for(task, name).estimator).parameters) - {"cv", "random_state"}


def train_targets(
    X: Features, targets: Targets, rows: Any, *, kind: str, class_weight: Any, **options: Any
) -> TrainedHead:
    """Train a head on the targets of the store's ``rows``; ``X``: features of these rows.

    ``options``, and the errors raised: see train_label_sets and train_numbers.
    """
    chosen = kind_for(targets.task.kind, kind)
    if class_weight is not None and not chosen.weighted:
        raise UsageError(f"{targets.task.kind} are learnt by {kind} without class weights; leave them out (--balanced)")
    values = targets.values[rows].tolist()
    if targets.task.kind == NUMBERS:
        return train_numbers(X, values, **options)
    return train_label_sets(X, values, kind=kind, class_weight=class_weight, **options)


def train_label_sets(
    X: Features,
    sets: Sequence[Collection[str]],
    *,
    kind: str = "logreg",
    class_weight: str | None = None,
    groups: ArrayLike | None = None,
    scored: ArrayLike | None = None,
    seed: int = defaults.SEED,
    folds: int | float = defaults.FOLDS,
    C: float | str = "auto",
    fingerprint: str = "",
    identity: Mapping[str, Any] | None = None,
    meta: Mapping[str, Any] | None = None,
    **options: Any,
) -> LabelSetsHead:
    """Train a head on ``X`` (n, d), an array or block source, and a set of labels for each row.

    ``kind``: "logreg" (OneVsRestHead) or "mlp" (MLPHead with output="sigmoid"). Labels are text, stored in natural
    order. The parameters are those of train_head; ``class_weight``: "balanced" or None, only for "mlp"; ``options`` go
    to the estimator. Raises UsageError for a label that the rows of fewer than two groups have or lack, for fewer than
    two labels, NaN, or invalid options.
    """
    chosen = kind_for(LABEL_SETS, kind)
    if len(sets) != X.shape[0]:
        raise DataError(f"{X.shape[0]:,} rows of features and {len(sets):,} label sets; there must be one a row")
    check_keywords("train", options, settable_for(LABEL_SETS, kind))
    given = {**own_options(chosen, C, class_weight, folds), **options}
    names = sorted({str(name) for one in sets for name in one}, key=natural)
    if not 2 <= len(names) <= defaults.HEAD_CLASSES:
        raise UsageError(
            f"the training pictures have {counted(len(names), 'label')}, where 2 to {defaults.HEAD_CLASSES:,} can be "
            "learnt; is this the right column and separator?"
        )
    places = {name: place for place, name in enumerate(names)}
    indicator = np.zeros((len(sets), len(names)), np.uint8)
    for row, one in enumerate(sets):
        indicator[row, [places[str(name)] for name in one]] = 1
    counts = indicator.sum(axis=0, dtype=np.int64)
    _require_two(names, indicator, groups)
    if kind == "mlp":
        given = {"output": "sigmoid", **given}
    estimator = chosen.estimator(random_state=seed, **given)
    estimator.fit(X, indicator, **fit_options(estimator, groups, scored))
    about = {
        **record(estimator, len(sets), seed),
        "class_counts": dict(zip(names, counts.tolist(), strict=True)),
        "versions": versions(*(["torch"] if kind == "mlp" else [])),
        **({"history": estimator.history_} if hasattr(estimator, "history_") else {}),
        **(meta or {}),
    }
    return LabelSetsHead(kind, names, estimator.model_, *identified(X, fingerprint, identity), about)


def train_numbers(
    X: Features,
    y: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    scored: ArrayLike | None = None,
    seed: int = defaults.SEED,
    folds: int | float = defaults.FOLDS,
    C: float | str = "auto",
    fingerprint: str = "",
    identity: Mapping[str, Any] | None = None,
    meta: Mapping[str, Any] | None = None,
    **options: Any,
) -> NumbersHead:
    """Train ridge regression on ``X`` (n, d), an array or block source, and numbers ``y`` (n,).

    The parameters are those of train_head, where ``C`` must be "auto" and ``scored`` is ignored; ``options`` go to
    RidgeHead. Raises UsageError for a constant target, NaN, or invalid options.
    """
    if C != "auto":
        raise UsageError("ridge has no C; leave it out, and set alpha instead (--set alpha=10)")
    check_keywords("train", options, settable_for(NUMBERS, "ridge"))
    targets = np.asarray(y, np.float64)
    estimator = RidgeHead(cv=folds, random_state=seed, **options)
    estimator.fit(X, targets, **fit_options(estimator, groups, scored))
    about = {**record(estimator, len(targets), seed), "versions": versions(), **(meta or {})}
    return NumbersHead("ridge", [], estimator.model_, *identified(X, fingerprint, identity), about)


def _require_two(names: Sequence[str], sets: NDArray[np.uint8], groups: ArrayLike | None) -> None:
    """Raise UsageError unless rows of at least two groups have, and rows of two groups lack, each of the labels
    ``names`` (k,).

    ``sets``: label sets (n, k); ``groups`` (n,): a group is one picture, with its copies and views; None: every row is
    a group.
    """
    which = np.arange(len(sets)) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    largest, have = np.bincount(which).max(), sets.sum(axis=0, dtype=np.int64)
    for value, counts, text in (
        (1, have, "only one training picture has"),
        (0, len(sets) - have, "all training pictures, or all but one, have"),
    ):
        # More rows than the largest group has are rows of two groups.
        few = np.flatnonzero(counts <= largest).tolist()
        found = [names[label] for label in few if len(np.unique(which[sets[:, label] == value])) < 2]
        if found:
            shown = ", ".join(found[:5]) + (f" and {len(found) - 5:,} more" if len(found) > 5 else "")
            raise UsageError(
                f"{text} {shown}: a label needs two training pictures that have it and two that lack it; take it out of "
                "the column, or label more pictures"
            )
