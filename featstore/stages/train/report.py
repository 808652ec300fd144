"""Results of training: the report, and how a head compares with the head that it replaced."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from featstore.errors import UsageError
from featstore.store.splitting import Split
from featstore.text import counted

if TYPE_CHECKING:
    from featstore.heads import Report, TrainedHead
    from featstore.heads.evaluation.label_set_report import LabelSetsReport
    from featstore.heads.evaluation.numbers_report import NumbersReport

DATA = "data"
"""Key in a head's ``meta``: digests of its training and held-out rows."""


@dataclass(frozen=True)
class Replaced:
    """The head that a new head replaced, compared with the new head.

    ``kind`` and ``chosen``: kind and parameters of the old head. ``accuracy``: of the old head on the ``rows`` pictures
    held out at its training, with the 95 % interval ``low`` to ``high``. ``better`` and ``worse``: numbers of held-out
    pictures that only the new head, or only the old head, classifies correctly. ``p_value``: of McNemar's exact test of
    these two numbers. ``better``, ``worse`` and ``p_value`` are None if the held-out pictures of the two heads differ.
    """

    kind: str
    chosen: dict[str, float]
    accuracy: float
    low: float
    high: float
    rows: int
    better: int | None = None
    worse: int | None = None
    p_value: float | None = None

    def text(self) -> str:
        """Return the comparison of the old head with the new head as text."""
        chosen = ", ".join(f"{name} = {value:g}" for name, value in self.chosen.items()) or "as given"
        then = f"accuracy {self.accuracy:.4f} [{self.low:.4f}, {self.high:.4f}]"
        told = f"replaced the head that was there: {self.kind}, {chosen}, {then} on "
        if self.better is None or self.worse is None:
            return (
                told + f"{counted(self.rows, 'held-out picture')} of its own, so the two figures are not to be compared"
            )
        return (
            f"{told}the same {counted(self.rows, 'held-out picture')}; {self.better:,} that it had wrong are right now, "
            f"{self.worse:,} that it had right are wrong (McNemar p = {self.p_value:.2g})"
        )


@dataclass(frozen=True)
class TrainReport:
    """A trained head with its evaluation.

    ``path``: the head's file. ``figures``: measured on the held-out rows ``split.test``: a Report for classes, a
    LabelSetsReport for label sets, a NumbersReport for numbers. ``probabilities``: (n, classes) of these rows, in the
    order of ``head.classes``, or the predicted numbers (n, 1). ``notes``: warnings for readers of the figures.
    ``seconds``: duration of each step. ``uncalibrated``: calibration error and log loss before temperature scaling,
    empty for a head without temperature scaling. ``store``: the store of rows, labels and pictures. ``stores``: all
    stores, if there are several. ``replaced``: the head that was at ``path`` before, None if there was no head or it
    was unreadable.
    """

    store: str
    path: str
    head: TrainedHead
    figures: Report | LabelSetsReport | NumbersReport
    split: Split
    probabilities: NDArray[np.float64] = field(repr=False)
    notes: list[str]
    seconds: dict[str, float]
    uncalibrated: dict[str, float] = field(default_factory=dict)
    stores: list[str] = field(default_factory=list)
    replaced: Replaced | None = None

    def __repr__(self) -> str:
        name = self.figures.headline
        one = self.figures.estimates[name]
        return (
            f"<TrainReport {self.head.kind} on {' + '.join(self.stores or [self.store])}: {name.replace('_', ' ')} {one.value:.4f} "
            f"[{one.low:.4f}, {one.high:.4f}] on {counted(self.figures.rows, 'held-out picture')}>"
        )

    def _repr_html_(self) -> str:
        from featstore.notebook import table

        rows = [
            (name.replace("_", " "), f"{one.value:.4f}", f"{one.low:.4f} to {one.high:.4f}")
            for name, one in self.figures.estimates.items()
        ]
        return table(repr(self), rows, ("figure", "value", "95 % interval"), self.notes)

    @property
    def report(self) -> Report:
        """The figures of a head that predicts classes. Raises UsageError for other heads; their figures are in
        ``figures``.
        """
        if self.head.task != "classes":
            raise UsageError(f"{self.path}: predicts {self.head.task}, not classes; its figures are in .figures")
        return cast("Report", self.figures)

    @property
    def chosen(self) -> dict[str, float]:
        """Parameters of the head, chosen by cross-validation or given by the user."""
        chosen = self.head.meta.get("chosen")
        return dict(chosen) if isinstance(chosen, dict) else {}

    @property
    def calibration(self) -> dict[str, Any] | None:
        """Calibration ``before`` and ``after`` temperature scaling, and the factor ``scale``; None without scaling."""
        if not self.uncalibrated:
            return None
        after = {name: self.figures.estimates[name].value for name in self.uncalibrated}
        return {"scale": scale_of(self.head), "before": self.uncalibrated, "after": after}

    def to_dict(self) -> dict[str, Any]:
        """Return the result of the training as JSON types."""
        return {
            "store": self.store,
            "stores": self.stores or [self.store],
            "head": self.path,
            "kind": self.head.kind,
            "task": self.head.task,
            "classes": self.head.classes,
            "chosen": self.chosen,
            "cross_validation": self.head.meta.get("cross_validation"),
            "split": self.split.to_dict(),
            "held_out": self.figures.to_dict(),
            "calibration": self.calibration,
            "replaced": None if self.replaced is None else dict(self.replaced.__dict__),
            "notes": self.notes,
            "seconds": self.seconds,
        }


def scale_of(head: TrainedHead) -> float | None:
    """Return the factor by which temperature scaling multiplies decision values; None for a head without scaling."""
    return getattr(head.model, "scale", None)
