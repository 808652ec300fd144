"""Required speed and accuracy of heads relative to scikit-learn; check whether results of ``bench.heads`` meet them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

EQUAL: Final = 1e-6
"""Relative difference of objectives that counts as equal: the limit of single precision."""
_LEAST_RATIO: Final = {("logreg", "easy"): 10.0, ("logreg", "hard"): 20.0}
"""Required speed-up over scikit-learn on more than two classes, by (head, difficulty)."""
_LEAST_RATIO_OTHERS: Final = 5.0
_ACCURACY_SLACK: Final = 0.001


@dataclass(frozen=True)
class Verdict:
    """A requirement and its result: ``asked`` is the smallest allowed value if ``at_least`` is true, otherwise the
    largest.

    ``what``: the measured quantity; ``reached``: its measured value.
    """

    what: str
    asked: float
    reached: float
    at_least: bool = True

    @property
    def holds(self) -> bool:
        """Whether the measured value meets the requirement."""
        return self.reached >= self.asked if self.at_least else self.reached <= self.asked

    def line(self) -> str:
        """Return the verdict as a line of text: required value, measured value, and whether the requirement holds."""
        bound = "at least" if self.at_least else "at most"
        return (
            f"{'holds' if self.holds else 'MISSED'}: {self.what}: asked {bound} {self.asked:.6g}, "
            f"reached {self.reached:.6g}"
        )


def fit_verdicts(table: list[dict[str, Any]]) -> list[Verdict]:
    """Return the verdicts on speed and accuracy of each head in ``table``, compared with scikit-learn's head (peer).

    ``table``: the results on one data set, one dict for each head.
    """
    by_name = {row["contender"]: row for row in table}
    found = []
    for kind in ("logreg", "svm"):
        if f"featstore-{kind}" not in by_name or f"sklearn-{kind}" not in by_name:
            continue
        ours, peer = by_name[f"featstore-{kind}"], by_name[f"sklearn-{kind}"]
        where = f"{kind}, {ours['classes']} classes, {ours['difficulty']}"
        least = _LEAST_RATIO_OTHERS
        if ours["classes"] > 2:
            least = _LEAST_RATIO.get((kind, ours["difficulty"]), least)
        stopped = " (more: the peer was stopped)" if "stopped" in peer else ""
        found.append(Verdict(f"{where}: times faster{stopped}", least, peer["seconds"] / ours["seconds"]))
        if not stopped:
            found.append(Verdict(f"{where}: accuracy", peer["accuracy"] - _ACCURACY_SLACK, ours["accuracy"]))
    return found


def objective_verdicts(table: list[dict[str, Any]]) -> list[Verdict]:
    """Return for each C a verdict on whether featstore's head reached the objective of scikit-learn."""
    return [
        Verdict(
            f"{row['classes']} classes, {row['difficulty']}, C={row['C']:g}: objective",
            row["peer_objective"] * (1 + EQUAL),
            row["objective"],
            at_least=False,
        )
        for row in table
    ]
