"""The kernel support vector machine as a scikit-learn classifier: RBF, squared hinge, one-vs-rest.

For up to about 2,000 rows, Newton's method on the kernel matrix gives the exact solution (see solvers/dual.py). For
more rows, Nystroem's approximation (Williams and Seeger, NIPS 2001) makes the problem linear: with m training rows
chosen as landmarks, and L L' the Cholesky factorisation of their kernel matrix, a row x becomes K(x, landmarks) L'^-1.
The linear solver (solvers/grid.py) then solves all values of C and all folds of one gamma together.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
import scipy.linalg
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning

from featstore import defaults
from featstore.blocks import Features
from featstore.errors import DataError
from featstore.heads import calibration, models, rowwise
from featstore.heads.estimators.inputs import ClassWeight, PerRow, candidates, seed_of, training_set
from featstore.heads.estimators.linear import DecisionHead
from featstore.heads.solvers import dual, grid
from featstore.heads.solvers.blocks import MappedBlocks, Scaler, measure, take_rows
from featstore.heads.solvers.losses import SQUARED_HINGE
from featstore.heads.solvers.passes import Problem
from featstore.heads.solvers.rows import Labels, TrainingRows, prepare
from featstore.heads.solvers.selection import choose

_JITTER: Final = 1e-6
"""Value added to the diagonal of the landmarks' kernel matrix. Without it, equal landmarks make the matrix singular."""


class KernelSVMHead(DecisionHead):
    """Support vector machine with an RBF kernel, one-vs-rest with squared hinge loss.

    Up to ``exact_rows`` training rows the solution is exact; for more rows it is Nystroem's approximation.

    Parameters
    ----------
    C : float or "auto"
        Inverse regularisation strength. "auto" chooses among ``Cs`` by cross-validation.
    gamma : float or "auto"
        The kernel is ``exp(-gamma ||a - b||^2)`` on standardised features. "auto" chooses among ``gammas``.
    Cs : sequence of float
        Values of ``C`` that "auto" tries.
    gammas : sequence of float
        Values of ``gamma`` that "auto" tries, in units of 1 / (mean squared distance of two standardised rows).
    exact_rows : int
        Largest number of training rows that is solved exactly.
    landmarks : int
        Number of training rows, drawn with ``random_state``, that Nystroem's approximation uses.
    cv : int or float
        Number of stratified folds, or the fraction of rows to hold out once. The final fit uses all rows in both cases.
    scoring : "accuracy", "balanced_accuracy" or "neg_log_loss"
        Score that cross-validation maximises; ties go to the smallest ``C``, then to the smallest ``gamma``.
    standardize : bool
        Scale every column to unit standard deviation. All folds use the scaler of all training rows.
    class_weight : None, "balanced" or mapping
        Weight of each class, as in scikit-learn.
    tol : float
        Relative gap to the optimum at which the final Nystroem fit stops.
    memory_limit : int
        Largest size in bytes of a copy of the rows mapped by Nystroem's approximation. Without a copy, each pass maps
        the rows again.
    random_state : int, RandomState or None
        Seed of the folds and landmarks.

    Attributes
    ----------
    classes_ : ndarray of shape (k,)
        Class labels, sorted.
    feature_identity_ : dict or None
        Identity of the training features (see ``featstore.FeatureArray``); prediction refuses any other identity.
    C_, gamma_ : float
        The given or chosen parameters.
    cv_results_ : dict
        Scores of each ``C`` and ``gamma``, as in scikit-learn's ``GridSearchCV``.
    exact_ : bool
        Whether the solution is exact.
    model_ : KernelModel
        The fitted model in numpy alone. Its probabilities come from temperature scaling on held-out decision values.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from featstore.heads import KernelSVMHead
    >>> X, y = load_iris(return_X_y=True)
    >>> head = KernelSVMHead(C=1.0, gamma=0.1).fit(X, y)
    >>> head.predict(X[:2])
    array([0, 0])
    >>> head.exact_
    True
    """

    def __init__(
        self,
        C: float | str = "auto",
        gamma: float | str = "auto",
        *,
        Cs: Sequence[float] = defaults.KERNEL_CS,
        gammas: Sequence[float] = defaults.KERNEL_GAMMAS,
        exact_rows: int = defaults.KERNEL_EXACT_ROWS,
        landmarks: int = defaults.KERNEL_LANDMARKS,
        cv: int | float = defaults.FOLDS,
        scoring: str = "accuracy",
        standardize: bool = True,
        class_weight: ClassWeight = None,
        tol: float = 1e-5,
        memory_limit: int = defaults.HEAD_MEMORY,
        random_state: Any = defaults.SEED,
    ) -> None:
        self.C = C
        self.gamma = gamma
        self.Cs = Cs
        self.gammas = gammas
        self.exact_rows = exact_rows
        self.landmarks = landmarks
        self.cv = cv
        self.scoring = scoring
        self.standardize = standardize
        self.class_weight = class_weight
        self.tol = tol
        self.memory_limit = memory_limit
        self.random_state = random_state

    def fit(
        self, X: Any, y: Any, sample_weight: PerRow = None, *, groups: PerRow = None, scored: PerRow = None
    ) -> Self:
        """Fit on ``X`` (n, d) and ``y`` (n,); ``sample_weight``, ``groups``, ``scored`` and the raised errors are as
        in LogisticHead.
        """
        Cs = candidates(self.C, self.Cs)
        X, labels = training_set(self, X, y, groups, sample_weight, scored=scored)
        scaler, rows, _ = measure(X, standardize=self.standardize)
        self.exact_ = rows <= self.exact_rows
        chosen = _landmark_rows(rows, rows if self.exact_ else min(self.landmarks, rows), self.random_state)
        landmarks = scaler.apply(take_rows(X, chosen)).astype(np.float32, copy=False)
        gammas = _gammas(self.gamma, self.gammas, landmarks)
        solver: _Exact | _Nystroem
        if self.exact_:
            # Use float64: rounding of float32 distances can give the kernel matrix negative eigenvalues.
            exact = landmarks.astype(np.float64)
            solver = _Exact(rowwise.squared_distances(exact, exact), labels)
        else:
            solver = _Nystroem(X, scaler, landmarks, labels, self._limits())
        trials = [solver.trial(gamma, Cs) for gamma in gammas]
        best = _pick([trial.scores for trial in trials], gammas, Cs, self.scoring)
        self.gamma_, self.C_ = gammas[best.gamma], Cs[best.C]
        self.cv_results_ = best.results
        count = len(trials[0].solutions) // len(Cs)
        chosen_solutions = trials[best.gamma].solutions[best.C * count : (best.C + 1) * count]
        final = solver.finish(self.gamma_, self.C_, chosen_solutions)
        if not final.converged:
            warnings.warn(f"C={self.C_:g} did not converge", ConvergenceWarning, stacklevel=2)
        self.model_ = models.KernelModel(
            landmarks,
            np.ascontiguousarray(final.weights.T),
            final.intercept,
            scaler.mean,
            scaler.scale,
            self.gamma_,
            final.scale,
        )
        return self

    def _limits(self) -> _Limits:
        return _Limits(self.tol, self.memory_limit)


