from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from featstore.heads.estimators.linear import LogisticHead
from featstore.stages.bench import heads
from featstore.stages.bench.heads_verdicts import fit_verdicts


def small(classes, difficulty):
    return heads.Task(1500, 64, classes, difficulty, 3, 0)


def test_synthetic_data_sets_are_reproducible_and_differ_in_difficulty():
    accuracy = {}
    for difficulty in heads.SETS:
        features, codes = small(10, difficulty).make()
        np.testing.assert_array_equal(small(10, difficulty).make()[0], features)
        assert features.min() == 0
        head = LogisticHead(C=0.01, calibrate=False).fit(features[:1500], codes[:1500])
        accuracy[difficulty] = head.score(features[1500:], codes[1500:])
    assert accuracy["easy"] > accuracy["hard"] + 0.1


@pytest.mark.parametrize("name", heads.CONTENDERS)
def test_bench_reports_chosen_C_accuracy_and_seconds_of_each_library(name):
    result = heads.run_contender(name, small(3, "easy"), (0.001, 0.01))
    assert result["C"] in (0.001, 0.01)
    assert result["accuracy"] > 0.6
    assert result["seconds"] > 0
    if name == "featstore-logreg":
        assert result["passes"] > 0
        assert result["operations_floor_seconds"] > 0


def test_featstore_reaches_the_lowest_objective_of_all_libraries():
    for row in heads.compare_objectives(small(3, "hard"), (0.01, 1.0)):
        assert row["objective"] <= row["peer_objective"] * (1 + 1e-5)


def test_bench_heads_command_prints_a_table_and_writes_json(tmp_path, capsys):
    path = tmp_path / "out.json"
    size = ["--rows", "600", "--dimension", "32", "--classes", "2", "--difficulty", "easy", "--rounds", "1"]
    heads.main([*size, "--contenders", "featstore-logreg", "--json", str(path)])
    assert "featstore-logreg" in capsys.readouterr().out
    row = json.loads(path.read_text())["results"][0]
    assert len(row["all_seconds"]) == 1
    assert row["rows"] == 600


def test_bench_heads_counts_a_library_stopped_at_the_time_limit_as_slower():
    endless = [sys.executable, "-c", "print('fitting', flush=True); import time; time.sleep(600)"]
    stopped = heads._run("sklearn-svm", endless, 0.2)
    assert stopped["stopped"]
    assert stopped["seconds"] >= 0.2
    ours = {"contender": "featstore-svm", "classes": 10, "difficulty": "hard", "seconds": 1.0, "accuracy": 0.7}
    peer = {"contender": "sklearn-svm", "classes": 10, "difficulty": "hard", "stopped": True, "seconds": 6.0}
    (speed,) = fit_verdicts([ours, peer])
    assert speed.holds
    assert "the peer was stopped" in speed.line()
    assert "stopped, not done" in heads._line(peer)
    done = [sys.executable, "-c", "print('fitting'); print('{\"seconds\": 2.0}')"]
    assert heads._run("sklearn-svm", done, 60) == {"seconds": 2.0}
