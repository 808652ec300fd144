"""The report of the comparison of transfer methods: figures of each method, and paired differences to the baseline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from featstore.stages.compare.options import BASELINE, METHODS
from featstore.store.splitting import groups_of
from featstore.text import counted

if TYPE_CHECKING:
    from featstore.heads.evaluation.compare import Difference
    from featstore.stages.compare.runs import Run
    from featstore.store import FeatureStore

MEASURES: Final = ("accuracy", "macro_f1")


@dataclass(frozen=True)
class MethodResult:
    """Figures of a transfer method.

    ``figures``: accuracy and macro F1 of the predictions of all seeds together; ``by_seed``: accuracy of each seed.
    ``differences``: by measure, the figure of this method minus that of the baseline, with paired 95 % intervals; empty
    for the baseline.
    ``seconds``: mean duration of a run. ``trained``: number of trained parameters. ``curves``: by measure, pairs
    (epoch, mean over the seeds on held-out pictures); empty for a method that trains only a head.
    """

    name: str
    figures: dict[str, float]
    by_seed: dict[int, float]
    differences: dict[str, Difference]
    seconds: float
    trained: int
    curves: dict[str, list[tuple[int, float]]] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """Title of the transfer method."""
        return METHODS[self.name]

    def against(self, measure: str) -> tuple[str, str]:
        """Return two texts: the difference from the baseline with its interval, and the verdict."""
        if measure not in self.differences:
            return "", "the baseline"
        one = self.differences[measure]
        return one.points(), one.verdict

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as JSON."""
        return {
            "method": self.name,
            "title": self.title,
            **self.figures,
            "accuracy_by_seed": {str(seed): value for seed, value in self.by_seed.items()},
            "differences": {name: {**one.to_dict(), "verdict": one.verdict} for name, one in self.differences.items()},
            "seconds": self.seconds,
            "trained_parameters": self.trained,
            "curves": {name: [list(point) for point in curve] for name, curve in self.curves.items()},
        }


@dataclass(frozen=True)
class TransferReport:
    """A comparison of transfer methods, or an interrupted one.

    ``path``: folder of the finished runs; ``results``: one per method, empty if the comparison was interrupted; the
    same call then continues it. ``finished``: number of finished runs, of the ``planned`` runs. ``learnt``,
    ``held_out``: numbers of training and held-out pictures with the first seed. ``interval``: text that says how the
    intervals are computed.
    """

    path: str
    store: str
    results: list[MethodResult]
    finished: int
    planned: int
    seeds: list[int] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)
    learnt: int = 0
    held_out: int = 0
    backbone: str = ""
    interval: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def stopped(self) -> bool:
        """Whether the comparison was interrupted before its last run."""
        return not self.results

    def __repr__(self) -> str:
        if self.stopped:
            return f"<TransferReport {self.path!r}: stopped after {self.finished:,} of {self.planned:,} runs>"
        shown = ", ".join(f"{one.title} {one.figures['accuracy']:.4f}" for one in self.results)
        return f"<TransferReport on {counted(self.held_out, 'held-out picture')}: {shown}>"

    def _repr_html_(self) -> str:
        from featstore.notebook import table

        rows = [
            (one.title, f"{one.figures['accuracy']:.4f}", " ".join(one.against("accuracy")), f"{one.seconds:.1f}")
            for one in self.results
        ]
        header = ("method", "accuracy", f"against {METHODS[BASELINE]}", "seconds")
        return table(repr(self), rows, header, self.notes)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON."""
        return {
            "runs": self.path,
            "store": self.store,
            "stopped": self.stopped,
            "finished_runs": self.finished,
            "planned_runs": self.planned,
            "seeds": self.seeds,
            "classes": self.classes,
            "backbone": self.backbone,
            "training_pictures": self.learnt,
            "held_out_pictures": self.held_out,
            "baseline": BASELINE,
            "methods": [one.to_dict() for one in self.results],
            "interval": self.interval,
            "options": self.options,
            "notes": self.notes,
        }


def results_of(store: FeatureStore, runs: Sequence[Run]) -> list[MethodResult]:
    """Return the figures of every method. All methods must have runs with the same seeds, on the same rows for each
    seed.
    """
    from featstore.heads.evaluation.compare import compare

    by_method = {name: [run for run in runs if run.method == name] for name in METHODS}
    base = by_method[BASELINE]
    classes = base[0].classes
    rows = np.concatenate([run.rows for run in base])
    truth = store.labels[rows].astype(str)
    groups = groups_of(store, np.arange(len(store)))[rows]
    numbers = np.concatenate([np.full(len(run.rows), run.seed) for run in base])
    replicates = int(np.clip(1e8 / (len(rows) * len(classes)), 200, 1000))
    results = []
    for name, made in by_method.items():
        if not made:
            continue
        first, second = (_certain(each, len(classes)) for each in (base, made))
        compared = compare(
            truth, first, second, classes, measures=MEASURES, groups=groups, runs=numbers, replicates=replicates
        )
        by_measure = {one.measure: one for one in compared}
        results.append(
            MethodResult(
                name,
                {measure: one.b for measure, one in by_measure.items()},
                {run.seed: float((run.predicted == _codes(store, run)).mean()) for run in made},
                by_measure if name != BASELINE else {},
                round(float(np.mean([run.seconds for run in made])), 3),
                made[0].trained,
                {measure: _mean_curve(made, f"held_out_{measure}") for measure in MEASURES if made[0].history},
            )
        )
    return results


def interval_text(seeds: int) -> str:
    """Return a sentence that says how the intervals are computed."""
    over = "held-out pictures and seeds" if seeds > 1 else "held-out pictures (of one seed)"
    return (
        f"95 % intervals of the difference to {METHODS[BASELINE]}: paired Bayesian bootstrap over {over}; copies of a "
        "picture count as one; not corrected for the number of comparisons"
    )


def _certain(runs: Sequence[Run], classes: int) -> NDArray[np.float64]:
    """Return the predictions of all ``runs``, one run after another, as probabilities 0 and 1 of shape (n, classes)."""
    certain: NDArray[np.float64] = np.eye(classes)[np.concatenate([run.predicted for run in runs])]
    return certain


def _codes(store: FeatureStore, run: Run) -> NDArray[np.intp]:
    from featstore.heads.evaluation.report import codes_of

    return codes_of(store.labels[run.rows].astype(str), run.classes)


def _mean_curve(runs: Sequence[Run], name: str) -> list[tuple[int, float]]:
    """Return (epoch, mean over the runs) of the figure ``name``."""
    epochs = [int(row["epoch"]) for row in runs[0].history]
    values = np.mean([[float(row[name]) for row in run.history] for run in runs], axis=0)
    return list(zip(epochs, values.tolist(), strict=True))
