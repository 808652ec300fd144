"""The units of the network that contribute most to the decision value of a class of a linear head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from featstore.errors import IdentityError, UsageError
from featstore.store import FeatureStore
from featstore.store.activations import by_unit, mean_vectors
from featstore.store.features import require_same
from featstore.text import counted, did_you_mean

if TYPE_CHECKING:
    from featstore.heads import TrainedHead


@dataclass(frozen=True)
class OfClass:
    """A class of a head: the mask (n,) of its pictures, and the ``contributions`` (units,) to its decision value."""

    pictures: NDArray[np.bool_]
    contributions: NDArray[np.float64]


def contributions(store: FeatureStore, path: str, class_name: str) -> OfClass:
    """Return the contribution of each unit to the decision value of a class of the head at ``path``.

    Raises UsageError for a head without weights, an unknown class, a class without pictures in ``store``, and features
    that are not finite; IdentityError for a head of other features.
    """
    from featstore.artifacts import open_head

    head = open_head(path)
    require_same(head.identity, store, f"the head {path}", head.fingerprint)
    if head.dimension != store.dimension:
        raise IdentityError(
            f"{path}: was trained on vectors of {head.dimension:,} values, and those of {store.path} have "
            f"{store.dimension:,}; use the store that the head was trained on"
        )
    if class_name not in head.classes:
        raise UsageError(
            f"{path}: has no class {class_name!r}{did_you_mean(class_name, head.classes)}"
            f" ({counted(len(head.classes), 'class', 'classes')}; featstore info {path} lists them)"
        )
    weights = _weights(head, path, class_name)
    chosen = np.asarray(store.labels == class_name, np.bool_)
    if not chosen.any():
        raise UsageError(
            f"{store.path}: no picture has the label {class_name!r}, so no activations of the class are known; "
            "set labels with featstore label, or name another class"
        )
    every, some = mean_vectors(store, chosen)
    odd = by_unit((~(np.isfinite(every) & np.isfinite(some))).astype(np.float64), store.identity)
    if odd.any():
        unit = int(np.flatnonzero(odd)[0])
        raise UsageError(
            f"{store.path}: unit {unit} of some pictures is NaN or infinite; featstore units {store.path} --unit {unit} "
            "names the pictures"
        )
    return OfClass(chosen, by_unit(weights * (some - every), store.identity))


def _weights(head: TrainedHead, path: str, class_name: str) -> NDArray[np.float64]:
    """Return the weights (d,) of a class of a linear head. Raises UsageError if the head is not linear."""
    from featstore.heads.models import LinearModel

    if not isinstance(head.model, LinearModel):
        raise UsageError(
            f"{path}: a head of the kind {head.kind} has no weights of units; train a linear one with "
            "featstore train --head logreg (or linear-svm)"
        )
    code, coef = head.classes.index(class_name), head.model.coef
    if len(coef) > 1:
        return np.asarray(coef[code])
    # With two classes there is only one decision value; the larger it is, the more probable is the second class.
    return np.asarray(coef[0] if code == 1 else -coef[0])


def largest_contributions(contributions: NDArray[np.float64], count: int, class_name: str) -> list[int]:
    """Return at most ``count`` units with the largest positive ``contributions``, in descending order.

    Units with equal contributions are in the order of their numbers. Raises UsageError if no contribution is positive.
    """
    order = np.argsort(-contributions, kind="stable")[:count]
    chosen = [one for one in order.tolist() if contributions[one] > 0]
    if not chosen:
        raise UsageError(
            f"no unit has a positive contribution to the class {class_name!r}; name units by their numbers to see theirs"
        )
    return chosen
