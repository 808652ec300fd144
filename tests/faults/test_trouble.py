"""Full disks, unwritable and deleted directories, clock changes and read errors during ``extract``.

The run ends with an error of one line or continues; the store stays intact, and a second run completes it.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cases() -> list[dict[str, object]]:
    """Run all fault cases in a separate process: forks work only if torch has started no thread."""
    result = subprocess.run(
        [sys.executable, "-m", "tests.faults.trouble", "3"], stdout=subprocess.PIPE, text=True, check=True
    )
    found: list[dict[str, object]] = json.loads(result.stdout)
    return found


def named(cases: list[dict[str, object]], word: str) -> list[dict[str, object]]:
    found = [case for case in cases if word in str(case["case"])]
    assert found
    return found


def test_second_extraction_after_each_fault_makes_a_complete_store_without_damage(
    cases: list[dict[str, object]],
) -> None:
    for case in cases:
        assert case["verify"] == [], case
        assert case["equal"], case
        assert case["code"] in (0, 1), case
        assert "\n" not in str(case["line"]), case


@pytest.mark.parametrize(
    ("word", "line"), [("left", "No space left"), ("deleted", "No such file"), ("read-only", "Permission denied")]
)
def test_disk_and_directory_faults_are_reported_in_one_line(
    cases: list[dict[str, object]], word: str, line: str
) -> None:
    for case in named([{**case, "case": str(case["case"]).replace("no space after", "left")} for case in cases], word):
        assert case["code"] == 1, case
        assert line in str(case["line"]), case


def test_clock_changes_and_single_read_errors_do_not_end_an_extraction(cases: list[dict[str, object]]) -> None:
    assert named(cases, "clock")[0]["line"] == 24
    assert named(cases, "one read")[0]["line"] == [{"io-error": 1, "not-a-picture": 1}, {"not-a-picture": 1}, 1]


def test_two_concurrent_extractions_make_the_same_store_as_one(cases: list[dict[str, object]]) -> None:
    assert [case["code"] for case in named(cases, "at once")] == [0, 0]
