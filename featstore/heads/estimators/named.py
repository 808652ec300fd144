"""Heads from classes of other packages: any scikit-learn classifier that the user names as package.module:Class."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any, Final, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featstore import defaults
from featstore.blocks import Features
from featstore.errors import DataError, FeatstoreError, UsageError
from featstore.heads import calibration, skops_bytes
from featstore.heads.estimators.inputs import assign_folds, require_bytes, scored_rows, seed_of
from featstore.heads.solvers.blocks import iterate
from featstore.heads.solvers.grid import FoldScores
from featstore.heads.solvers.losses import predict_codes
from featstore.heads.solvers.passes import few_threads
from featstore.heads.solvers.selection import choose, score
from featstore.heads.wrapped import OUTPUTS, EstimatorModel, decisions_of
from featstore.text import did_you_mean, printable

_AGREEING: Final = 0.9
"""Smallest share of the training rows for which the largest column of an output must be the class that ``predict``
returns.

An output is predict_proba or decision_function. The share is less than 1, because some classifiers do not always
predict the class with the largest value.
"""
_TRIED: Final = 1000


class NamedHead:
    """A classifier of the class ``spec`` (package.module:Class), with temperature scaling on held-out decision values.

    ``parameters``: arguments of the class; missing arguments have the defaults of the class, except ``random_state``,
    which is the seed. The extra parameter ``memory_limit`` is the largest size in bytes of the training rows, which are
    all held in memory (default: HEAD_MEMORY). ``cv``: number of folds, or fraction to hold out once, as in
    LogisticHead.

    The constructor imports the class, so ``spec`` must come from the user, never from a file.
    Raises UsageError if the module, class or parameter is unknown, or if the class is not a scikit-learn classifier.
    """

    def __init__(
        self,
        spec: str,
        *,
        cv: int | float = defaults.FOLDS,
        random_state: Any = defaults.SEED,
        parameters: Mapping[str, Any] | None = None,
    ) -> None:
        self._spec, self._class, self._parameters = spec, _import(spec), dict(parameters or {})
        self._cv, self._seed = cv, seed_of(random_state)
        self._memory_limit = self._parameters.pop("memory_limit", defaults.HEAD_MEMORY)
        require_bytes(self._memory_limit)
        self._fresh()

    def get_params(self) -> dict[str, Any]:
        """Return all parameters of the classifier, including those that have default values."""
        parameters: dict[str, Any] = self._fresh().get_params(deep=False)
        return parameters

    def fit(
        self,
        X: Features,
        y: NDArray[np.int64],
        *,
        groups: ArrayLike | None = None,
        scored: ArrayLike | None = None,
    ) -> Self:
        """Fit on ``X`` (n, d) and class numbers ``y`` (n,); ``groups`` and ``scored`` are as in LogisticHead.

        Sets ``model_``, ``cv_results_`` and ``untrusted_`` (the types that the user has to trust to load the saved
        head).
        Raises DataError for too many rows for memory or NaN; UsageError if the class refuses the data or skops cannot
        save the fitted classifier.
        """
        codes, classes = y.astype(np.intp), int(y.max()) + 1
        rows = self._in_memory(X)
        final = self._fitted(rows, codes)
        output = self._output(final, rows[:_TRIED], classes)
        folds = assign_folds(codes, groups, self._cv, self._seed)
        kept = scored_rows(scored, folds)
        held_out, truth, scores = [], [], []
        for fold in np.unique(folds[folds >= 0]):
            inside = folds == fold
            judged = inside if kept is None else inside & kept
            one = self._fitted(rows[~inside], codes[~inside])
            decisions = self._try("its predictions", decisions_of, one, output, rows[judged], classes)
            held_out.append(decisions)
            truth.append(codes[judged])
            scores.append(score(calibration.softmax(decisions), codes[judged]))
        scale = calibration.fit_scale(np.concatenate(held_out), np.concatenate(truth), classes)
        table = np.array(scores)
        per_fold = FoldScores(table[:, 0].astype(np.int64), table[:, 1], table[:, 2], table[:, 3])
        self.cv_results_ = choose({}, per_fold, len(scores), "accuracy").results
        self._finish(final, output, rows, classes, scale)
        return self

    def _finish(self, final: Any, output: str, rows: NDArray[np.float32], classes: int, scale: float) -> None:
        """Set the fitted attributes; check that saving and loading does not change the decision values."""
        data = self._try("saving it without pickle", skops_bytes.pack, final)
        self.untrusted_ = skops_bytes.untrusted(data, self._spec)
        payload = np.frombuffer(data, np.uint8)
        self.model_ = EstimatorModel(payload, output, rows.shape[1], classes, scale, tuple(self.untrusted_), self._spec)
        expected = decisions_of(final, output, rows[:_TRIED], classes)
        if not np.allclose(self.model_.decide_block(rows[:_TRIED]), expected, rtol=1e-6, atol=1e-9):
            raise FeatstoreError(f"{self._spec}: predicts otherwise after it was saved and loaded; use another class")

    def _in_memory(self, X: Features) -> NDArray[np.float32]:
        need = X.shape[0] * X.shape[1] * 4
        if need > self._memory_limit:
            raise DataError(
                f"{self._spec} needs all training vectors in memory, {need / 2**30:.1f} GiB here; give --set "
                f"memory_limit={need}, or use --head logreg, which reads them block by block"
            )
        rows = np.empty((X.shape[0], X.shape[1]), np.float32)
        start = 0
        for block in iterate(X):
            rows[start : start + len(block)] = block
            start += len(block)
        return rows

    def _fresh(self) -> Any:
        """Return a new, unfitted instance of the class.

        Raises UsageError for wrong parameters, or if the class is not a classifier.
        """
        from sklearn.base import is_classifier

        try:
            names = set(self._class._get_param_names())
        except Exception:
            raise UsageError(f"{self._spec}: is no scikit-learn class; name a classifier, such as {_EXAMPLE}") from None
        for name in self._parameters:
            if name not in names:
                raise UsageError(
                    f"{self._spec} has no parameter {name!r}{did_you_mean(name, names)}; it has {', '.join(sorted(names))}"
                )
        seed = {"random_state": self._seed} if "random_state" in names else {}
        made = self._try("making one", self._class, **{**seed, **self._parameters})
        if not (self._try("asking it", is_classifier, made) and hasattr(made, "fit") and hasattr(made, "predict")):
            raise UsageError(f"{self._spec}: is no classifier with fit and predict; name one, such as {_EXAMPLE}")
        return made

    def _fitted(self, rows: NDArray[np.float32], codes: NDArray[np.intp]) -> Any:
        made = self._fresh()
        with few_threads(len(rows), rows.shape[1], user_api=None):
            self._try("fitting it", made.fit, rows, codes)
        if not np.array_equal(np.asarray(getattr(made, "classes_", ())), np.arange(int(codes.max()) + 1)):
            raise UsageError(f"{self._spec}: has no classes_ with the classes after fit; use another class")
        return made

    def _output(self, estimator: Any, rows: NDArray[np.float32], classes: int) -> str:
        """Return the first method of ``estimator``, in the order of OUTPUTS, whose largest column is the class that
        ``predict`` returns for nearly all rows (see _AGREEING)."""
        said = np.asarray(self._try("its predictions", estimator.predict, rows))
        for output in OUTPUTS[:-1]:
            if callable(getattr(estimator, output, None)):
                try:
                    found = predict_codes(decisions_of(estimator, output, rows, classes))
                except Exception:
                    continue
                if (found == said).mean() >= _AGREEING:
                    return output
        return OUTPUTS[-1]

    def _try(self, what: str, function: Callable[..., Any], *given: Any, **named: Any) -> Any:
        """Call ``function``, which runs code of the user's class; turn its errors into a one-line UsageError."""
        try:
            return function(*given, **named)
        except UsageError:
            raise
        except Exception as error:
            told = printable(" ".join(f"{type(error).__name__}: {error}".split()))
            raise UsageError(f"{self._spec}: {what} failed: {told[:400]}; change its parameters (--set)") from None


