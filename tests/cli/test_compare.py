"""The command ``featstore compare``: table, page, JSON, interruption and errors."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import pytest

from tests.cli.running import run, run_json
from tests.page_reading import read
from tests.stages.finetuning import write_store

pytestmark = pytest.mark.slow

FEW = ("--weights", "random:0", "--batch", "8", "--workers", "1", "--seeds", "2")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare")
    write_store(folder)
    return folder


def test_compare_command_prints_a_table_and_writes_a_page_and_keeps_finished_runs(place):
    given = ("compare", "--transfer", "s", "--methods", "mlp,last-block", "--epochs", "2", *FEW)
    shown = run(*given, cwd=place)
    lines = shown.stdout.splitlines()
    assert [line.split("  ")[0] for line in lines[1:5]] == [
        "method", "frozen + linear", "frozen + MLP", "fine-tuned last block",
    ]  # fmt: skip
    assert "no measurable difference" in lines[4]
    assert "paired Bayesian bootstrap over held-out pictures and seeds" in shown.stdout
    assert "run 6 of 6: last-block, seed 1: accuracy " in shown.stderr
    assert "min left" in shown.stderr
    assert lines[-1] == "page: s.compare.html"
    page = read(place / "s.compare.html")
    for text in ("fine-tuned last block", "Learning curves", "no measurable difference", "trained parameters"):
        assert text in page.text
    told = run_json(*given, cwd=place)
    assert [one["method"] for one in told["methods"]] == ["linear", "mlp", "last-block"]
    assert told["methods"][2]["differences"]["accuracy"]["verdict"] == "no measurable difference"
    assert (told["finished_runs"], told["baseline"], told["page"]) == (6, "linear", "s.compare.html")


def test_interrupted_comparison_keeps_finished_runs(place):
    command = [sys.executable, "-m", "featstore", "compare", "--transfer", "s", "--epochs", "900", "--methods", "all"]
    command += [*FEW, "--out", "stopped"]
    process = subprocess.Popen(command, cwd=place, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 120
    while not (place / "stopped" / "all-0.run" / "metrics.csv").exists() and time.monotonic() < until:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130, said
    assert "featstore: stopped after 1 of 4 runs; the same command goes on" in said
    assert "Traceback" not in said
    assert json.loads((place / "stopped" / "linear-0.json").read_text())["method"] == "linear"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((), "say what to compare"),
        (("--transfer", "s", "--methods", "last-blok"), "did you mean 'last-block'"),
        (("--transfer", "s", "--out", "missing/c"), "there is no folder"),
        (("--transfer", "missing"), "missing"),
    ],
)
def test_invalid_options_of_the_compare_command_give_a_one_line_error(place, given, message):
    assert message in run("compare", *given, "--weights", "random:0", cwd=place, code=2).stderr.splitlines()[-1]
