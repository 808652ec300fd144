"""Train a head again on the rows, labels and settings that it recorded, and compare the weights bit by bit."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featstore.artifacts import open_head, origins_of_head
from featstore.errors import DamagedError, UsageError
from featstore.files import atomic
from featstore.files.model_folder import HEAD, is_model
from featstore.stages.train.report import DATA, TrainReport
from featstore.stages.train.stage import REQUEST, Request, assess, digests_of, fit, train
from featstore.stages.train.views import VIEWS, views_as_then
from featstore.store import FeatureStore
from featstore.store.as_source import purged_labels
from featstore.store.past import KEY as PAST
from featstore.store.past import Missing
from featstore.store.stacked import StackedStores, match_origins
from featstore.store.targets import ALL_TASKS, CLASSES, TASK_OPTIONS, Task
from featstore.text import counted, printable

if TYPE_CHECKING:
    from featstore.heads import TrainedHead


@dataclass(frozen=True)
class AgainReport:
    """A head that was trained again from its record.

    ``head``: file of the old head. ``trained``: the new head, saved to ``path`` (None: not saved). ``differences``:
    between the weights and classes of the two heads; empty if they are equal bit for bit. ``rows``: number of training
    rows. ``notes``: warnings for the user.
    """

    head: str
    stores: list[str]
    trained: TrainedHead
    path: str | None
    rows: int
    differences: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def equal(self) -> bool:
        """Whether the new weights equal the old ones bit for bit."""
        return not self.differences

    def to_dict(self) -> dict[str, Any]:
        """Return the comparison of the new head with the old one as JSON types."""
        return {
            "head": self.head,
            "stores": self.stores,
            "path": self.path,
            "rows": self.rows,
            "equal": self.equal,
            "differences": self.differences,
            "notes": self.notes,
        }


def train_again(
    head: str | os.PathLike[str],
    stores: Sequence[str | os.PathLike[str]] = (),
    *,
    kind: str | None = None,
    out: str | os.PathLike[str] | None = None,
) -> AgainReport:
    """Train the head in the file ``head`` again, with its recorded options, on the recorded past state of its stores.

    ``stores``: present paths of the head's stores, if they are neither at their recorded paths nor beside the head.
    ``kind``: package.module:Class; needed for a class of another package, because only code that you name is imported.
    ``out``: where to save the new head; by default the new head is not saved, only compared. The weights are equal bit
    for bit on the same machine with the same libraries; ``notes`` in the report name libraries whose versions differ.

    Raises UsageError if the head has no record (an older featstore trained it) or is that of a fine-tuned model, if a
    store is not found, or if training rows of the head are gone or have changed; the message names these rows. Raises
    DamagedError for a damaged file.
    """
    from featstore.heads import save_head

    path = Path(head)
    old = open_head(path, tasks=ALL_TASKS)
    request, recorded = _request_of(old, path, kind)
    if out is not None:
        atomic.require_place(Path(out))
    stack = StackedStores([_as_then(place, old, path) for place in _places(old, path, stores)])
    gone = [found for store in stack.stores for found in (store.missing, purged_labels(store)) if found.count]
    try:
        stack.require_whole()
        split = request.split(stack.first)
        views = views_as_then(stack, old.meta, old.meta.get(PAST)) if request.views else []
        same = digests_of(stack, split, views) == recorded
    except UsageError as error:
        raise UsageError(_cannot(path, gone, str(error))) from None
    if not same:
        raise UsageError(_cannot(path, gone, "its rows, labels or vectors are not those that it was trained on"))
    trained = fit(stack, split, request, views)
    if out is not None:
        report = assess(stack, trained, split, seed=request.seed, apart=request.apart)[1]
        save_head(Path(out), trained, {"report": report.to_dict()})
    notes = [f"{missing}; the head did not use them" for missing in gone]
    was, now = old.meta.get("versions"), trained.meta["versions"]
    if isinstance(was, dict) and was != now:
        names = [name for name in dict.fromkeys([*was, *now]) if was.get(name) != now.get(name)]
        notes.append(
            "other libraries, so weights may differ in their last digits: "
            + ", ".join(f"{name} {was.get(name, 'none')} then, {now.get(name, 'none')} now" for name in names)
        )
    places = [str(store.path) for store in stack.stores]
    written = None if out is None else os.fspath(out)
    return AgainReport(str(path), places, trained, written, len(split.train), _differences(old, trained), notes)


def retrain(
    head: str | os.PathLike[str], stores: Sequence[str | os.PathLike[str]] = (), *, kind: str | None = None
) -> TrainReport:
    """Train the head in the file ``head`` again, with its recorded options, on the present state of its stores.

    The new head replaces the file. ``stores``, ``kind``: as in train_again. Raises the errors of train_again and train.
    """
    path = Path(head)
    old = open_head(path, tasks=ALL_TASKS)
    asked = dict(_request_of(old, path, kind)[0].__dict__)
    options = asked.pop("options")
    task = Task.recorded(asked.pop("task"))
    options |= {} if task is None else task.options()
    return train(_places(old, path, stores), out=path, force=True, **asked, **options)


def _request_of(head: TrainedHead, path: Path, kind: str | None) -> tuple[Request, dict[str, Any]]:
    """Return the training options and the digests of the training data that ``head`` recorded.

    ``kind``: the class that the user named. Raises UsageError if the record is missing, and for the head of a model;
    DamagedError if the record is damaged.
    """
    if is_model(path) or (path.name == HEAD and is_model(path.absolute().parent)):
        raise UsageError(
            f"{path}: is the head of a fine-tuned network, which train cannot make; run featstore finetune again"
        )
    request, data = head.meta.get(REQUEST), head.meta.get(DATA)
    if request is None or data is None:
        raise UsageError(f"{path}: does not record how it was trained (an older featstore made it); train a new head")
    try:
        asked, digests = Request(**request), dict(data)
    except (TypeError, ValueError):
        raise DamagedError(f"{path}: its record of how it was trained is damaged") from None
    odd = _odd_task(asked, head) or _odd_field(asked)
    if odd:
        raise DamagedError(f"{path}: its record of how it was trained is damaged: {printable(odd)} cannot be")
    _require_named(asked.head, kind, path)
    return asked, digests


def _odd_field(asked: Request) -> str:
    """Return the first field of a head's recorded training options that is invalid; "" if all are valid.

    A field is invalid if ``train`` could not have recorded it. ``options`` may only contain parameters of the
    estimator, not parameters of ``train`` such as the output path.
    """
    from featstore.heads import HEADS, train_head
    from featstore.heads.task_trainer import settable_for

    own = {VIEWS, *TASK_OPTIONS, *signature(train).parameters, *signature(train_head).parameters}
    text, number = str | None, int | float
    kinds: dict[str, Any] = {
        "head": str,
        "train_split": text,
        "test_split": text,
        "held_out": number,
        "C": number | str,
    }
    kinds |= {"class_weight": dict | text, "folds": number, "seed": int, "options": dict, "apart": bool, VIEWS: bool}
    for name, kind in kinds.items():
        value = getattr(asked, name)
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            return f"{name} = {str(value)[:80]!r}"
    task = CLASSES if asked.task is None else asked.task["kind"]
    known = settable_for(task, asked.head) - own if task != CLASSES or asked.head in HEADS else {*asked.options} - own
    return next((f"the option {name[:80]!r}" for name in asked.options if name not in known), "")


def _odd_task(asked: Request, head: TrainedHead) -> str:
    """Return "task" if the recorded task is invalid or does not match the outputs of ``head``; otherwise ""."""
    try:
        task = Task.recorded(asked.task)
    except (KeyError, TypeError, ValueError, UsageError):
        return "task"
    return "" if head.task == (CLASSES if task is None else task.kind) else "task"


def _require_named(recorded: str, kind: str | None, path: Path) -> None:
    """Raise UsageError if the head's class is from another package and the user did not name this class.

    ``recorded``: the class in the head. ``kind``: the class that the user named, or None; a wrong name is an error too.
    """
    from featstore.heads import HEADS
    from featstore.heads.task_trainer import TASK_HEADS

    if kind is not None and kind != recorded:
        raise UsageError(f"{path}: is a head of {printable(recorded)}, not of {kind}")
    if kind is None and recorded not in {*HEADS, *(name for kinds in TASK_HEADS.values() for name in kinds)}:
        raise UsageError(
            f"{path}: is a head of the class {printable(recorded)}, which is imported only where you name it: if you know this "
            f"class, add --head {printable(recorded)}"
        )


def _places(head: TrainedHead, path: Path, stores: Sequence[str | os.PathLike[str]]) -> list[Path]:
    """Return the current paths of the head's stores, in the head's order."""
    origins = origins_of_head(head, str(path))
    if stores:
        found = match_origins(origins, [FeatureStore.open(Path(s)) for s in stores], str(path))
        for origin, store in zip(origins, found, strict=True):
            if store.store_id != origin.store_id:
                raise UsageError(f"{store.path}: is not the store that {path} was trained on; train a new head on it")
        return [Path(store.path) for store in found]
    places = []
    for origin in origins:
        there = origin.find_store(path.parent)
        if there is None:
            raise UsageError(
                f"{path}: its store {origin.store} is not there; say where it is: featstore train --again {path} STORE"
            )
        places.append(Path(there.path))
    return places


def _as_then(place: Path, head: TrainedHead, path: Path) -> FeatureStore:
    try:
        return FeatureStore.open(place, at=head.meta, missing="skip")
    except UsageError as error:
        raise UsageError(f"{path}: cannot be trained again: {error}") from None


def _cannot(path: Path, gone: Sequence[Missing], reason: str) -> str:
    missing = "; ".join(map(str, gone))
    return f"{path}: cannot be trained again: {missing or reason}" + (
        "; they were removed or changed, and then purged by featstore compact or remove --purge" if missing else ""
    )


def _differences(old: TrainedHead, new: TrainedHead) -> list[str]:
    """Return the differences between the classes, scalars and arrays of two heads, compared bit by bit."""
    found = [] if old.classes == new.classes else [f"classes: {len(old.classes):,} then, {len(new.classes):,} now"]
    then, after = (json.dumps(head.model.numbers(), sort_keys=True) for head in (old, new))
    if then != after:
        found.append(f"numbers: {then} then, {after} now")
    was, now = old.model.arrays(), new.model.arrays()
    for name in dict.fromkeys([*was, *now]):
        first, second = (np.asarray(arrays.get(name, np.empty(0))) for arrays in (was, now))
        if (first.shape, first.dtype.newbyteorder("<")) != (second.shape, second.dtype.newbyteorder("<")):
            found.append(f"{name}: {first.shape} {first.dtype} then, {second.shape} {second.dtype} now")
        elif np.ascontiguousarray(first).tobytes() != np.ascontiguousarray(second).tobytes():
            unequal = int((first != second).sum())
            largest = float(np.abs(first.astype(np.float64) - second.astype(np.float64)).max())
            found.append(f"{name}: {unequal:,} of {counted(first.size, 'value')} differ, at most by {largest:.2g}")
    return found
