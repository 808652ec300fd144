"""Training rows for the grid solver (grid.py): in segments of one fold each, standardised, in memory or streamed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from featstore import defaults
from featstore.blocks import Features
from featstore.errors import DataError
from featstore.heads.solvers.blocks import Scaler, block_rows, measure, raw_blocks, take_rows
from featstore.heads.solvers.standardising import RawRows, Standardiser
from featstore.heads.solvers.whitening import Spectrum, spectrum_of

_SAMPLE: Final = 4096
"""Number of training rows from which the preconditioner is estimated. It affects only the speed of the solver, so a
sample is enough."""
_COPIED_ELEMENTS: Final = 1 << 18
"""Number of feature values that are standardised at once while rows are copied into memory; they fit into a core's
cache."""
_RANK_TOLERANCE: Final = 1e-12
_RAW_ELEMENTS: Final = 16 << 20
"""Number of feature values in a block of streamed rows. Blocks are so large that BLAS is efficient even on those rows
of a block that belong to one fold."""


@dataclass(frozen=True)
class Segment:
    """A segment: m training rows of one fold, with r feature values each.

    ``values``: (m, r); ``codes``: class numbers (m,) or label sets (m, k); ``weights``: (m,), None if all weights are 1; ``rows``: row
    numbers in the training set (m,).
    """

    fold: int
    values: NDArray[Any]
    codes: NDArray[np.intp]
    weights: NDArray[Any] | None
    rows: NDArray[np.intp]

    def read(self, part: slice) -> NDArray[Any]:
        """Return the values (p, r) of the p rows in the slice ``part``.

        The next read in the same thread may overwrite the array.
        """
        return self.values[part]


@dataclass(frozen=True)
class Labels:
    """Labels, folds and weights of all n training rows, which have k classes.

    ``codes``: class numbers (n,), or label sets (n, k), where 1 means that a row has a label and 0 that it lacks it.
    For label sets, every label is a problem with two classes, and there are no class weights. ``folds``: fold numbers
    (n,). ``class_weights``: one weight for each class (k,);
    ``row_weights``: one weight for each row (n,); None means that these weights are 1.
    A row of fold f >= 0 is held out when the model of fold f is trained. A row of fold -1 is always trained on, never
    scored. ``scored`` (n,): whether a held-out row counts in scores, calibration and thresholds; None: every one does.
    """

    codes: NDArray[np.intp]
    folds: NDArray[np.intp]
    class_weights: NDArray[np.float64] | None
    row_weights: NDArray[np.float64] | None = None
    scored: NDArray[np.bool_] | None = None

    @property
    def classes(self) -> int:
        """The number of classes; 2 for label sets."""
        return 2 if self.codes.ndim == 2 else int(self.codes.max()) + 1

    def scored_in(self, fold: int | None) -> NDArray[np.bool_]:
        """Return whether each row (n,) is in ``fold`` and scored."""
        inside = np.asarray(self.folds == fold)
        return inside if self.scored is None else inside & self.scored

    def weights_of(self, rows: NDArray[np.intp] | slice, dtype: Any) -> NDArray[Any] | None:
        """Return the weight of each of ``rows``, which is its class weight times its row weight; None if all weights
        are 1.
        """
        by_class = None if self.class_weights is None else self.class_weights[self.codes[rows]]
        by_row = None if self.row_weights is None else self.row_weights[rows]
        if by_class is None or by_row is None:
            either = by_row if by_class is None else by_class
            return None if either is None else either.astype(dtype)
        return np.asarray(by_class * by_row, dtype)


class TrainingRows(Protocol):
    """Interface of training rows for the grid solver.

    ``dimension``: number r of values per row in the segments; ``dtype``: dtype of these values; ``spectrum``: leading
    eigenvectors and eigenvalues of the rows' Gram matrix, for the preconditioner.
    """

    labels: Labels
    spectrum: Spectrum
    dtype: np.dtype[Any]
    dimension: int

    def segments(self) -> Iterator[Segment]:
        """Yield segments that together contain every row once, in the same order at each call."""
        ...

    def to_features(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """Convert a classifier's weights (r, c) for the r values that a row has in the segments to weights (d, c).

        c is the number of the classifier's outputs, d the number of (standardised) features.
        """
        ...


def scored_segments(rows: TrainingRows) -> Iterator[Segment]:
    """Yield the segments of ``rows``, without the rows that are not scored (see Labels)."""
    scored = rows.labels.scored
    for segment in rows.segments():
        if scored is None:
            yield segment
        elif (keep := scored[segment.rows]).any():
            weights = None if segment.weights is None else segment.weights[keep]
            yield Segment(segment.fold, segment.values[keep], segment.codes[keep], weights, segment.rows[keep])


class MemoryRows:
    """Training rows as a standardised copy in memory, sorted by fold.

    If there are at least twice as many features as rows, the rows are rotated into the space that they span, which has
    fewer dimensions. This does not change the solution: the optimal weights lie in this space (representer theorem),
    and the penalty is rotation-invariant. The coordinates come from the eigenvectors of the (n, n) Gram matrix.
    """

    def __init__(self, X: Features, labels: Labels, scaler: Scaler, dtype: np.dtype[Any]) -> None:
        rows, dimension = X.shape
        self.labels, self.dtype = labels, dtype
        self._order = np.argsort(labels.folds, kind="stable")
        place = np.empty_like(self._order)
        place[self._order] = np.arange(rows)
        values = np.empty((rows, dimension), dtype)
        standardiser = Standardiser(scaler, dtype)
        start = 0
        # ``measure`` has already checked that all rows are finite.
        for block in raw_blocks(X, _COPIED_ELEMENTS):
            values[place[start : start + len(block)]] = standardiser.standardise(block, slice(None))
            start += len(block)
        self._back: NDArray[np.float64] | None = None
        if 2 * rows <= dimension:
            values, self._back, eigenvalues = _rotate(values)
            self.spectrum = Spectrum(None, eigenvalues / rows, 0.0)
        else:
            chosen = np.linspace(0, rows - 1, min(rows, _SAMPLE)).astype(np.intp)
            self.spectrum = spectrum_of(values if len(chosen) == rows else values[chosen])
        self._values = values
        self.dimension = values.shape[1]
        self._codes = labels.codes[self._order]
        self._weights = labels.weights_of(self._order, dtype)
        self._bounds = _segment_bounds(labels.folds[self._order], max(64, block_rows(self.dimension) // 2))

    def segments(self) -> Iterator[Segment]:
        """Yield the segments (consecutive rows of one fold) in order of the folds, as views without copying."""
        for fold, part in self._bounds:
            weights = None if self._weights is None else self._weights[part]
            yield Segment(fold, self._values[part], self._codes[part], weights, self._order[part])

    def to_features(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """Convert classifier weights (r, c) for the rotated rows to weights (d, c) for the standardised features."""
        return weights if self._back is None else self._back @ weights


def _rotate(values: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.float64], NDArray[np.float64]]:
    """Return (coordinates (n, r), basis (d, r), eigenvalues (r,) of the Gram matrix of ``values`` (n, d)).

    ``values`` equals coordinates @ basis.T.
    """
    exact = values.astype(np.float64)
    eigenvalues, vectors = np.linalg.eigh(exact @ exact.T)
    keep = eigenvalues > _RANK_TOLERANCE * max(float(eigenvalues[-1]), 1e-300)
    if not keep.any():
        raise DataError("all features are constant: nothing tells the classes apart")
    singular = np.sqrt(eigenvalues[keep])
    basis = exact.T @ (vectors[:, keep] / singular)
    return (vectors[:, keep] * singular).astype(values.dtype), basis, eigenvalues[keep]


def _segment_bounds(folds: NDArray[np.intp], step: int) -> list[tuple[int, slice]]:
    edges = np.flatnonzero(np.diff(folds)) + 1
    bounds = []
    for low, high in zip([0, *edges], [*edges, len(folds)], strict=True):
        bounds += [(int(folds[low]), slice(i, min(i + step, high))) for i in range(low, high, step)]
    return bounds


class StreamedSegment(Segment):
    """A segment that stores raw rows. They are standardised when they are read, usually by a worker thread."""

    raw: RawRows

    def __init__(
        self, fold: int, raw: RawRows, codes: NDArray[np.intp], weights: NDArray[Any] | None, rows: NDArray[np.intp]
    ) -> None:
        self.__dict__.update(fold=fold, raw=raw, codes=codes, weights=weights, rows=rows)

    @property
    def values(self) -> NDArray[Any]:
        """All rows of the segment, standardised, (m, d)."""
        return self.raw.all()

    def read(self, part: slice) -> NDArray[Any]:
        """Return the rows ``part`` of the segment, standardised; the next read in the same thread overwrites them."""
        return self.raw.read(part)


class StreamedRows:
    """Training rows that are not copied into memory: each pass reads them block by block, and worker threads
    standardise them.

    ``measure`` has already checked that all rows are finite.
    """

    def __init__(self, X: Features, labels: Labels, scaler: Scaler, dtype: np.dtype[Any]) -> None:
        self._source, self._standardiser = X, Standardiser(scaler, dtype)
        self.labels, self.dtype = labels, dtype
        rows, self.dimension = int(X.shape[0]), int(X.shape[1])
        chosen = np.unique(np.linspace(0, rows - 1, min(rows, _SAMPLE)).astype(np.intp))
        self.spectrum = spectrum_of(scaler.apply(take_rows(X, chosen).astype(dtype, copy=False)))

    def segments(self) -> Iterator[Segment]:
        """Yield one segment for each fold of each block; its rows are standardised when a thread reads them."""
        start = 0
        for block in raw_blocks(self._source, _RAW_ELEMENTS):
            rows = np.arange(start, start + len(block))
            start += len(block)
            folds = self.labels.folds[rows]
            for fold in np.unique(folds):
                inside = np.flatnonzero(folds == fold)
                chosen = rows if len(inside) == len(rows) else rows[inside]
                codes = self.labels.codes[chosen]
                weights = self.labels.weights_of(chosen, self.dtype)
                values = RawRows(block, None if len(inside) == len(rows) else inside, self._standardiser)
                yield StreamedSegment(int(fold), values, codes, weights, chosen)

    def to_features(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return ``weights`` unchanged: they belong to the standardised features already."""
        return weights


def prepare(
    X: Features, labels: Labels, *, standardize: bool, memory: int = defaults.HEAD_MEMORY
) -> tuple[TrainingRows, Scaler]:
    """Return training rows, copied if the copy fits into ``memory`` bytes and otherwise streamed, and their scaler.

    All folds share one scaler, measured on all training rows; labels do not affect the scaler.
    Raises the DataErrors of ``iterate``, and DataError if the numbers of rows and labels differ.
    """
    scaler, rows, dtype = measure(X, standardize=standardize)
    if rows != len(labels.codes):
        raise DataError(f"{rows:,} rows of features and {len(labels.codes):,} labels; there must be one label a row")
    fits = rows * X.shape[1] * dtype.itemsize <= memory
    made: TrainingRows = (MemoryRows if fits else StreamedRows)(X, labels, scaler, dtype)
    return made, scaler
