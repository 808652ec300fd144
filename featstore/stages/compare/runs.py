"""The runs of a comparison. A run is one method with one seed; its file is kept, so that no finished run is repeated."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from featstore import defaults
from featstore.backbones import exists, load_recorded
from featstore.embed.geometry import Geometry
from featstore.errors import DamagedError, FeatstoreError, UsageError
from featstore.files import atomic
from featstore.finetuning.partition import last_blocks
from featstore.stages.compare.options import TransferOptions
from featstore.stages.finetune import Event, finetune, unfinished
from featstore.stages.train import train
from featstore.store import FeatureStore
from featstore.store.origin import generation_number

_HEADS: Final = {"linear": "logreg", "mlp": "mlp"}
"""Map from the methods that train only a head on the stored features to the kind of head."""
_LARGEST: Final = 1 << 28
"""Largest size in bytes of the file of a run; the file has a line for each held-out picture."""
_CURVES: Final = ("held_out_accuracy", "held_out_macro_f1")


@dataclass(frozen=True)
class Run:
    """A finished run of ``method`` with ``seed``.

    ``rows`` (n,): held-out rows of the store; ``predicted`` (n,): their predicted class numbers, in the order of
    ``classes``. ``learnt``: number of training pictures. ``trained``: number of trained parameters. ``seconds``:
    duration of the training, without the extraction of features, which all methods share. ``history``: held-out
    accuracy and macro F1 of every epoch. ``state``: state of the store when the run was made.
    """

    method: str
    seed: int
    rows: NDArray[np.int64]
    predicted: NDArray[np.intp]
    classes: list[str]
    learnt: int
    trained: int
    seconds: float
    history: list[dict[str, Any]]
    state: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Return the run as JSON."""
        return {**self.__dict__, "rows": self.rows.tolist(), "predicted": self.predicted.tolist()}


def path_of(folder: Path, method: str, seed: int) -> Path:
    """Return the path in ``folder`` of the file of a finished run."""
    return folder / f"{method}-{seed}.json"


def state_of(store: FeatureStore) -> dict[str, Any]:
    """Return the values that identify the pictures and labels of ``store``, as they were when it was opened (JSON)."""
    return {"store": store.store_id, "rows": generation_number(store), "labels": store._tables.version}


def read_run(folder: Path, method: str, seed: int, state: dict[str, Any]) -> tuple[Run | None, bool]:
    """Return two values: a finished run (None if there is none), and whether a run from another ``state`` of the store
    was ignored.

    Raises DamagedError if the file of the run is damaged.
    """
    path = path_of(folder, method, seed)
    if not path.exists():
        return None, False
    told = atomic.parse_json(path, atomic.read_small(path, _LARGEST))
    try:
        rows, predicted = np.asarray(told.pop("rows"), np.int64), np.asarray(told.pop("predicted"), np.intp)
        run = Run(**told, rows=rows, predicted=predicted)
        if rows.ndim != 1 or rows.shape != predicted.shape:
            raise ValueError("rows and predictions do not match")
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DamagedError(
            f"{path}: is not a run of this version of featstore ({error}); remove the file to repeat the run"
        ) from None
    return (run, False) if run.state == state else (None, True)


def make_run(
    store: FeatureStore,
    folder: Path,
    method: str,
    seed: int,
    options: TransferOptions,
    state: dict[str, Any],
    progress: Callable[[Event], None],
    stop: threading.Event,
) -> Run | None:
    """Train ``method`` with ``seed`` on ``store``, write the run to ``folder``, and return it; None if ``stop`` was set.

    An interrupted run is continued after its last epoch, unless ``state`` has changed since. Raises the errors of
    ``train`` and ``finetune``; UsageError if the store changed during the run, which is then not kept.
    """
    place = folder / f"{method}-{seed}"
    if method in _HEADS:
        run = _frozen(store, place.with_name(f"{place.name}.head"), method, seed, state)
    else:
        tuned = _tuned(store, place, method, seed, options, state, progress, stop)
        if tuned is None:
            return None
        run = tuned
    unchanged = state_of(FeatureStore.open(store.path)) == state
    if unchanged:
        atomic.write_json(path_of(folder, method, seed), run.to_dict())
    remove_leftovers(folder, method, seed)
    if not unchanged:
        raise UsageError(
            f"{store.path}: its pictures or labels changed during the comparison; run the same command again, which "
            "repeats the runs from before the change"
        )
    return run


def remove_leftovers(folder: Path, method: str, seed: int) -> None:
    """Remove the tuned model, its cache and its unfinished run from ``folder``; only the file of a run is kept."""
    place = folder / f"{method}-{seed}"
    for end in ("", ".cache", ".run"):
        shutil.rmtree(place.with_name(place.name + end), ignore_errors=True)
    _began(place).unlink(missing_ok=True)


