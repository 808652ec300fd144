from __future__ import annotations

import pytest

from featstore.errors import UsageError
from featstore.heads.evaluation.compare import Difference
from featstore.pages.compare import differences_drawing, write_compare_page
from featstore.stages.compare import MethodResult, TransferReport


def result(name: str, low: float, high: float) -> MethodResult:
    middle = (low + high) / 2
    one = Difference("accuracy", 0.5, 0.5 + middle, middle, low, high, 0.5)
    return MethodResult(name, {"accuracy": 0.5 + middle}, {0: 0.5 + middle}, {"accuracy": one}, 1.0, 10)


def test_drawing_of_differences_has_a_zero_line_and_the_verdict_of_each_method():
    base = MethodResult("linear", {"accuracy": 0.5}, {0: 0.5}, {}, 1.0, 10)
    drawing = str(
        differences_drawing("Accuracy", [base, result("mlp", 0.1, 0.3), result("all", -0.1, 0.1)], "accuracy").svg()
    )
    assert "frozen + MLP: +20.0 points [+10.0, +30.0], better" in drawing
    assert "fine-tuned, every layer: +0.0 points [-10.0, +10.0], no measurable difference" in drawing
    assert "frozen + linear" not in drawing
    for tick in ("-10.0", ">0<", "+30.0"):
        assert tick in drawing


def test_page_of_an_interrupted_comparison_is_refused(tmp_path):
    with pytest.raises(UsageError, match="was interrupted"):
        write_compare_page(TransferReport("runs", "s", [], 3, 12), tmp_path / "page.html")
    assert list(tmp_path.iterdir()) == []
