"""Compare transfer methods on the labelled pictures of a store: same splits, several seeds."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, Final, Unpack

from featstore.errors import UsageError
from featstore.files import atomic
from featstore.stages.compare.options import TransferKeywords, TransferOptions
from featstore.stages.compare.report import TransferReport, interval_text, results_of
from featstore.stages.finetune import Event, extract_features
from featstore.store import FeatureStore
from featstore.store.origin import state_of_store
from featstore.store.splitting import split_store
from featstore.text import check_keywords, counted

if TYPE_CHECKING:
    from featstore.stages.compare.runs import Run

_PLAN: Final = "plan.json"
_FEATURES: Final = "features"


def compare(
    *,
    transfer: str | os.PathLike[str],
    out: str | os.PathLike[str],
    progress: Callable[[Event], None] | None = None,
    stop: threading.Event | None = None,
    **options: Unpack[TransferKeywords],
) -> TransferReport:
    """Compare methods of transfer learning on the same held-out pictures, with several seeds.

    ``transfer``: a store, or anything that ``extract`` reads, whose features then go into ``out``/features.
    ``options``: the fields of TransferOptions, which are described there. The methods (METHODS) are a network trained
    from scratch, a logistic regression and a perceptron on the features of the frozen network, and three ways to
    fine-tune this network: the last block, the last blocks one after another, every layer. Each method is compared with
    the logistic regression by a paired Bayesian bootstrap over held-out pictures and seeds
    (featstore.heads.evaluation.compare).

    Each finished run (a method with a seed) is kept in the folder ``out`` and not repeated; the tuned weights are not
    kept. ``progress`` is called with Events. ``stop``: when this event is set, the comparison ends after the current
    epoch and returns a report with ``stopped``; the same call continues it.

    Raises UsageError for wrong options, missing labels or a single class, or if ``out`` holds runs with other options.
    Raises DataError if a class has no held-out picture.
    Also raises the errors of ``train`` and ``finetune``.
    """
    check_keywords("compare", options, TransferKeywords.__annotations__)
    asked, folder, tell = TransferOptions(**options), Path(out), progress or _silent
    stop = stop or threading.Event()
    atomic.require_place(folder)
    with atomic.only_writer(folder, "comparison"):
        planned = len(asked.names) * asked.seeds
        _prepare(folder, {"source": os.path.abspath(transfer), **asked.plan()})
        path = _store_of(transfer, folder, asked, tell, stop)
        if path is None:
            return TransferReport(str(folder), os.fspath(transfer), [], 0, planned)
        comparison = _Comparison(FeatureStore.open(path), folder, asked, tell, stop)
        runs = comparison.make_runs()
        if len(runs) < planned:
            return TransferReport(str(folder), str(path), [], len(runs), planned)
        return comparison.report(runs)


def _silent(_: Event) -> None:
    pass


def _prepare(folder: Path, plan: dict[str, Any]) -> None:
    """Make the folder of the comparison; an earlier plan without runs is replaced.

    Raises UsageError if the folder holds runs of another ``plan``, or other files.
    """
    path = folder / _PLAN
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder}: is a file, where a folder for the runs is needed; name another place with --out")
    if not path.exists():
        if folder.exists() and any(folder.iterdir()):
            raise UsageError(f"{folder}: holds other files; name another folder with --out")
        atomic.make_directory(folder)
        atomic.write_json(path, plan)
        return
    if {each.name for each in folder.iterdir()} == {_PLAN}:
        atomic.write_json(path, plan)
        return
    kept = atomic.read_json(path)
    for name, value in plan.items():
        if kept.get(name) != value:
            raise UsageError(
                f"{folder}: holds runs with {name} {kept.get(name)!r}, not {value!r}; name another folder with --out, or "
                "remove it"
            )


def _store_of(
    source: str | os.PathLike[str],
    folder: Path,
    options: TransferOptions,
    tell: Callable[[Event], None],
    stop: threading.Event,
) -> Path | None:
    """Return the store of ``source``; a source that is not a store is first extracted into ``folder``. None if ``stop``
    was set.
    """
    report = extract_features(source, folder / _FEATURES, options, tell, stop)
    if report is None:
        return Path(source)
    return None if report.stopped else folder / _FEATURES


@dataclass
class _Comparison:
    """The runs of a comparison on ``store``, kept in ``folder``."""

    store: FeatureStore
    folder: Path
    options: TransferOptions
    tell: Callable[[Event], None]
    stop: threading.Event
    outdated: int = 0
    took: dict[str, list[float]] = field(default_factory=dict)

    @property
    def state(self) -> dict[str, Any]:
        """Return the values that identify the present pictures and labels of the store."""
        from featstore.stages.compare.runs import state_of

        return state_of(self.store)

    def make_runs(self) -> list[Run]:
        """Return the earlier finished runs and the new runs, seed by seed; fewer than planned if ``stop`` was set."""
        # Import torch only here: loading it takes seconds, and wrong options should be refused at once.
        from featstore.stages.compare.runs import make_run, noting, read_run, remove_leftovers, require_gradual

        split_store(self.store).require_held_out_classes(self.store)

        wanted = [(name, seed) for seed in range(self.options.seeds) for name in self.options.names]
        found: dict[tuple[str, int], Run] = {}
        for method, seed in wanted:
            run, is_outdated = read_run(self.folder, method, seed, self.state)
            self.outdated += is_outdated
            if run is not None:
                found[method, seed] = run
                remove_leftovers(self.folder, method, seed)
        if len(found) < len(wanted):
            require_gradual(self.store, self.options)
        if found:
            self.tell(Event(f"{len(found):,} of {len(wanted):,} runs are finished already"))
        for method, seed in wanted:
            if (method, seed) in found:
                continue
            if self.stop.is_set():
                break
            note = f"{method}, seed {seed}"
            progress, began = noting(self.tell, note), time.monotonic()
            run = make_run(self.store, self.folder, method, seed, self.options, self.state, progress, self.stop)
            self.tell(Event(done=True))
            if run is None:
                break
            found[method, seed] = run
            self.took.setdefault(method, []).append(time.monotonic() - began)
            self.tell(Event(self._line(run, found, wanted)))
        return [found[each] for each in wanted if each in found]

    def _line(self, run: Run, found: dict[tuple[str, int], Run], wanted: list[tuple[str, int]]) -> str:
        """Return a line about the finished ``run``, with the expected time for the missing runs."""
        accuracy = float((self.store.labels[run.rows].astype(str) == [run.classes[at] for at in run.predicted]).mean())
        text = f"run {len(found):,} of {len(wanted):,}: {run.method}, seed {run.seed}: accuracy {accuracy:.4f}, {run.seconds:.1f} s"
        missing = [method for method, seed in wanted if (method, seed) not in found]
        if not missing:
            return text
        took = self.took
        # Assume that a method without a finished run takes as long as the slowest method.
        slowest = max(fmean(values) for values in took.values())
        left = sum(fmean(took[method]) if method in took else slowest for method in missing)
        return f"{text}; about {left / 60:.1f} min left"

    def report(self, runs: list[Run]) -> TransferReport:
        """Return the report on all ``runs``. Raises FeatstoreError if methods were judged on different pictures."""
        from featstore.stages.compare.runs import require_equal_rows

        require_equal_rows(runs)
        first, seeds = runs[0], self.options.seeds
        notes = state_of_store(self.store)
        if seeds == 1:
            notes.append("one seed does not show how much a method varies from run to run: --seeds 5")
        if self.outdated:
            notes.append(f"repeated: {counted(self.outdated, 'run')} of another state of the store")
        return TransferReport(
            str(self.folder),
            str(self.store.path),
            results_of(self.store, runs),
            len(runs),
            len(runs),
            list(range(seeds)),
            first.classes,
            first.learnt,
            len(first.rows),
            self.store.identity.backbone,
            interval_text(seeds),
            {**self.options.plan(), "methods": self.options.names, "seeds": seeds},
            notes,
        )
