"""Evaluate heads that predict something other than one class per picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from featstore.store.splitting import Split
from featstore.store.targets import NUMBERS

if TYPE_CHECKING:
    from featstore.heads import TrainedHead
    from featstore.heads.evaluation.label_set_report import LabelSetsReport
    from featstore.heads.evaluation.numbers_report import NumbersReport


def assess_targets(
    head: TrainedHead, split: Split, probabilities: NDArray[np.float64], seed: int
) -> LabelSetsReport | NumbersReport:
    """Return the report on the held-out rows of ``split``.

    ``probabilities``: (n, labels) of ``head`` for these rows, or the predicted numbers (n, 1).
    """
    from featstore.heads.evaluation.label_set_report import evaluate_label_sets
    from featstore.heads.evaluation.numbers_report import evaluate_numbers
    from featstore.heads.headfile import LabelSetsHead

    assert split.targets is not None
    if split.targets.task.kind == NUMBERS:
        return evaluate_numbers(numbers_of(split), probabilities[:, 0], seed=seed)
    assert isinstance(head, LabelSetsHead)
    return evaluate_label_sets(truth_of(head, split), probabilities, head.classes, head.thresholds, seed=seed)


def numbers_of(split: Split) -> NDArray[np.float64]:
    """Return the true number of each held-out row of ``split``, (n,)."""
    assert split.targets is not None
    return split.targets.values[split.test].astype(np.float64)


def truth_of(head: TrainedHead, split: Split) -> NDArray[np.bool_]:
    """Return whether each held-out row of ``split`` has each label of ``head``, (n, labels)."""
    assert split.targets is not None
    places = {name: place for place, name in enumerate(head.classes)}
    truth = np.zeros((len(split.test), len(head.classes)), bool)
    for row, names in enumerate(split.targets.values[split.test].tolist()):
        truth[row, [places[name] for name in names]] = True
    return truth