def _began(place: Path) -> Path:
    """Return the path of the file that records with which pictures and labels a run at ``place`` began."""
    return place.with_name(f"{place.name}.began")


def _frozen(store: FeatureStore, path: Path, method: str, seed: int, state: dict[str, Any]) -> Run:
    """Train a head on the stored features."""
    path.unlink(missing_ok=True)
    report = train(store.path, head=_HEADS[method], out=path, seed=seed)
    path.unlink(missing_ok=True)
    model: Any = report.head.model
    arrays = [model.coef, model.intercept] if method == "linear" else [*model.weights, *model.biases]
    return Run(
        method,
        seed,
        report.split.test,
        report.probabilities.argmax(axis=1),
        report.head.classes,
        len(report.split.train),
        sum(int(each.size) for each in arrays),
        report.seconds["train"],
        [],
        state,
    )


def _tuned(
    store: FeatureStore,
    place: Path,
    method: str,
    seed: int,
    options: TransferOptions,
    state: dict[str, Any],
    progress: Callable[[Event], None],
    stop: threading.Event,
) -> Run | None:
    """Train layers of the network, with a model folder at ``place``; None if ``stop`` was set during the training."""
    began = _began(place)
    resume = unfinished(place) and began.exists() and atomic.read_json(began) == state
    atomic.write_json(began, state)
    given: dict[str, Any] = {
        name: getattr(options, name) for name in ("backbone", "weights", "root", "epochs", "batch", "device", "workers")
    }

    def tell(event: Event) -> None:
        # A line for every epoch of every run would hide the lines of the comparison.
        progress(event if event.progress or event.done else Event())

    report = finetune(
        store.path,
        place,
        progress=tell,
        stop=stop,
        seed=seed,
        resume=resume,
        # A run that was killed after its model was written has a model and an unfinished run: the run goes on.
        force=True,
        **given,
        **_layers(store, method, options.epochs),
    )
    tuned = report.tuned
    if tuned is None:
        return None
    history = [{name: row[name] for name in ("epoch", *_CURVES)} for row in report.history]
    return Run(
        method,
        seed,
        tuned.split.test,
        tuned.probabilities.argmax(axis=1),
        tuned.head.classes,
        len(tuned.split.train),
        tuned.network.trained,
        round(sum(value for name, value in report.seconds.items() if name != "evaluate"), 3),
        history,
        state,
    )


def _layers(store: FeatureStore, method: str, epochs: int) -> dict[str, Any]:
    """Return the options of ``finetune`` that choose the layers which ``method`` trains."""
    if method == "scratch":
        return {"from_scratch": True, "lr": defaults.SCRATCH_LEARNING_RATE}
    if method == "gradual":
        return {"unfreeze": gradual_steps(store, epochs)}
    return {"all_layers": True} if method == "all" else {}


def gradual_steps(store: FeatureStore, epochs: int) -> tuple[tuple[str, int], ...]:
    """Return (layer, epoch) pairs: the last block of the store's network is trained from epoch 1 on, earlier blocks
    later.

    The epochs are divided evenly between defaults.GRADUAL_BLOCKS blocks, the last one first. Raises UsageError if the
    network cannot be divided.
    """
    identity = store.identity
    if not exists(identity.backbone):
        raise UsageError(
            f"{identity.backbone}: gradual unfreezing needs a network that featstore knows by its name; leave gradual "
            "out with --methods"
        )
    backbone = Geometry.of(identity).apply(load_recorded(identity.backbone, "random:0"))
    blocks = last_blocks(backbone, min(defaults.GRADUAL_BLOCKS, epochs))
    if not blocks:
        raise UsageError(f"{identity.backbone}: cannot be divided into blocks; leave gradual out with --methods")
    return tuple((block, 1 + number * epochs // len(blocks)) for number, block in enumerate(blocks))


def require_gradual(store: FeatureStore, options: TransferOptions) -> None:
    """If gradual unfreezing is one of the methods, raise its errors before the first run."""
    if "gradual" in options.names:
        gradual_steps(store, options.epochs)


def noting(progress: Callable[[Event], None], note: str) -> Callable[[Event], None]:
    """Return ``progress`` with ``note`` at the beginning of the note of every bar."""

    def tell(event: Event) -> None:
        if event.progress is None:
            progress(event)
            return
        text = f"{note}: {event.progress.note}" if event.progress.note else note
        progress(replace(event, progress=replace(event.progress, note=text)))

    return tell


def require_equal_rows(runs: list[Run]) -> None:
    """Raise FeatstoreError if runs of one seed were judged on different rows or classes."""
    first = {run.seed: run for run in runs if run.method == "linear"}
    for run in runs:
        other = first[run.seed]
        if run.classes != other.classes or not np.array_equal(run.rows, other.rows):
            raise FeatstoreError(
                f"{run.method}, seed {run.seed}: was judged on other pictures than {other.method}; remove the folder of the "
                "comparison and run the same command again"
            )