_EXAMPLE: Final = "sklearn.discriminant_analysis:LinearDiscriminantAnalysis"


def is_named(kind: str) -> bool:
    """Return whether ``kind`` has the form package.module:Class."""
    module, colon, name = kind.partition(":")
    return bool(colon) and name.isidentifier() and all(part.isidentifier() for part in module.split("."))


def _import(spec: str) -> Any:
    module, _, name = spec.partition(":")
    try:
        found = getattr(importlib.import_module(module), name, None)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module}.".startswith(f"{error.name}."):
            raise UsageError(
                f"{spec}: there is no module {error.name}; install its package, or put its folder into PYTHONPATH (the working "
                "directory is not searched)"
            ) from None
        raise UsageError(f"{spec}: cannot be imported: {printable(str(error))}; install what it needs") from None
    except (Exception, SystemExit) as error:
        told = printable(" ".join(f"{type(error).__name__}: {error}".split()))[:200]
        raise UsageError(f"{spec}: cannot be imported: {told}; correct it") from None
    if found is None:
        names = [each for each, value in vars(importlib.import_module(module)).items() if inspect.isclass(value)]
        raise UsageError(f"{spec}: the module has no {name}{did_you_mean(name, names)}")
    if not inspect.isclass(found):
        raise UsageError(f"{spec}: is a {type(found).__name__}, not a class; name a classifier, such as {_EXAMPLE}")
    return found