@dataclass(frozen=True)
class _Limits:
    tol: float
    memory: int


@dataclass(frozen=True)
class _Trial:
    """Result of cross-validation with one gamma: solution and scores of each C (outer loop) and fold (inner loop)."""

    solutions: Sequence[Any]
    scores: grid.FoldScores


@dataclass(frozen=True)
class _Final:
    """The final fit: weights of the landmarks (m, c), intercepts (c,), and the factor of temperature scaling."""

    weights: NDArray[np.float64]
    intercept: NDArray[np.float64]
    scale: float
    converged: bool


@dataclass(frozen=True)
class _Exact:
    """Exact solver: Newton's method on the kernel matrix of all rows. ``squares``: (n, n) squared distances of rows."""

    squares: NDArray[np.float64]
    labels: Labels

    def trial(self, gamma: float, Cs: list[float]) -> _Trial:
        problems, _ = dual.grid_problems(self.labels, Cs)
        solutions = dual.solve(np.exp(-gamma * self.squares), self.labels, problems, tol=dual.FOLD_TOLERANCE)
        return _Trial(solutions, dual.score(self.labels, solutions))

    def finish(self, gamma: float, C: float, solutions: Sequence[Any]) -> _Final:
        kernel = np.exp(-gamma * self.squares)
        scale, final = dual.finish(kernel, self.labels, list(solutions), C)
        return _Final(final.weights, final.intercept, scale, final.converged)


