from __future__ import annotations

from featstore.stages.bench.heads_verdicts import fit_verdicts, objective_verdicts


def row(contender, seconds, accuracy, classes=10, difficulty="hard"):
    return {
        "contender": contender,
        "seconds": seconds,
        "accuracy": accuracy,
        "classes": classes,
        "difficulty": difficulty,
    }


def test_bench_heads_requires_a_minimum_speed_ratio_only_for_many_classes():
    table = [row("featstore-logreg", 1.0, 0.8), row("sklearn-logreg", 19.0, 0.8005), row("featstore-svm", 1.0, 0.7)]
    speed, accuracy = fit_verdicts(table)
    assert not speed.holds
    assert "asked at least 20, reached 19" in speed.line()
    assert accuracy.holds
    assert all(v.holds for v in fit_verdicts([each | {"classes": 2} for each in table]))
    table[1] = row("sklearn-logreg", 40.0, 0.802)
    assert [v.holds for v in fit_verdicts(table)] == [True, False]


def test_bench_fails_if_another_library_reaches_a_lower_objective():
    at = {"classes": 2, "difficulty": "easy", "C": 1.0, "peer_objective": 2.0}
    assert [v.holds for v in objective_verdicts([at | {"objective": o} for o in (2.0, 2.1)])] == [True, False]
