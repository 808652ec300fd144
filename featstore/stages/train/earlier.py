"""Compare a new head with the head that it replaces."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featstore.errors import FeatstoreError, UsageError
from featstore.stages.train.report import DATA, Replaced
from featstore.store.origin import KEY, origins_in
from featstore.store.splitting import Split
from featstore.store.stacked import StackedStores
from featstore.text import natural

if TYPE_CHECKING:
    from featstore.heads import TrainedHead


def require_same_data(path: Path, earlier: TrainedHead, stack: StackedStores, split: Split) -> None:
    """Raise UsageError if the new head may not replace the head at ``path``.

    The old head may have another task, other classes, or another store.
    """
    task = None if split.targets is None else split.targets.task
    labels = stack.first.labels[split.train].astype(str) if split.targets is None else split.targets.names(split.train)
    old, new = set(earlier.classes), set(labels)
    reasons = []
    if earlier.meta.get("task") != (None if task is None else task.to_dict()):
        reasons.append("another target than is asked for")
    elif old != new:
        changes = [f"gone: {_some(old - new)}"] * bool(old - new) + [f"new: {_some(new - old)}"] * bool(new - old)
        reasons.append(f"its {len(old):,} classes, where there are {len(new):,} now ({'; '.join(changes)})")
    origin = earlier.meta.get(KEY)
    ids, now = ([one.get("store_id") for one in origins_in(each)] for each in (origin, stack.origin))
    if ids != now:
        known = origin.get("store", "several") if isinstance(origin, dict) else "unknown"
        reasons.append(f"features of another store ({known})")
    if reasons:
        raise UsageError(
            f"{path}: holds a head with {' and '.join(reasons)}; name another file with --out, or replace it with --force"
        )


def _told(earlier: TrainedHead) -> str:
    """Return a note on the figures of a replaced head that cannot be compared with those of the new head.

    Figures are compared only if both heads predict classes.
    """
    try:
        chosen = ", ".join(f"{name} = {value:g}" for name, value in dict(earlier.meta.get("chosen") or {}).items())
        estimates = earlier.meta["report"]["estimates"]
        name = next(each for each in ("mean_average_precision", "r2", "accuracy") if each in estimates)
        figures = estimates[name]
        value, low, high = (float(figures[bound]) for bound in ("value", "low", "high"))
    except (KeyError, TypeError, ValueError, AttributeError, StopIteration):
        return "replaced a head that did not tell how good it was"
    figure = f"{str(name).replace('_', ' ')} {value:.4f} [{low:.4f}, {high:.4f}]"
    return (
        f"replaced the head that was there: {earlier.kind}, {chosen or 'as given'}, {figure} on its held-out pictures"
    )


def _some(names: set[str]) -> str:
    shown = ", ".join(sorted(names, key=natural)[:5])
    return shown + (f" and {len(names) - 5:,} others" if len(names) > 5 else "")


def _same_held_out(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Return whether the ``meta`` of two heads record the same held-out pictures, labels and vectors."""
    was, found = earlier.get(DATA), now[DATA]
    if isinstance(was, dict):
        return bool(was.get("test") == found["test"])
    # Heads of earlier featstore versions have no digests: compare what they recorded about the split and the store.
    names = (KEY, "split", "label_version", "generation")
    return all(earlier.get(name) == json.loads(json.dumps(now[name])) for name in names)


def compared(
    earlier: TrainedHead | str | None,
    trained: TrainedHead,
    stack: StackedStores,
    split: Split,
    probabilities: NDArray[np.float64],
) -> tuple[Replaced | None, list[str]]:
    """Compare the head to be replaced with the new head on the held-out rows; return the comparison and notes.

    ``earlier``: the old head, or the reason why it is unreadable, or None if there is no old head. ``probabilities``:
    (n, classes) of the new head.
    """
    if earlier is None or isinstance(earlier, str):
        return None, [earlier] if earlier else []
    if split.targets is not None or earlier.task != trained.task:
        return None, [_told(earlier)]
    try:
        figures = earlier.meta["report"]["estimates"]["accuracy"]
        value, low, high = (float(figures[name]) for name in ("value", "low", "high"))
        rows = int(earlier.meta["report"]["rows"])
        old = Replaced(earlier.kind, dict(earlier.meta["chosen"]), value, low, high, rows)
    except (KeyError, TypeError, ValueError):
        return None, ["replaced a head that did not tell how good it was"]
    if not _same_held_out(earlier.meta, trained.meta):
        return old, [old.text()]
    from scipy.stats import binomtest

    truth = stack.first.labels[split.test].astype(str)
    try:
        # The user named the new head's class, so the types of this class are trusted in the old head too.
        ready = earlier.trusting(getattr(trained.model, "trust", ()))
        codes = np.concatenate([codes for codes, _ in ready.predict_blocks(stack.stream(split.test))])
    except FeatstoreError as error:
        return old, [old.text(), f"the two were not compared picture by picture: {error}"]
    was = np.array(earlier.classes)[codes] == truth
    right = np.array(earlier.classes)[probabilities.argmax(axis=1)] == truth
    better, worse = int((right & ~was).sum()), int((was & ~right).sum())
    p_value = float(binomtest(better, better + worse).pvalue) if better + worse else 1.0
    old = replace(old, better=better, worse=worse, p_value=p_value)
    return old, [old.text()]
