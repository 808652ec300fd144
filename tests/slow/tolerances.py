"""A pytest plugin that records how close each test comes to its tolerances: ``-p tests.slow.tolerances``.

The plugin watches every call of numpy.testing.assert_allclose, torch.testing.assert_close and pytest.approx with
numbers. For each test and bound it records the largest ratio of the difference to the bound.
Each process appends one line of JSON, {test: {bound: ratio}}, to the file that the environment variable
FEATSTORE_TOLERANCES names. instruction_sets.py makes a table of these lines.
"""

from __future__ import annotations

import json
import os
import re
from typing import Any

import numpy as np
import pytest

_worst: dict[str, dict[str, float]] = {}


def _record(actual: Any, expected: Any, rtol: float, atol: float) -> None:
    """Record the largest ratio of difference to tolerance in a comparison of arrays.

    This ratio is 0 for equal arrays and above 1 if the comparison fails.
    """
    bound = f"rtol={rtol:.2g}, atol={atol:.2g}"
    try:
        if isinstance(expected, dict):
            actual, expected = [actual[name] for name in expected], list(expected.values())
        left, right = (np.asarray(each, np.float64) for each in (actual, expected))
        allowed = atol + rtol * np.abs(right)
        with np.errstate(divide="ignore", invalid="ignore"):
            shares = np.where(left == right, 0.0, np.abs(left - right) / allowed)
        share = float(np.nanmax(shares, initial=0.0))
    except (KeyError, TypeError, ValueError):
        return
    shares_of_test = _worst.setdefault(_test(), {})
    shares_of_test[bound] = max(share, shares_of_test.get(bound, 0.0))


def _test() -> str:
    """Return file and function of the running test, which remain valid if lines are added to the file."""
    return re.sub(r"(\[.*)? \(\w+\)$", "", os.environ["PYTEST_CURRENT_TEST"], flags=re.DOTALL)


class _Approximately:
    """Wrap the result of pytest.approx and record each comparison with it."""

    __array_ufunc__ = None
    __array_priority__ = 100
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, inner: Any, expected: Any, rel: float | None, abs_: float | None) -> None:
        self._inner, self._expected = inner, expected
        self._atol = 1e-12 if abs_ is None else abs_
        # Use the defaults of pytest.approx: if only an absolute bound is given, the relative bound is 0.
        self._rtol = (1e-6 if abs_ is None else 0.0) if rel is None else rel

    def __eq__(self, actual: object) -> bool:
        _record(actual, self._expected, self._rtol, self._atol)
        return bool(self._inner == actual)

    def __ne__(self, actual: object) -> bool:
        return not self == actual

    def __repr__(self) -> str:
        return repr(self._inner)


def pytest_configure(config: pytest.Config) -> None:
    """Replace assert_allclose, assert_close and approx by versions that record tolerances, before any test imports
    them."""
    import torch
    from torch.testing._comparison import default_tolerances

    allclose, close, approx = np.testing.assert_allclose, torch.testing.assert_close, pytest.approx

    def watched_allclose(actual: Any, desired: Any, rtol: float = 1e-7, atol: float = 0, **options: Any) -> None:
        _record(actual, desired, rtol, atol)
        allclose(actual, desired, rtol, atol, **options)

    def watched_close(actual: Any, expected: Any, *, rtol: Any = None, atol: Any = None, **options: Any) -> None:
        if isinstance(actual, torch.Tensor):
            usual = default_tolerances(actual, expected)
            bounds = (usual[0] if rtol is None else rtol, usual[1] if atol is None else atol)
            _record(actual.detach().cpu(), expected.detach().cpu(), *bounds)
        close(actual, expected, rtol=rtol, atol=atol, **options)

    def watched_approx(expected: Any, rel: Any = None, abs: Any = None, nan_ok: bool = False) -> Any:
        inner = approx(expected, rel=rel, abs=abs, nan_ok=nan_ok)
        return _Approximately(inner, expected, rel, abs)

    np.testing.assert_allclose = watched_allclose  # type: ignore[assignment]
    torch.testing.assert_close = watched_close
    pytest.approx = watched_approx


def pytest_sessionfinish() -> None:
    """Append the recorded ratios of difference to tolerance to the file that FEATSTORE_TOLERANCES names."""
    if _worst and (name := os.environ.get("FEATSTORE_TOLERANCES")):
        # Write the line in one call, so that lines of processes that end at the same moment do not mix.
        file = os.open(name, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            os.write(file, json.dumps(_worst).encode() + b"\n")
        finally:
            os.close(file)
