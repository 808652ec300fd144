"""Train a head on a store and evaluate it on held-out pictures."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featstore import defaults
from featstore.errors import DamagedError, UsageError
from featstore.files import atomic, sealed
from featstore.stages.train.earlier import compared, require_same_data
from featstore.stages.train.report import DATA, TrainReport, scale_of
from featstore.stages.train.views import (
    VIEWS,
    digest_with_views,
    notes_on_views,
    open_views,
    record_of_views,
    training_rows,
)
from featstore.store.origin import KEY, generation_number, state_of_store
from featstore.store.past import KEY as PAST
from featstore.store.past import record_of
from featstore.store.splitting import Split, groups_of, split_store
from featstore.store.stacked import StackedStores
from featstore.store.targets import CLASSES, NUMBERS, Task
from featstore.text import printable

if TYPE_CHECKING:
    from featstore.heads import TrainedHead
    from featstore.store import FeatureStore

REQUEST = "request"
"""Key in a head's ``meta``: the options of ``train`` (see Request)."""
Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
"""Path of one store, or of several stores of the same pictures."""


@dataclass(frozen=True)
class Request:
    """The options of ``train`` that determine the head. All values are JSON types."""

    head: str
    train_split: str | None
    test_split: str | None
    held_out: float
    C: float | str
    class_weight: Mapping[str, float] | str | None
    folds: int | float
    seed: int
    options: dict[str, Any]
    apart: bool = False
    views: bool = False
    task: dict[str, str] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the options as JSON. ``views`` and ``task`` are left out if they are not set, because older versions
        lack them.
        """
        return {name: value for name, value in asdict(self).items() if name not in (VIEWS, "task") or value}

    def split(self, store: FeatureStore) -> Split:
        """Divide the rows of ``store`` into rows to train on and rows to hold out."""
        return split_store(
            store,
            train_split=self.train_split,
            test_split=self.test_split,
            held_out=self.held_out,
            seed=self.seed,
            apart=self.apart,
            task=Task.recorded(self.task),
        )


def head_path(store: Paths, kind: str, column: str = "") -> Path:
    """Return the default path of a head: beside the (first) store, named after all stores, ``column`` and ``kind``.

    ``column``: the column with the targets of a task other than classes. If ``kind`` is package.module:Class, the name
    has only the class.
    """
    paths = [Path(os.path.abspath(path)) for path in _listed(store)]
    middle = "".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in column)
    name = ".".join(filter(None, ("+".join(path.name for path in paths), middle, kind.rpartition(":")[2], "head")))
    return paths[0].with_name(name)


def train(
    store: Paths,
    *,
    head: str = "logreg",
    out: str | os.PathLike[str] | None = None,
    train_split: str | None = None,
    test_split: str | None = None,
    held_out: float = defaults.HELD_OUT,
    C: float | str = "auto",
    class_weight: Mapping[str, float] | str | None = None,
    folds: int | float = defaults.FOLDS,
    seed: int = defaults.SEED,
    apart: bool = False,
    force: bool = False,
    **options: Any,
) -> TrainReport:
    """Train a ``head`` on a store, save it, and evaluate it.

    ``head``: "logreg", "linear-svm", "rbf-svm", "knn", "mlp", or any scikit-learn classifier as package.module:Class,
    which is imported. ``options``: parameters of the estimator (see featstore.heads); for a classifier of scikit-learn,
    C and class_weight are parameters too, if its class has them. With the option ``separator``, such as ";", the label
    is a set of labels, read from the column ``labels`` (default: the label) of the store: ``head`` "logreg" or "mlp"
    learns each label. With the option ``target``, a column of numbers, ridge regression (``head`` "ridge") predicts
    numbers. With several stores, the features of equal keys are concatenated (an ensemble of backbones). Labels, splits
    and pictures are those of the first store; all other stores must have a vector for each key. C is chosen by
    cross-validation with ``folds`` folds on the training rows only. The figures are computed on the held-out rows, see
    split_store. Rows of equal bytes are in the same fold; so are the regions of a picture, unless ``apart``. The option
    ``views`` (True) trains on all augmented views of the training pictures too; views of a picture are in the same
    fold, and the figures are computed on the plain pictures. The head is saved to ``out``, by default head_path(store,
    head). An existing head is replaced, and ``replaced`` in the report compares the old and the new head; ``force`` is
    needed if the classes or the store of the old head differ from those of the new head.

    Raises UsageError for missing labels, a single class, a class missing from the training split, NaN, or pictures that
    are not in every store, or if ``out`` is not a head. Raises DamagedError for a damaged store, OSError if writing
    fails.
    """
    from featstore.heads import TrainedHead, save_head
    from featstore.heads.task_trainer import kind_for

    task = Task.take(options)
    if task is not None and task.kind == NUMBERS and head == "logreg":
        head = "ridge"
    kind_for(CLASSES if task is None else task.kind, head)
    paths = _listed(store)
    stack = StackedStores.open(paths)
    stack.require_whole()
    asked_views = bool(options.pop(VIEWS, False))
    views = open_views(stack) if asked_views else []
    opened = stack.first
    path = Path(out) if out is not None else head_path(store, head, "" if task is None else task.column)
    earlier = _head_at(path)
    told = None if task is None else task.to_dict()
    request = Request(
        head, train_split, test_split, held_out, C, class_weight, folds, seed, options, apart, asked_views, told
    )
    split = request.split(opened)
    if isinstance(earlier, TrainedHead) and not force:
        require_same_data(path, earlier, stack, split)
    started = time.perf_counter()
    trained = fit(stack, split, request, views)
    fitted = time.perf_counter()
    probabilities, report, uncalibrated = assess(stack, trained, split, seed=seed, apart=apart)
    replaced, notes = compared(earlier, trained, stack, split, probabilities)
    seconds = {"train": round(fitted - started, 3), "evaluate": round(time.perf_counter() - fitted, 3)}
    save_head(path, trained, {"report": report.to_dict(), "seconds": seconds})
    notes += notes_on_views(stack, split.train, views)
    notes = [*state_of_store(opened), *stack.notes(), *split.notes(), *at_the_end(trained), *notes, *_to_trust(trained)]
    names = [os.fspath(one) for one in paths]
    return TrainReport(
        names[0], str(path), trained, report, split, probabilities, notes, seconds, uncalibrated, names, replaced
    )


def fit(stack: StackedStores, split: Split, request: Request, views: Sequence[FeatureStore] = ()) -> TrainedHead:
    """Train a head with the options ``request`` on the rows ``split.train``; its ``meta`` records the options.

    ``views``: augmented views of the store, whose rows of the same pictures are training rows too. Cross-validation,
    calibration and thresholds count only rows of the plain pictures, except in the heads "mlp" and "ridge", where the
    held-out part has all views.
    """
    from featstore.heads import train_head
    from featstore.heads.task_trainer import train_targets

    opened = stack.first
    features, order = training_rows(stack, split.train, views)
    options = {
        "kind": request.head,
        "groups": groups_of(opened, split.train, apart=request.apart)[order],
        "scored": np.arange(len(order)) < len(split.train) if views else None,
        "seed": request.seed,
        "folds": request.folds,
        "C": request.C,
        "class_weight": request.class_weight,
        "fingerprint": stack.fingerprint,
        "identity": stack.identity,
        "meta": {
            **_data_record(stack, split),
            **({} if request.task is None else {"task": request.task}),
            **record_of_views(views),
            PAST: [record_of(store) for store in (*stack.stores, *views)],
            DATA: digests_of(stack, split, views),
            REQUEST: request.to_dict(),
        },
        **request.options,
    }
    if split.targets is not None:
        return train_targets(features, split.targets, split.train[order], **options)
    return train_head(features, opened.labels[split.train].astype(str)[order], **options)


def digests_of(stack: StackedStores, split: Split, views: Sequence[FeatureStore] = ()) -> dict[str, str]:
    """Return the digests of the rows to train on, in all ``views`` too, and of the held-out rows."""
    targets = split.targets
    told = {name: None if targets is None else targets.texts(getattr(split, name)) for name in ("train", "test")}
    return {
        "train": digest_with_views(stack, split.train, views, told["train"]),
        "test": stack.digest(split.test, told["test"]),
    }


def assess(
    stack: StackedStores, head: TrainedHead, split: Split, *, seed: int = defaults.SEED, apart: bool = False
) -> tuple[NDArray[np.float64], Any, dict[str, float]]:
    """Evaluate ``head`` on the held-out rows of ``split``.

    In the intervals of a head for classes, copies of a picture and, unless ``apart``, the regions of a picture count as
    one observation. For label sets and numbers every row counts as one.

    Returns the probabilities (n, classes), the Report (for label sets a LabelSetsReport), and the calibration figures
    before temperature scaling (empty for a head without temperature scaling).
    """
    from featstore.heads.evaluation.report import before_calibration, evaluate
    from featstore.stages.train.tasks import assess_targets

    head.check_identity(stack.fingerprint, stack.identity)
    blocks = [probabilities for _, probabilities in head.predict_blocks(stack.stream(split.test))]
    probabilities = np.concatenate(blocks)
    if split.targets is not None:
        return probabilities, assess_targets(head, split, probabilities, seed), {}
    truth, scale = stack.first.labels[split.test].astype(str), scale_of(head)
    before = before_calibration(truth, probabilities, head.classes, scale) if scale is not None else {}
    groups = groups_of(stack.first, split.test, apart=apart)
    return probabilities, evaluate(truth, probabilities, head.classes, groups=groups, seed=seed), before


def _to_trust(head: TrainedHead) -> list[str]:
    """Return a list with a note on the types that a user has to trust before opening ``head``, or an empty list."""
    types = getattr(head.model, "trust", ())
    options = " ".join(f"--trust {printable(name)}" for name in types)
    return [f"skops does not trust some types of this head by itself: whoever uses it adds {options}"] * bool(types)


def at_the_end(head: TrainedHead) -> list[str]:
    """Return a note for each parameter whose chosen value is the smallest or largest value that was tried."""
    table, chosen = head.meta.get("cross_validation"), head.meta.get("chosen")
    notes = []
    for name, value in (chosen if isinstance(chosen, dict) else {}).items():
        tried = sorted(set(table.get(f"param_{name}") or [])) if isinstance(table, dict) else []
        # n_neighbors = 1 needs no note, because no smaller value exists.
        if len(tried) < 2 or value not in (tried[0], tried[-1]) or (name == "n_neighbors" and value == 1):
            continue
        which = "smallest" if value == tried[0] else "largest"
        remedy = f"; try --C {value * (0.1 if value == tried[0] else 10):g}" if name == "C" else ""
        notes.append(
            f"{name} = {value:g} is the {which} of the values that were tried ({tried[0]:g} to {tried[-1]:g}): "
            f"one beyond it may be better{remedy}"
        )
    return notes


def _listed(store: Paths) -> list[str | os.PathLike[str]]:
    return [store] if isinstance(store, str | os.PathLike) else list(store)


def _data_record(stack: StackedStores, split: Split) -> dict[str, Any]:
    """Return the record of a head's training data: stores, split, label version, generation."""
    return {
        KEY: stack.origin,
        "split": split.to_dict(),
        "label_version": stack.first._tables.version,
        "generation": generation_number(stack.first),
    }


def _head_at(path: Path) -> TrainedHead | str | None:
    """Return the head at ``path``, or the reason why it is unreadable; None if there is no file.

    Raises UsageError if the file is not a head.
    """
    from featstore.heads import load_head

    atomic.require_place(path)
    if path.is_dir():
        raise UsageError(f"{path}: is a folder; name a file for the head, such as {path.with_name('my.head')}")
    if not path.exists():
        return None
    try:
        sealed.read_header(path, "head")
    except DamagedError:
        raise UsageError(f"{path}: is there and is no head; name another file for the head") from None
    try:
        return load_head(path)
    except DamagedError as error:
        return f"replaced a head that could not be read: {error}"
