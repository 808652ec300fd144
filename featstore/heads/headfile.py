"""TrainedHead and its file format: arrays and JSON in a file with checksums, without pickle.

The file has the format of featstore.files.sealed and the kind ``head``. Its arrays are the arrays of the model
(models.py). Its JSON holds: ``format`` (1), ``head`` (the kind of head, e.g. "logreg"), ``model`` (name of the model in
models.py), ``numbers`` (the model's scalars), ``classes`` (strings in the order of the columns), ``fingerprint`` and
``identity`` of the features, ``about`` (free JSON: parameters, cross-validation, seed, split, label version, report,
library versions).

If the classifier comes from another package, the only array is ``skops``: the classifier as saved by the package skops
(see skops_bytes.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from featstore.blocks import Features
from featstore.errors import DamagedError, DataError, IdentityError, UsageError
from featstore.files import sealed
from featstore.heads import models
from featstore.heads.label_sets import LabelSetsModel
from featstore.heads.network_sets import NetworkSetsModel
from featstore.heads.numbers import NumbersModel
from featstore.heads.solvers.blocks import dense_blocks, is_blocks
from featstore.heads.solvers.losses import predict_codes
from featstore.heads.wrapped import EstimatorModel
from featstore.store.features import require_same
from featstore.store.identity import differences
from featstore.store.targets import CLASSES, LABEL_SETS, NUMBERS

KIND: Final = "head"
FORMAT: Final = 1
_LARGEST_CLASSES: Final = 1_000_000


@dataclass(frozen=True)
class TrainedHead:
    """A trained classifier. Featstore's own kinds predict with numpy alone, without scikit-learn.

    ``kind``: e.g. "logreg", or package.module:Class for a classifier of another package; ``classes``: labels in the
    order of the probability columns; ``fingerprint`` and ``identity`` of the features used for training; ``meta``: how
    the head was trained (JSON).
    """

    task: ClassVar[str] = CLASSES
    kind: str
    classes: list[str]
    model: models.Model
    fingerprint: str = ""
    identity: dict[str, Any] = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)

    @property
    def dimension(self) -> int:
        """Number of values of a feature vector."""
        return self.model.dimension

    def __repr__(self) -> str:
        backbone = self.identity.get("backbone")
        of = f" of {backbone}" if backbone else ""
        return f"<TrainedHead {self.kind}: {len(self.classes):,} classes, features of {self.dimension:,} values{of}>"

    def decision_function(self, X: Features) -> NDArray[Any]:
        """Return decision values: (n,) for two classes (positive: second class), (n, k) for more classes.

        Raises DataError for NaN, infinity, or a wrong width."""
        decisions = models.decide(self.model, self._fitting(X))
        return decisions[:, 0] if decisions.shape[1] == 1 else decisions

    def predict_proba(self, X: Features) -> NDArray[np.float64]:
        """Return probabilities (n, k) in the order of ``classes``. Raises DataError for NaN, infinity, or a wrong
        width.
        """
        return self.model.probabilities(models.decide(self.model, self._fitting(X)))

    def predict(self, X: Features) -> NDArray[Any]:
        """Return the predicted labels (n,). Raises DataError for NaN, infinity, or a wrong width."""
        return np.array(self.classes)[predict_codes(models.decide(self.model, self._fitting(X)))]

    def predict_blocks(self, X: Features) -> Iterator[tuple[NDArray[Any], NDArray[np.float64]]]:
        """Yield (predicted class numbers (m,), probabilities (m, k)) block by block, in constant memory.

        Raises DataError for NaN, infinity, or a wrong width.
        """
        for decisions in models.decide_blocks(self.model, self._fitting(X)):
            yield predict_codes(decisions), self.model.probabilities(decisions)

    def choose(self, probabilities: NDArray[np.float64]) -> NDArray[Any]:
        """Return the class number (...) of the largest of the probabilities (..., k)."""
        return np.asarray(probabilities.argmax(axis=-1))

    def trusting(self, types: Sequence[str]) -> TrainedHead:
        """Return the head with its classifier unpacked; a head of featstore's own kinds is returned unchanged.

        ``types``: names of the types that the user trusts, in addition to those that skops trusts. Raises UsageError if
        skops is not installed, or if the classifier needs further types, which the message lists; DamagedError if the
        head is damaged.
        """
        if not isinstance(self.model, EstimatorModel):
            return self
        model = replace(self.model, trust=tuple(types))
        model.estimator  # noqa: B018 - unpacks it
        return replace(self, model=model)

    def check_identity(self, fingerprint: str, identity: Mapping[str, Any]) -> None:
        """Raise IdentityError that lists the differences if ``identity`` is not the identity of the training features."""
        if fingerprint == self.fingerprint:
            return
        what = "; ".join(differences(self.identity, identity)) or f"fingerprint {self.fingerprint}, not {fingerprint}"
        raise IdentityError(
            f"the head was trained on features of another identity: {what}; extract with the head's backbone, or train a head on this store"
        )

    def _fitting(self, X: Features) -> Features:
        require_same(self.identity, X, "the head", self.fingerprint)
        X = dense_blocks(X)
        if not is_blocks(X):
            X = np.asarray(X)
            if X.ndim != 2:
                raise DataError(f"features must be a 2-d array (rows, dimensions), not {X.ndim}-d; reshape them")
        if X.shape[1] != self.dimension:
            raise DataError(
                f"features of {X.shape[1]} values, where this head was trained on {self.dimension}; "
                "use the backbone that it was trained with"
            )
        return X


class LabelSetsHead(TrainedHead):
    """A trained head that predicts a label set for each row; ``classes`` are the labels."""

    task = LABEL_SETS

    @property
    def thresholds(self) -> NDArray[np.float64]:
        """The thresholds (k,): a label is predicted if its probability reaches its threshold."""
        assert isinstance(self.model, LabelSetsModel | NetworkSetsModel)
        return self.model.thresholds

    @property
    def separator(self) -> str:
        """Text between two labels of a set."""
        task = self.meta.get("task")
        separator = task.get("separator") if isinstance(task, dict) else None
        return separator if isinstance(separator, str) and separator else ";"

    def __repr__(self) -> str:
        return super().__repr__().replace(" classes, ", " labels, ")

    def decision_function(self, X: Features) -> NDArray[Any]:
        """Return decision values (n, k), positive where the probability is above 0.5.

        Raises DataError for NaN, infinity, or a wrong width."""
        return models.decide(self.model, self._fitting(X))

    def choose(self, probabilities: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Return whether each probability (..., k) reaches the threshold of its label."""
        return np.asarray(probabilities >= self.thresholds)

    def predict(self, X: Features) -> NDArray[np.object_]:
        """Return the predicted label sets (n,), tuples of labels. Raises DataError for NaN, infinity, or a wrong width."""
        chosen = self.choose(self.predict_proba(X))
        sets = (tuple(self.classes[code] for code in np.flatnonzero(row)) for row in chosen)
        return np.fromiter(sets, object, len(chosen))

    def predict_blocks(self, X: Features) -> Iterator[tuple[NDArray[Any], NDArray[np.float64]]]:
        """Yield (whether each label is predicted (m, k), probabilities (m, k)) block by block, in constant memory."""
        for decisions in models.decide_blocks(self.model, self._fitting(X)):
            probabilities = self.model.probabilities(decisions)
            yield self.choose(probabilities), probabilities


