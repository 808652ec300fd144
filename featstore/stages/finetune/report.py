"""The report of fine-tuning: figures of the tuned network beside those of the frozen head that it started from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featstore.store.splitting import Split
from featstore.text import counted

if TYPE_CHECKING:
    from featstore.finetuning.budget import Choice
    from featstore.heads import Report, TrainedHead
    from featstore.heads.evaluation.compare import Difference


@dataclass(frozen=True)
class Comparison:
    """The tuned network compared with the frozen head on the same held-out pictures.

    ``differences``: tuned minus frozen, with paired 95 % intervals. ``better``, ``worse``: numbers of pictures that only
    the tuned network, or only the frozen head, classifies correctly. ``p_value``: of McNemar's exact test of these two
    numbers, in which copies of a picture count as one. ``from_scratch``: whether the tuned network started from random
    weights, so that the frozen head is not its epoch 0.
    """

    differences: list[Difference]
    better: int
    worse: int
    p_value: float
    from_scratch: bool = False

    @property
    def verdict(self) -> str:
        """One of "better", "worse" and "no measurable difference", by the interval of the accuracy and the test."""
        from featstore.heads.evaluation.compare import NO_DIFFERENCE

        return NO_DIFFERENCE if self.p_value > 0.05 else self.differences[0].verdict

    def text(self) -> str:
        """Return the comparison as one sentence."""
        points = ", ".join(
            f"{one.measure.replace('_', ' ').replace('f1', 'F1')} {one.points()}" for one in self.differences
        )
        told = {
            "better": "the tuned network is better",
            "worse": "the tuned network is worse: use the frozen head",
        }.get(self.verdict, self.verdict)
        return (
            f"{'trained from scratch' if self.from_scratch else 'fine-tuned'} against the frozen head: {points}; "
            f"{self.better:,} that it had wrong are right now, {self.worse:,} that it had right are wrong (McNemar p = {self.p_value:.2g}): {told}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the comparison as JSON."""
        return {
            "differences": [one.to_dict() for one in self.differences],
            "better": self.better,
            "worse": self.worse,
            "p_value": self.p_value,
            "verdict": self.verdict,
        }


def compare_heads(
    truth: NDArray[Any],
    frozen: NDArray[np.float64],
    tuned: NDArray[np.float64],
    classes: list[str],
    *,
    groups: NDArray[np.int64],
    seed: int,
    from_scratch: bool = False,
) -> Comparison:
    """Return the comparison of probabilities (n, k), ``frozen`` and ``tuned``, of pictures with labels ``truth`` (n,).

    ``groups`` (n,): pictures of a group, such as copies, count as one observation in the intervals and in the test. In
    the test, a group of which the tuned network classifies more pictures correctly than the frozen head counts for the
    tuned network, and the other way round.
    """
    from scipy.stats import binomtest

    from featstore.heads.evaluation.compare import compare
    from featstore.heads.evaluation.measures import group_numbers
    from featstore.heads.evaluation.report import codes_of

    codes = codes_of(truth, classes)
    measures = ("accuracy", "macro_f1")
    differences = compare(truth, frozen, tuned, classes, measures=measures, groups=groups, seed=seed)
    was, now = frozen.argmax(axis=1) == codes, tuned.argmax(axis=1) == codes
    better, worse = int((now & ~was).sum()), int((was & ~now).sum())
    gains = np.bincount(group_numbers(groups, len(codes)), now.astype(np.float64) - was)
    wins, losses = int((gains > 0).sum()), int((gains < 0).sum())
    p_value = float(binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0
    return Comparison(differences, better, worse, p_value, from_scratch)


@dataclass(frozen=True)
class Network:
    """The part of the network that was trained.

    ``frozen_to``: the last layer that stayed frozen during the whole run ("": none); ``blocks``: the layers after it;
    ``unfrozen``: (layer, epoch) pairs of gradual unfreezing. ``trained`` of ``parameters``: number of trained
    parameters and of all parameters, head included. ``shape``: of an activation of ``frozen_to``.
    """

    backbone: str
    frozen_to: str
    blocks: list[str]
    unfrozen: list[tuple[str, int]]
    trained: int
    parameters: int
    shape: tuple[int, ...]

    def text(self) -> str:
        """Return one sentence that says which layers were trained."""
        share = f"{self.trained:,} of {self.parameters:,} parameters train"
        if not self.frozen_to:
            return f"nothing is frozen: {share}"
        steps = "".join(f", {layer} from epoch {epoch} on" for layer, epoch in self.unfrozen)
        return f"frozen up to and including {self.frozen_to}{steps}: {share}"


@dataclass(frozen=True)
class Tuned:
    """The tuned network with its evaluation.

    ``choice``: whether the inputs are cached or live, with the measured rates; ``head``: the tuned head, with
    ``classes``. ``frozen`` and
    ``report``: figures of the frozen head and of the tuned network on the held-out rows ``split.test``;
    ``probabilities``: (n, classes) of the tuned network on these rows.
    """

    network: Network
    choice: Choice
    head: TrainedHead
    split: Split
    frozen: Report
    report: Report
    comparison: Comparison
    probabilities: NDArray[np.float64] = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as JSON."""
        return {
            "network": dict(self.network.__dict__),
            "classes": self.head.classes,
            "inputs": self.choice.to_dict(),
            "split": self.split.to_dict(),
            "frozen_head": self.frozen.to_dict(),
            "held_out": self.report.to_dict(),
            "comparison": self.comparison.to_dict(),
        }


@dataclass(frozen=True)
class FinetuneReport:
    """A fine-tuned model with its evaluation, or an interrupted run.

    ``path``: the folder of the model; ``tuned``: the result, None if the run was interrupted; the same call with
    resume=True then continues it. ``history``: one dict per epoch, as in metrics.csv; epoch 0 is the network before training.
    ``epochs``: number of finished epochs, of the ``planned`` epochs. ``options``: the options that determine the
    result. ``seconds``: of each step.
    """

    path: str
    store: str
    tuned: Tuned | None
    epochs: int
    planned: int
    history: list[dict[str, Any]] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def stopped(self) -> bool:
        """Whether the run was interrupted before its last epoch."""
        return self.tuned is None

    def __repr__(self) -> str:
        if self.tuned is None:
            return f"<FinetuneReport {self.path!r}: stopped after epoch {self.epochs:,} of {self.planned:,}>"
        one, before = self.tuned.report.accuracy, self.tuned.frozen.accuracy
        return (
            f"<FinetuneReport {self.path!r}: accuracy {one.value:.4f} [{one.low:.4f}, {one.high:.4f}] on "
            f"{counted(self.tuned.report.rows, 'held-out picture')}, frozen head {before.value:.4f}>"
        )

    def _repr_html_(self) -> str:
        from featstore.notebook import table

        estimates = {} if self.tuned is None else self.tuned.report.estimates
        rows = [
            (name.replace("_", " "), f"{one.value:.4f}", f"{one.low:.4f} to {one.high:.4f}")
            for name, one in estimates.items()
        ]
        return table(repr(self), rows, ("figure", "value", "95 % interval"), self.notes)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON; the figures are left out if the run was interrupted."""
        return {
            "model": self.path,
            "store": self.store,
            "stopped": self.stopped,
            "epochs": self.epochs,
            "planned_epochs": self.planned,
            **({} if self.tuned is None else self.tuned.to_dict()),
            "history": self.history,
            "options": self.options,
            "notes": self.notes,
            "seconds": self.seconds,
        }
