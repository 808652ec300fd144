"""A pytest plugin that records how much of each tolerance a test run used: ``-p tests.slow.tolerances``.

It watches every call of numpy.testing.assert_allclose, torch.testing.assert_close and pytest.approx with numbers. For each
call, named by file and line, it records the bound and the largest share of the bound that was used. Each process appends
one JSON object per line of code to the file that FEATSTORE_TOLERANCES names. instruction_sets.py makes a table of them.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
_worst: dict[str, tuple[str, float]] = {}


def _record(bound: str, actual: Any, expected: Any, rtol: float, atol: float) -> None:
    """Record the largest difference divided by the tolerance: 0 if equal, above 1 if the test fails."""
    try:
        left, right = (np.asarray(each, np.float64) for each in (actual, expected))
        allowed = atol + rtol * np.abs(right)
        with np.errstate(divide="ignore", invalid="ignore"):
            shares = np.where(left == right, 0.0, np.abs(left - right) / allowed)
        share = float(np.nanmax(shares, initial=0.0))
    except (TypeError, ValueError):
        return
    if place := _place():
        _worst[place] = (bound, max(share, _worst.get(place, ("", 0.0))[1]))


def _place() -> str:
    """Return file and line of the innermost frame in the tests."""
    frame = sys._getframe(2)
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith(str(ROOT / "tests")) and file != __file__:
            return f"{Path(file).relative_to(ROOT)}:{frame.f_lineno}"
        frame = frame.f_back  # type: ignore[assignment]
    return ""


class _Approximately:
    """Wraps the result of pytest.approx and records each comparison."""

    __array_ufunc__ = None
    __array_priority__ = 100
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, inner: Any, expected: Any, rel: float | None, abs_: float | None) -> None:
        self._inner, self._expected = inner, expected
        self._atol = 1e-12 if abs_ is None else abs_
        # As in pytest: if only an absolute bound is given, there is no relative one.
        self._rtol = (1e-6 if abs_ is None else 0.0) if rel is None else rel

    def __eq__(self, actual: object) -> bool:
        _record(f"rtol={self._rtol:g}, atol={self._atol:g}", actual, self._expected, self._rtol, self._atol)
        return bool(self._inner == actual)

    def __ne__(self, actual: object) -> bool:
        return not self == actual

    def __repr__(self) -> str:
        return repr(self._inner)


def pytest_configure(config: pytest.Config) -> None:
    """Replace the three comparison functions by recording ones, before any test imports them."""
    import torch

    allclose, close, approx = np.testing.assert_allclose, torch.testing.assert_close, pytest.approx

    def watched_allclose(actual: Any, desired: Any, rtol: float = 1e-7, atol: float = 0, **options: Any) -> None:
        _record(f"rtol={rtol:g}, atol={atol:g}", actual, desired, rtol, atol)
        allclose(actual, desired, rtol, atol, **options)

    def watched_close(actual: Any, expected: Any, *, rtol: Any = None, atol: Any = None, **options: Any) -> None:
        if rtol is not None and atol is not None and isinstance(actual, torch.Tensor):
            _record(f"rtol={rtol:g}, atol={atol:.2g}", actual.detach().cpu(), expected.detach().cpu(), rtol, atol)
        close(actual, expected, rtol=rtol, atol=atol, **options)

    def watched_approx(expected: Any, rel: Any = None, abs: Any = None, nan_ok: bool = False) -> Any:
        inner = approx(expected, rel=rel, abs=abs, nan_ok=nan_ok)
        return _Approximately(inner, expected, rel, abs)

    np.testing.assert_allclose = watched_allclose  # type: ignore[assignment]
    torch.testing.assert_close = watched_close
    pytest.approx = watched_approx


def pytest_sessionfinish() -> None:
    """Append the differences that this process recorded to the file."""
    if _worst and (name := os.environ.get("FEATSTORE_TOLERANCES")):
        with open(name, "a", encoding="utf-8") as file:
            file.write(json.dumps(_worst) + "\n")
