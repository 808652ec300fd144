"""The table tests/tolerances.md: every listed test exists, and every tolerance has a reason."""

from __future__ import annotations

import re
from pathlib import Path

from tests.slow.instruction_sets import TOLERANCES, reasons, table

TOP = Path(__file__).parents[1]


def test_listed_tolerances_belong_to_existing_tests_and_have_reasons():
    text = TOLERANCES.read_text()
    listed = reasons(text)
    assert len(listed) > 100
    explained = set(re.findall(r"^\| \*\*(.+?)\*\* \|", text, flags=re.MULTILINE))
    missing = []
    for (test, _), reason in listed.items():
        file, name = test.split("::")
        if not (TOP / file).exists() or f"def {name}(" not in (TOP / file).read_text():
            missing.append(test)
        assert reason in explained, test
    assert not missing, f"no longer there; run python -m tests.slow.instruction_sets --tolerances: {missing}"


def test_tolerance_table_lists_the_largest_error_to_bound_ratio_and_missing_reasons(tmp_path):
    old, new = tmp_path / "avx2", tmp_path / "amx"
    old.write_text(
        '{"tests/a.py::test_a": {"rtol=0, atol=1": 0.25}}\n{"tests/a.py::test_a": {"rtol=0, atol=1": 0.5}}\n'
    )
    computed = ", ".join(f'"rtol=1, atol={at}": 0.{at}' for at in range(4))
    new.write_text(f'{{"tests/a.py::test_a": {{"rtol=0, atol=1": 0.125, {computed}}}}}\n')
    made = table({"avx2": old, "amx": new}, {("tests/a.py::test_a", "rtol=0, atol=1"): "rounding"}).splitlines()
    assert made[0] == "| test | bound | reason | avx2 | amx |"
    assert made[2:] == [
        "| tests/a.py::test_a | rtol=0, atol=1 | rounding | 0.5 | 0.12 |",
        "| tests/a.py::test_a | rtol=1, atol=computed | ? |  | 0.3 |",
    ]
    assert reasons("\n".join(made))["tests/a.py::test_a", "rtol=0, atol=1"] == "rounding"
