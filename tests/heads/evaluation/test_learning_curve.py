from __future__ import annotations

import json

import numpy as np
import pytest

from featstore.errors import DataError
from featstore.heads.evaluation.learning_curve import learning_curve
from tests.heads.made_up import Streamed, blobs


def test_learning_curve_rises_with_more_rows():
    X, y = blobs(1600, 30, 3, apart=0.35, seed=3)
    curve = learning_curve(X[:800], y[:800], X[800:], y[800:], C=0.1, folds=3)
    rows = [point.rows for point in curve.points]
    assert rows == sorted(rows)
    assert rows[-1] == 800
    assert curve.points[-1].accuracy > curve.points[0].accuracy + 0.02
    for point in curve.points:
        assert point.low < point.accuracy < point.high
    assert curve.error_at_double is not None
    assert curve.error_at_double <= 1 - curve.points[-1].accuracy + 1e-9
    assert json.dumps(curve.to_dict(), allow_nan=False)


def test_learning_curve_accepts_blocks_and_groups_and_skips_small_subsets():
    X, y = blobs(60, 5, 3)
    groups = np.arange(60) // 3
    curve = learning_curve(Streamed(X), y, X, y, C=1.0, groups=groups, fractions=(0.02, 0.5, 1.0), repeats=2)
    assert [point.repeats for point in curve.points][-1] == 1
    assert curve.points[0].rows >= 20
    assert curve.error_at_double is None


def test_learning_curve_rejects_too_few_rows_with_a_one_line_error():
    X, y = blobs(9, 5, 3)
    with pytest.raises(DataError, match="too few rows"):
        learning_curve(X, y, X, y, fractions=(0.1,))