class NumbersHead(TrainedHead):
    """A trained head that predicts a number for each row; ``classes`` is empty."""

    task = NUMBERS

    def __repr__(self) -> str:
        return super().__repr__().replace("0 classes, ", "")

    def predict(self, X: Features) -> NDArray[np.float64]:
        """Return the predicted numbers (n,). Raises DataError for NaN, infinity, or a wrong width."""
        return np.asarray(models.decide(self.model, self._fitting(X))[:, 0], np.float64)

    def predict_proba(self, X: Features) -> NDArray[np.float64]:
        """Raise UsageError, because a number has no probability."""
        raise UsageError("this head predicts numbers, which have no probabilities; call predict")

    def choose(self, probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the predicted numbers (...) from an array of predictions (..., 1)."""
        return probabilities[..., 0]

    def predict_blocks(self, X: Features) -> Iterator[tuple[NDArray[Any], NDArray[np.float64]]]:
        """Yield the predicted numbers in two shapes, (m,) and (m, 1), block by block, in constant memory."""
        for numbers in models.decide_blocks(self.model, self._fitting(X)):
            yield numbers[:, 0], np.asarray(numbers, np.float64)


_HEADS: Final[dict[type, type[TrainedHead]]] = {
    LabelSetsModel: LabelSetsHead,
    NetworkSetsModel: LabelSetsHead,
    NumbersModel: NumbersHead,
}
"""The class of a head by the class of its model; TrainedHead for models that are not named here."""


def save_head(path: Path, head: TrainedHead, meta: Mapping[str, Any] | None = None) -> str:
    """Write ``head`` to ``path`` atomically; return the file's checksum. ``meta`` is added to ``head.meta``."""
    head = replace(head, meta={**head.meta, **(meta or {})})
    description = {
        "format": FORMAT,
        "head": head.kind,
        "model": head.model.name,
        "numbers": head.model.numbers(),
        "classes": head.classes,
        "fingerprint": head.fingerprint,
        "identity": head.identity,
        "about": head.meta,
    }
    summary = {"head": head.kind, "classes": len(head.classes), "dimension": head.dimension}
    return sealed.write(path, KIND, head.model.arrays(), description, summary)


def load_head(path: Path, trust: Sequence[str] = (), *, follow: bool = True) -> TrainedHead:
    """Read a head from ``path``; check every byte by the checksums, and that the arrays fit together.

    No code in the file is executed. A classifier of another package is unpacked at the first prediction, and only if
    each of its types is trusted by skops or named in ``trust``; otherwise the prediction raises UsageError with a list
    of the untrusted types. ``follow``: whether ``path`` may be a symbolic link.
    Raises DamagedError if the file is not a head, if it is damaged or contradictory, or if its format is newer.
    """
    file = sealed.SealedFile(path, KIND, follow=follow)
    damages = file.verify()
    if damages:
        raise DamagedError(damages[0])
    meta, origin = file.meta, str(path)
    if meta.get("format") != FORMAT:
        raise DamagedError(f"{origin}: has the head format {meta.get('format')!r}; this featstore reads {FORMAT}")
    classes = meta.get("classes")
    if (
        not isinstance(classes, list)
        or not (meta.get("model") == NumbersModel.name or len(classes) >= 2)
        or len(classes) > (0 if meta.get("model") == NumbersModel.name else _LARGEST_CLASSES)
        or not all(isinstance(name, str) for name in classes)
        or len(set(classes)) != len(classes)
    ):
        raise DamagedError(f"{origin}: its list of classes is damaged")
    kind, name, fingerprint = (_text(meta, key, origin) for key in ("head", "model", "fingerprint"))
    numbers, identity, about = (_mapping(meta, key, origin) for key in ("numbers", "identity", "about"))
    arrays = {array: file[array] for array in file.names if array != "meta"}
    model = models.restore(name, arrays, numbers, len(classes), origin)
    if isinstance(model, EstimatorModel):
        model = replace(model, trust=tuple(trust))
    made = _HEADS.get(type(model), TrainedHead)
    return made(kind, classes, model, fingerprint, identity, about)


def _text(meta: Mapping[str, Any], key: str, origin: str) -> str:
    value = meta.get(key)
    if not isinstance(value, str):
        raise DamagedError(f"{origin}: its description lacks {key}")
    return value


def _mapping(meta: Mapping[str, Any], key: str, origin: str) -> dict[str, Any]:
    value = meta.get(key)
    if not isinstance(value, dict):
        raise DamagedError(f"{origin}: its description lacks {key}")
    return value
