"""Compare label sets and ridge regression with scikit-learn: predictions, seconds, and memory.

    python -m tests.slow.linear_tasks [--rows 25000] [--dimension 2048] [--labels 4] [--C 0.01] [--alpha 1000]

Made-up float32 features with a few strong directions, as features of networks have, label sets, and numbers. Each
estimator is fitted in a fresh process, on the same standardised problem and with the same C or alpha:
OneVsRestClassifier(LogisticRegression) and Ridge of scikit-learn, and OneVsRestHead and RidgeHead on rows in memory and
on rows that are streamed from a file. The predictions are compared on the training rows. scikit-learn gets float64
features and a small tolerance: in float32 its solver stops further than 1e-4 from the optimum.

The exit code is 1 if a probability differs from scikit-learn's by more than 1e-4, or a number by more than 1e-4 target
standard deviations.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from featstore.heads import OneVsRestHead, RidgeHead
from tests.slow.watching import anonymous_peak

MOST = 1e-4


class Mapped:
    """Rows of a .npy file as a block source."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.shape = np.load(path, mmap_mode="r").shape

    def blocks(self) -> Iterator[NDArray[Any]]:
        """Yield blocks of 4,096 rows."""
        rows = np.load(self._path, mmap_mode="r")
        for start in range(0, len(rows), 4096):
            yield np.array(rows[start : start + 4096])


def write(place: Path, rows: int, dimension: int, labels: int) -> None:
    """Write features, label sets and numbers to ``place``."""
    random = np.random.default_rng(0)
    directions = random.standard_normal((64, dimension), np.float32)
    features = random.standard_normal((rows, dimension), np.float32)
    features += random.standard_normal((rows, 64), np.float32) @ directions / 4 + 1
    np.save(place / "features.npy", features)
    values = features @ random.standard_normal((dimension, labels), np.float32)
    values = (values - values.mean(axis=0)) / values.std(axis=0) + random.standard_normal((rows, labels))
    np.save(place / "sets.npy", values > np.linspace(0, 2.5, labels))
    np.save(place / "numbers.npy", 50 + 10 * values[:, 0])


def fitted(place: str, what: str, how: str, strength: float) -> dict[str, Any]:
    """Fit an estimator, write its predictions, and return the seconds and the peak of anonymous memory of the fit."""
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.multiclass import OneVsRestClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    folder = Path(place)
    target = np.load(folder / f"{what}.npy")
    path = folder / "features.npy"
    rows: Any = Mapped(path) if how == "streamed" else np.load(path)
    limit = 64 << 20 if how == "streamed" else 2 << 30
    if how == "scikit-learn":
        rows = rows.astype(np.float64)
        plain = LogisticRegression(C=strength, max_iter=5000, tol=1e-9)
        last = OneVsRestClassifier(plain) if what == "sets" else Ridge(alpha=strength)
        estimator: Any = make_pipeline(StandardScaler(), last)
    elif what == "sets":
        estimator = OneVsRestHead(C=strength, thresholds=0.5, memory_limit=limit)
    else:
        estimator = RidgeHead(alpha=strength)
    with anonymous_peak() as memory:
        started = time.perf_counter()
        estimator.fit(rows, target.astype(int) if what == "sets" else target)
        seconds = time.perf_counter() - started
    values = estimator.predict_proba(rows) if what == "sets" else estimator.predict(rows)
    np.save(folder / f"{what}-{how}.npy", values)
    return {"seconds": seconds, "peak": memory.peak}


def child(*arguments: object) -> dict[str, Any]:
    """Run ``fitted`` in a fresh process with ``arguments`` and return its result."""
    command = [sys.executable, "-m", "tests.slow.linear_tasks", "--child", json.dumps(arguments)]
    result: dict[str, Any] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return result


@click.command()
@click.option("--rows", default=25_000, show_default=True)
@click.option("--dimension", default=2048, show_default=True)
@click.option("--labels", default=4, show_default=True)
@click.option("--C", "strength", default=0.01, show_default=True)
@click.option("--alpha", default=1000.0, show_default=True)
@click.option("--child", "as_child", hidden=True)
def main(rows: int, dimension: int, labels: int, strength: float, alpha: float, as_child: str | None) -> None:
    """Compare both heads with scikit-learn."""
    if as_child:
        print(json.dumps(fitted(*json.loads(as_child))))
        return
    missed = False
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        write(place, rows, dimension, labels)
        for what, value in (("sets", strength), ("numbers", alpha)):
            plain = child(folder, what, "scikit-learn", value)
            expected = np.load(place / f"{what}-scikit-learn.npy")
            unit = 1.0 if what == "sets" else float(np.load(place / "numbers.npy").std())
            print(
                f"{what}: {rows:,} x {dimension}, scikit-learn {plain['seconds']:.1f} s, {plain['peak'] / 2**20:,.0f} MiB"
            )
            for how in ("in memory", "streamed"):
                found = child(folder, what, how, value)
                difference = float(np.abs(np.load(place / f"{what}-{how}.npy") - expected).max()) / unit
                missed |= not difference <= MOST
                print(
                    f"  {how}: {found['seconds']:.1f} s ({found['seconds'] / plain['seconds']:.2f} of scikit-learn's), "
                    f"{found['peak'] / 2**20:,.0f} MiB; greatest difference {difference:.1e} (at most {MOST:g})"
                )
    sys.exit(missed)


if __name__ == "__main__":
    main()
