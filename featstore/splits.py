"""Stratified splits that keep groups together.

A group is a set of rows that must stay in one part: pictures with equal bytes, or rows with the same value of a
metadata column. Groups are placed first, from large to small, each in the part that needs its classes most; single rows
are placed last.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featstore.errors import DataError
from featstore.text import natural


def held_out(
    y: ArrayLike, *, groups: ArrayLike | None = None, fraction: float, seed: int
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return (train_rows, test_rows), sorted: stratified, without splitting groups, with every class in both parts.

    ``y``: (n,) labels; ``groups``: (n,) any values: rows with equal values stay together, None is a group of one row;
    ``fraction``: share of test rows, in (0, 1).
    Raises DataError for a single class, a class with a single picture or group, or no rows.
    """
    if not 0 < fraction < 1:
        raise DataError(f"the held-out fraction must lie between 0 and 1, not {fraction}")
    names, codes = _classes(y)
    group_codes = _group_codes(groups, len(codes))
    _require_two_groups(names, codes, group_codes)
    side = _deal(codes, group_codes, np.array([1 - fraction, fraction]), seed)
    side = _both_sides(codes, group_codes, side)
    _require_both_sides(names, codes, side)
    return np.flatnonzero(side == 0), np.flatnonzero(side == 1)


def divide(
    strata: ArrayLike, *, groups: ArrayLike | None = None, fraction: float, seed: int
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return (train_rows, test_rows), sorted, without splitting groups. A stratum may be missing from one part.

    ``strata``: (n,) values whose shares should be equal in both parts; ``groups``, ``fraction``: as in held_out. Raises
    DataError if a part would be empty.
    """
    if not 0 < fraction < 1:
        raise DataError(f"the held-out fraction must lie between 0 and 1, not {fraction}")
    codes = _classes(strata)[1]
    side = _deal(codes, _group_codes(groups, len(codes)), np.array([1 - fraction, fraction]), seed)
    train, test = np.flatnonzero(side == 0), np.flatnonzero(side == 1)
    if not len(train) or not len(test):
        raise DataError(f"{len(codes):,} row(s), or copies of one, cannot be divided into two parts; give more")
    return train, test


def folds(y: ArrayLike, *, groups: ArrayLike | None = None, count: int, seed: int) -> NDArray[np.intp]:
    """Return the fold (n,) of each row, 0 to ``count`` - 1, stratified and without splitting groups.

    A class with only one picture or group would be in a single fold. Its rows get fold -1: they are in every training
    part and never scored, so that each training part has all classes. Raises DataError if ``count`` is below two, or if
    no rows are left to hold out.
    """
    if count < 2:
        raise DataError(f"cross-validation needs at least 2 folds, not {count}")
    names, codes = _classes(y)
    if len(names) < 2:
        raise DataError(f"only one class ({names[0]}): a classifier needs at least two")
    group_codes = _group_codes(groups, len(codes))
    return _keep_classes_trained(codes, group_codes, _deal(codes, group_codes, np.full(count, 1 / count), seed))


def one_fold(y: ArrayLike, *, groups: ArrayLike | None = None, fraction: float, seed: int) -> NDArray[np.intp]:
    """Return fold 0 for one held-out part (share ``fraction`` of the rows) and -1 for the other rows; shape (n,).

    This is the protocol of DINOv2 (Oquab et al. 2023): C is chosen on one held-out part, then all rows are used.
    Raises DataError as ``folds`` does.
    """
    if not 0 < fraction < 1:
        raise DataError(f"the held-out fraction must lie between 0 and 1, not {fraction}")
    names, codes = _classes(y)
    if len(names) < 2:
        raise DataError(f"only one class ({names[0]}): a classifier needs at least two")
    group_codes = _group_codes(groups, len(codes))
    side = _deal(codes, group_codes, np.array([1 - fraction, fraction]), seed)
    return _keep_classes_trained(codes, group_codes, side - 1)


def plain_folds(rows: int, *, groups: ArrayLike | None = None, cv: int | float, seed: int) -> NDArray[np.intp]:
    """Return the fold (n,) of each of ``rows`` rows, in equal shares and without splitting groups.

    ``cv``: the number of folds, or the fraction of rows to hold out once; the held-out rows then get fold 0, the others
    -1. Raises DataError if there are fewer than two folds, or fewer than two rows or groups.
    """
    once = isinstance(cv, float) and cv < 1
    if (once and not cv > 0) or (not once and cv < 2):
        raise DataError(f"cross-validation needs at least 2 folds, or a fraction to hold out, not {cv}")
    shares = np.array([1 - cv, cv]) if once else np.full(int(cv), 1 / int(cv))
    fold = _deal(np.zeros(rows, np.intp), _group_codes(groups, rows), shares, seed) - (1 if once else 0)
    if len(np.unique(fold)) < 2:
        raise DataError(f"{rows:,} row(s), or copies of one, cannot be divided into folds; give more")
    return fold


def always_trained(
    fold: NDArray[np.intp], needed: NDArray[np.bool_], groups: ArrayLike | None = None
) -> NDArray[np.intp]:
    """Return ``fold`` (n,), with -1 for the rows ``needed`` (n,) and for all rows of their groups.

    Raises DataError if no row is left to hold out.
    """
    group_codes = _group_codes(groups, len(fold))
    fold = np.where(np.isin(group_codes, group_codes[needed]), -1, fold)
    if not (fold >= 0).any():
        raise DataError("every training part needs all rows: nothing can be held out; give more rows")
    return fold


def require_two_of_each(y: ArrayLike, groups: ArrayLike | None = None) -> None:
    """Raise DataError if there is only one class, or a class with only one picture or group."""
    names, codes = _classes(y)
    _require_two_groups(names, codes, _group_codes(groups, len(codes)))


def equal_bytes_groups(digests: Sequence[Any]) -> NDArray[np.intp]:
    """Return group numbers (n,): equal digests get equal numbers, and each None gets a separate number."""
    numbers: dict[Any, int] = {}
    out = np.empty(len(digests), np.intp)
    for row, digest in enumerate(digests):
        out[row] = numbers.setdefault(("row", row) if digest is None else digest, len(numbers))
    return out


def _classes(y: ArrayLike) -> tuple[NDArray[Any], NDArray[np.intp]]:
    labels = np.asarray(y)
    if labels.ndim != 1 or not len(labels):
        raise DataError("there are no labelled rows to split")
    names, codes = np.unique(labels, return_inverse=True)
    return names, codes.astype(np.intp)


def _group_codes(groups: ArrayLike | None, rows: int) -> NDArray[np.intp]:
    if groups is None:
        return np.arange(rows)
    values = np.asarray(groups)
    if values.shape != (rows,):
        raise DataError(f"{rows:,} rows and {values.size:,} groups; there must be one group a row")
    if values.dtype == object:
        # np.unique would sort the values, but None and values of mixed types cannot be sorted.
        return equal_bytes_groups(values.tolist())
    return np.unique(values, return_inverse=True)[1].astype(np.intp)


def _named(names: NDArray[Any]) -> str:
    shown = ", ".join(str(name) for name in sorted(names.tolist(), key=natural)[:5])
    return shown + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _require_two_groups(names: NDArray[Any], codes: NDArray[np.intp], groups: NDArray[np.intp]) -> None:
    if len(names) < 2:
        raise DataError(f"only one class ({names[0]}): a classifier needs at least two")
    pairs = np.unique(np.stack([codes, groups], axis=1), axis=0)[:, 0]
    single = np.flatnonzero(np.bincount(pairs, minlength=len(names)) < 2)
    if len(single):
        have = "1 class has" if len(single) == 1 else f"{len(single):,} classes have"
        raise DataError(
            f"{have} only one picture, or only copies of one: {_named(names[single])}; "
            "give each class at least two different pictures, or leave its rows out"
        )


def _require_both_sides(names: NDArray[Any], codes: NDArray[np.intp], side: NDArray[np.intp]) -> None:
    missing = [name for code, name in enumerate(names) if len(np.unique(side[codes == code])) < 2]
    if missing:
        raise DataError(
            f"groups do not let {_named(np.array(missing))} be in both the training and the held-out part; "
            "give these classes more groups, or leave them out"
        )


def _deal(
    codes: NDArray[np.intp], groups: NDArray[np.intp], shares: NDArray[np.float64], seed: int
) -> NDArray[np.intp]:
    """Divide rows into parts; return the part number (n,) of each row.

    Part p gets about the share ``shares[p]`` of the rows of every class.
    """
    random = np.random.default_rng(seed)
    sizes = np.bincount(groups)
    part = np.full(len(codes), -1, np.intp)
    classes = int(codes.max()) + 1
    wanted = np.bincount(codes, minlength=classes) * shares[:, None]
    per_row = 1.0 / np.bincount(codes, minlength=classes)
    large = random.permutation(np.flatnonzero(sizes > 1))
    members = np.split(np.argsort(groups, kind="stable"), np.cumsum(sizes)[:-1])
    for group in large[np.argsort(-sizes[large], kind="stable")]:
        rows = members[group]
        content = np.bincount(codes[rows], minlength=classes)
        best = int(np.argmax(wanted @ (content * per_row)))
        part[rows] = best
        wanted[best] -= content
    alone = random.permutation(np.flatnonzero(sizes[groups] == 1))
    for code in range(classes):
        rows = alone[codes[alone] == code]
        counts = _quotas(wanted[:, code], len(rows), wanted.sum(axis=1))
        part[rows] = np.repeat(np.arange(len(shares)), counts)
        wanted[:, code] -= counts
    return part


def _quotas(wanted: NDArray[np.float64], rows: int, room: NDArray[np.float64]) -> NDArray[np.intp]:
    """Return how many of ``rows`` rows each part gets, in proportion to ``wanted`` and rounded to integers.

    ``room``: number of rows that each part still needs. If rounding is a tie, the part with the larger ``room`` gets
    the row.
    """
    positive = np.maximum(wanted, 0)
    if not positive.sum():
        positive = np.ones_like(wanted)
    exact = positive * (rows / positive.sum())
    counts = np.floor(exact + 1e-9).astype(np.intp)
    left = rows - int(counts.sum())
    order = np.lexsort((-room, -np.round(exact - counts, 9)))
    counts[order[:left]] += 1
    return np.asarray(counts)


def _both_sides(codes: NDArray[np.intp], groups: NDArray[np.intp], side: NDArray[np.intp]) -> NDArray[np.intp]:
    """Move rows to each part that lacks a class: for each such class, one ungrouped row from the other part."""
    side = side.copy()
    alone = np.bincount(groups)[groups] == 1
    for code in np.unique(codes):
        rows = np.flatnonzero(codes == code)
        for here in (0, 1):
            movable = rows[alone[rows]]
            if len(movable) and not (side[rows] == here).any():
                side[movable[-1]] = here
    return side


def _keep_classes_trained(
    codes: NDArray[np.intp], groups: NDArray[np.intp], fold: NDArray[np.intp]
) -> NDArray[np.intp]:
    """Set fold -1 for all groups that contain a class which would otherwise be missing from a training part."""
    classes = int(codes.max()) + 1
    total = np.bincount(codes, minlength=classes)
    bound = np.zeros(classes, bool)
    for number in range(int(fold.max()) + 1):
        bound |= np.bincount(codes[fold == number], minlength=classes) == total
    fold = np.where(np.isin(groups, groups[bound[codes]]), -1, fold)
    if not (fold >= 0).any():
        raise DataError("no class has two pictures (or groups): nothing can be held out to choose parameters by")
    return fold