@dataclass(frozen=True)
class _Nystroem:
    """Approximate solver: a linear problem on rows mapped to K(x, landmarks) L'^-1 (Nystroem), for the grid solver."""

    X: Features
    scaler: Scaler
    landmarks: NDArray[Any]
    labels: Labels
    limits: _Limits

    def trial(self, gamma: float, Cs: list[float]) -> _Trial:
        rows, _, _ = self._rows(gamma)
        problems, _ = dual.grid_problems(self.labels, Cs)
        solutions = grid.solve(rows, SQUARED_HINGE, problems, tol=self.limits.tol)
        return _Trial(solutions, grid.score(rows, solutions))

    def finish(self, gamma: float, C: float, solutions: Sequence[Any]) -> _Final:
        rows, centre, factor = self._rows(gamma)
        decisions, numbers = grid.held_out_decisions(rows, list(solutions))
        scale = calibration.fit_scale(decisions, self.labels.codes[numbers], self.labels.classes)
        start = grid.start_from(list(solutions), len(solutions) / max(1, len(solutions) - 1))
        final = grid.solve(rows, SQUARED_HINGE, [Problem(C, None)], tol=self.limits.tol, start=start)[0]
        weights = rows.to_features(final.weights)
        on_landmarks = scipy.linalg.solve_triangular(factor, weights, lower=True, trans="T")
        return _Final(on_landmarks, final.intercept - centre.mean @ weights, scale, final.converged)

    def _rows(self, gamma: float) -> tuple[TrainingRows, Scaler, NDArray[np.float64]]:
        exact = self.landmarks.astype(np.float64)
        kernel = rowwise.rbf_kernel(exact, exact, gamma)
        kernel[np.diag_indices_from(kernel)] += _JITTER
        factor = scipy.linalg.cholesky(kernel, lower=True, overwrite_a=True, check_finite=False)

        def features(block: NDArray[Any]) -> NDArray[np.float32]:
            values = self.scaler.apply(block).astype(np.float32, copy=False)
            mapped = rowwise.rbf_kernel(values, self.landmarks, gamma)
            solved = scipy.linalg.solve_triangular(factor, mapped.T, lower=True, overwrite_b=True, check_finite=False)
            return np.ascontiguousarray(solved.T, np.float32)

        mapped = MappedBlocks(self.X, features, len(self.landmarks))
        rows, centre = prepare(mapped, self.labels, standardize=False, memory=self.limits.memory)
        return rows, centre, factor


@dataclass(frozen=True)
class _Best:
    gamma: int
    C: int
    results: dict[str, Any]


def _landmark_rows(rows: int, count: int, random_state: Any) -> NDArray[np.intp]:
    if count >= rows:
        return np.arange(rows)
    return np.sort(np.random.default_rng(seed_of(random_state)).choice(rows, count, replace=False)).astype(np.intp)


def _gammas(gamma: float | str, multiples: Sequence[float], landmarks: NDArray[Any]) -> list[float]:
    if isinstance(gamma, str):
        if gamma != "auto":
            raise DataError(f"gamma must be a positive number or 'auto', not {gamma!r}")
        # The mean squared distance of two independent rows is 2 * (sum of variances).
        distance = 2 * float(np.var(landmarks, axis=0, dtype=np.float64).sum())
        if distance == 0:
            raise DataError("all features are constant: nothing tells the classes apart")
        return [float(multiple) / distance for multiple in sorted(multiples)]
    if not 0 < gamma < np.inf:
        raise DataError("gamma must be positive and finite")
    return [float(gamma)]


def _pick(scores: list[grid.FoldScores], gammas: list[float], Cs: list[float], scoring: str) -> _Best:
    """Return the pair (C, gamma) with the best score; ties go to the smallest C, then to the smallest gamma."""
    cells = [(c, g) for c in range(len(Cs)) for g in range(len(gammas))]
    folds = len(scores[0].accuracy) // len(Cs)

    def gathered(name: str) -> NDArray[Any]:
        return np.concatenate([getattr(scores[g], name)[c * folds : (c + 1) * folds] for c, g in cells])

    joined = grid.FoldScores(*(gathered(name) for name in ("rows", "accuracy", "balanced_accuracy", "log_loss")))
    parameters = {"C": [Cs[c] for c, _ in cells], "gamma": [gammas[g] for _, g in cells]}
    choice = choose(parameters, joined, folds, scoring)
    c, g = cells[choice.index]
    return _Best(g, c, choice.results)
