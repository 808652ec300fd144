"""TrainedHead and its file format: arrays and JSON in a file with checksums, without pickle.

The file has the format of featstore.files.sealed and the kind ``head``. Its arrays are the arrays of the model
(models.py). Its JSON holds: ``format`` (1), ``head`` (the kind of head, e.g. "logreg"), ``model`` (name of the model in
models.py), ``numbers`` (the model's scalars), ``classes`` (strings in the order of the columns), ``fingerprint`` and
``identity`` of the features, ``about`` (free JSON: parameters, cross-validation, seed, split, label version, report,
library versions).

If the classifier is of another package, the only array is ``skops``: the classifier as saved by the package skops (see
skops_bytes.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from featstore.blocks import Features
from featstore.errors import DamagedError, DataError, IdentityError
from featstore.files import sealed
from featstore.heads import models
from featstore.heads.solvers.blocks import dense_blocks, is_blocks
from featstore.heads.solvers.losses import predict_codes
from featstore.heads.wrapped import EstimatorModel
from featstore.store.features import require_same
from featstore.store.identity import differences

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
        """Return decision values: (n,) for two classes (positive: second class), (n, k) for more. Raises DataError."""
        decisions = models.decide(self.model, self._fitting(X))
        return decisions[:, 0] if decisions.shape[1] == 1 else decisions

    def predict_proba(self, X: Features) -> NDArray[np.float64]:
        """Return probabilities (n, k) in the order of ``classes``. Raises DataError: NaN, infinity, wrong width."""
        return self.model.probabilities(models.decide(self.model, self._fitting(X)))

    def predict(self, X: Features) -> NDArray[np.str_]:
        """Return the predicted labels (n,). Raises DataError: NaN, infinity, wrong width."""
        return np.array(self.classes)[predict_codes(models.decide(self.model, self._fitting(X)))]

    def predict_blocks(self, X: Features) -> Iterator[tuple[NDArray[np.intp], NDArray[np.float64]]]:
        """Yield (predicted class numbers (m,), probabilities (m, k)) block by block, in constant memory.

        Raises DataError: NaN, infinity, wrong width.
        """
        for decisions in models.decide_blocks(self.model, self._fitting(X)):
            yield predict_codes(decisions), self.model.probabilities(decisions)

    def trusting(self, types: Sequence[str]) -> TrainedHead:
        """Return the head with its classifier unpacked; a head of featstore's own kinds is returned unchanged.

        ``types``: names of the types that the user trusts, in addition to those that skops trusts. Raises UsageError if
        the classifier needs further types (with a list), or if skops is not installed; DamagedError.
        """
        if not isinstance(self.model, EstimatorModel):
            return self
        model = replace(self.model, trust=tuple(types))
        model.estimator  # noqa: B018 - unpacks it
        return replace(self, model=model)

    def check_identity(self, fingerprint: str, identity: Mapping[str, Any]) -> None:
        """Raise IdentityError, listing the differences, if ``identity`` is not that of the training features."""
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
    Raises DamagedError if the file is not a head, damaged, contradictory, or of a newer format.
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
        or not 2 <= len(classes) <= _LARGEST_CLASSES
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
    return TrainedHead(kind, classes, model, fingerprint, identity, about)


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
