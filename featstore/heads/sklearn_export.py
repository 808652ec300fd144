"""Export heads to plain scikit-learn estimators, which joblib saves."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featstore.errors import DamagedError, UsageError
from featstore.files import atomic
from featstore.heads.headfile import TrainedHead
from featstore.heads.label_sets import LabelSetsModel
from featstore.heads.models import KernelModel, LinearModel
from featstore.heads.network import NetworkModel
from featstore.heads.network_sets import NetworkSetsModel
from featstore.heads.numbers import NumbersModel
from featstore.heads.wrapped import EstimatorModel
from featstore.text import printable


def export_sklearn(head: TrainedHead, path: Path) -> list[str]:
    """Write ``head`` as a plain scikit-learn estimator with joblib. The file is a pickle: load only files you trust.

    Returns notes for the user on how the estimator differs from the head. featstore itself never loads such a file.
    Raises UsageError for a nearest-neighbour head, DamagedError if the head is damaged, OSError if writing fails.
    """
    import joblib

    estimator = to_sklearn(head)
    notes = _differences(head, estimator)
    with atomic.new_file(path) as temporary:
        joblib.dump(estimator, temporary)
    return notes


def _differences(head: TrainedHead, estimator: Any) -> list[str]:
    if isinstance(head.model, LabelSetsModel | NetworkSetsModel):
        cuts = zip(head.classes[:20], head.model.thresholds.tolist(), strict=False)
        shown = ", ".join(f"{printable(name)} {cut:.4g}" for name, cut in cuts)
        columns = f"{shown}{', ...' if len(head.classes) > 20 else ''}"
        return [
            f"it predicts columns of 1 and 0 at a probability of 0.5, where the head has a threshold for each: {columns}"
        ]
    if not isinstance(head.model, EstimatorModel):
        return []
    notes = ["probabilities are the class's own, without the temperature scaling of featstore"]
    if not _predicts_names(estimator, head):
        numbered = ", ".join(f"{number} = {printable(name)}" for number, name in enumerate(head.classes[:20]))
        notes.append(f"it predicts the number of the class: {numbered}{', ...' if len(head.classes) > 20 else ''}")
    return notes


def _predicts_names(estimator: Any, head: TrainedHead) -> bool:
    X = np.random.default_rng(0).standard_normal((64, head.dimension)).astype(np.float32)
    try:
        return set(np.asarray(estimator.predict(X)).tolist()) <= set(head.classes)
    except Exception as error:
        raise DamagedError(
            f"the classifier of the head failed on made-up features ({printable(str(error))[:200]})"
        ) from None


def _named(head: TrainedHead, model: EstimatorModel) -> Any:
    """Return a copy of the model's classifier that predicts labels instead of class numbers.

    If the classifier does not work with replaced labels, the returned copy predicts class numbers.
    """
    plain, named = copy.deepcopy(model.estimator), copy.deepcopy(model.estimator)
    try:
        named.classes_ = np.array(head.classes)
        return named if _predicts_names(named, head) else plain
    except Exception:
        return plain


def to_sklearn(head: TrainedHead) -> Any:
    """Return a scikit-learn estimator with the predictions and probabilities of ``head``, usable without featstore.

    A linear head becomes a LogisticRegression whose coefficients include the factor of temperature scaling. A linear
    SVM becomes a LogisticRegression too, because scikit-learn's LinearSVC has no ``predict_proba``. An RBF head becomes
    a pipeline of StandardScaler, Nystroem and LogisticRegression. A multilayer perceptron becomes a pipeline of
    StandardScaler and MLPClassifier. A linear head that predicts label sets becomes a OneVsRestClassifier; this
    classifier and a perceptron for label sets predict without the thresholds. A head that predicts numbers becomes a
    Ridge. For a head that is a classifier of another package, the classifier itself is returned, without temperature
    scaling; it predicts class numbers if its labels cannot be replaced. Raises UsageError for a nearest-neighbour head, because scikit-learn does not have the weighted vote.
    """
    model = head.model
    if isinstance(model, LinearModel):
        return _logistic(head.classes, model.coef * model.scale, model.intercept * model.scale)
    if isinstance(model, LabelSetsModel):
        return _one_vs_rest(model)
    if isinstance(model, NumbersModel):
        return _ridge(model)
    if isinstance(model, EstimatorModel):
        return _named(head, model)
    if not isinstance(model, KernelModel | NetworkModel | NetworkSetsModel):
        raise UsageError(f"a {head.kind} head has no plain scikit-learn counterpart; export it to ONNX instead")
    from sklearn.kernel_approximation import Nystroem
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler()
    scaled = model.network if isinstance(model, NetworkSetsModel) else model
    scaler.mean_, scaler.scale_, scaler.var_ = scaled.mean, scaled.spread, scaled.spread**2
    scaler.n_features_in_ = model.dimension
    scaler.n_samples_seen_ = len(model.landmarks) if isinstance(model, KernelModel) else 1
    if not isinstance(model, KernelModel):
        perceptron = _perceptron(head.classes, model)
        return Pipeline([("standardscaler", scaler), ("mlpclassifier", perceptron)])
    kernel = Nystroem(kernel="rbf", gamma=model.gamma, n_components=len(model.coef))
    kernel.components_ = model.landmarks.astype(np.float64)
    # scikit-learn's Nystroem multiplies the kernel by ``normalization_``. With the coefficients of the head in this
    # matrix, Nystroem returns decision values.
    kernel.normalization_ = model.coef
    kernel.component_indices_ = np.arange(len(model.landmarks))
    kernel.n_features_in_ = model.dimension
    last = _logistic(head.classes, np.eye(len(model.coef)) * model.scale, model.intercept * model.scale)
    return Pipeline([("standardscaler", scaler), ("nystroem", kernel), ("logisticregression", last)])


def _perceptron(classes: list[str], of: NetworkModel | NetworkSetsModel) -> Any:
    from sklearn.neural_network import MLPClassifier
    from sklearn.preprocessing import LabelBinarizer

    model, sets = (of.network, True) if isinstance(of, NetworkSetsModel) else (of, False)
    estimator = MLPClassifier([len(bias) for bias in model.biases[:-1]], activation="relu")
    if sets:
        # Fit the binarizer on an indicator matrix, so that it accepts label sets.
        estimator._label_binarizer = LabelBinarizer().fit(np.eye(len(classes), dtype=int)[:, ::-1])
        estimator.classes_ = estimator._label_binarizer.classes_
    else:
        estimator.classes_ = np.array(classes)
        estimator._label_binarizer = LabelBinarizer().fit(estimator.classes_)
        # Fitting sorts the classes as text, but the columns of the head are in natural order.
        estimator._label_binarizer.classes_ = estimator.classes_
    estimator.coefs_ = [weight.T.astype(np.float64) for weight in model.weights]
    estimator.intercepts_ = [bias.astype(np.float64) for bias in model.biases]
    estimator.coefs_[-1] *= model.scale
    estimator.intercepts_[-1] *= model.scale
    estimator.n_features_in_, estimator.n_outputs_ = model.dimension, len(model.biases[-1])
    estimator.n_layers_ = len(model.weights) + 1
    estimator.out_activation_ = "logistic" if sets or estimator.n_outputs_ == 1 else "softmax"
    return estimator


def _ridge(model: NumbersModel) -> Any:
    from sklearn.linear_model import Ridge

    estimator = Ridge()
    estimator.coef_, estimator.intercept_ = model.coef[0].copy(), float(model.intercept[0])
    estimator.n_features_in_ = model.dimension
    return estimator


def _one_vs_rest(model: LabelSetsModel) -> Any:
    from sklearn.linear_model import LogisticRegression
    from sklearn.multiclass import OneVsRestClassifier
    from sklearn.preprocessing import LabelBinarizer

    estimator = OneVsRestClassifier(LogisticRegression())
    # Fit the binarizer on an indicator matrix, so that it accepts label sets.
    estimator.label_binarizer_ = LabelBinarizer(sparse_output=True).fit(np.eye(model.columns, dtype=int)[:, ::-1])
    estimator.classes_ = estimator.label_binarizer_.classes_
    estimator.estimators_ = [
        _logistic([0, 1], coef[None], intercept[None])
        for coef, intercept in zip(model.coef, model.intercept, strict=True)
    ]
    estimator.n_features_in_ = model.dimension
    return estimator


def _logistic(classes: Sequence[Any], coef: NDArray[np.float64], intercept: NDArray[np.float64]) -> Any:
    from sklearn.linear_model import LogisticRegression

    estimator = LogisticRegression()
    estimator.classes_ = np.array(classes)
    estimator.coef_, estimator.intercept_ = np.ascontiguousarray(coef), intercept
    estimator.n_features_in_ = coef.shape[1]
    estimator.n_iter_ = np.zeros(1, np.int32)
    return estimator
