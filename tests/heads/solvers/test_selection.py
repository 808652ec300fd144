from __future__ import annotations

import numpy as np
import pytest

from featstore.errors import DataError
from featstore.heads.solvers.grid import FoldScores
from featstore.heads.solvers.selection import choose


def scores(accuracy, log_loss):
    accuracy = np.array(accuracy, float)
    return FoldScores(np.full(len(accuracy), 10), accuracy, accuracy[::-1].copy(), np.array(log_loss, float))


def test_parameter_with_the_best_mean_score_is_chosen_or_the_first_of_equal_ones():
    table = scores([0.8, 0.8, 0.7, 0.9, 0.6, 0.7], [3, 3, 2, 2, 1, 1])
    choice = choose({"C": [0.1, 1.0, 10.0]}, table, 2, "accuracy")
    assert choice.index == 0
    np.testing.assert_allclose(choice.results["mean_accuracy"], [0.8, 0.8, 0.65])
    np.testing.assert_allclose(choice.results["std_accuracy"], [0, 0.1, 0.05])
    np.testing.assert_allclose(choice.results["split1_accuracy"], [0.8, 0.9, 0.7])
    assert choose({"C": [0.1, 1.0, 10.0]}, table, 2, "accuracy", ties_by_log_loss=True).index == 1
    assert choose({"C": [0.1, 1.0, 10.0]}, table, 2, "neg_log_loss").index == 2
    assert choose({"C": [0.1, 1.0, 10.0]}, table, 2, "balanced_accuracy").index == 1


def test_unknown_scoring_for_model_selection_is_refused():
    with pytest.raises(DataError, match="scoring must be one of accuracy"):
        choose({"C": [1.0]}, scores([1], [0]), 1, "f1")
