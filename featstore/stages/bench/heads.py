"""Compare heads with scikit-learn on synthetic features: ``python -m featstore.stages.bench.heads --help``.

Each contender (a head of featstore or of scikit-learn) runs in a fresh process, the contenders alternate, and the
median of the rounds is shown. The peer of logistic regression is
``GridSearchCV(make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)))``; the peer of the linear support
vector machine has ``LinearSVC(dual=False)`` as its last step. All contenders get the same float32 rows, C values and
number of folds, and refit with the chosen C on all training rows. Lower bounds of the time are measured in the
contender's own process.

Run everything with ``python -m featstore.stages.bench.heads --rounds 1`` (all data sets, both heads). With
``--objectives`` the command instead compares the objective at each C, and the time that scikit-learn needs to reach
featstore's objective. A verdict states the required value and the measured value; the command exits with 1 if a
requirement is missed.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from featstore import defaults
from featstore.heads.estimators.linear import LinearSVMHead, LogisticHead
from featstore.heads.solvers.grid import effort, solve
from featstore.heads.solvers.losses import LOGISTIC
from featstore.heads.solvers.passes import Problem, evaluate
from featstore.heads.solvers.rows import Labels, prepare
from featstore.stages.bench.heads_verdicts import EQUAL, Verdict, fit_verdicts, objective_verdicts

CONTENDERS: Final = ("featstore-logreg", "sklearn-logreg", "featstore-svm", "sklearn-svm")
SETS: Final = {"easy": (0.42, 0.565), "hard": (0.2, 0.3)}
"""Distance between the class means by difficulty: (for two classes, for more than two classes).

The unit is the standard deviation of a latent coordinate. With 25,000 x 2048 features a linear classifier has an
accuracy of about 0.98 on easy data, and of 0.82 (2 classes) and 0.69 (10 classes) on hard data.
"""
_HELD_OUT: Final = 5000
_PATIENCE: Final = 20.0
"""Seconds: if one fit of scikit-learn takes longer, tighter tolerances are not tried."""


@dataclass(frozen=True)
class Task:
    """A synthetic data set: features of ``rows`` training rows and 5,000 held-out rows, in ``classes`` classes.

    ``difficulty``: "easy" or "hard", see SETS. ``dimension``: number of features. ``folds``: number of folds in
    cross-validation.
    """

    rows: int
    dimension: int
    classes: int
    difficulty: str
    folds: int
    seed: int

    def make(self) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
        """Return features (n, d) and class numbers (n,): rectified, rotated latent Gaussians with a decaying spectrum.

        The features resemble the penultimate layer of a ResNet: non-negative, skewed, strongly correlated.
        """
        random = np.random.default_rng(self.seed)
        total = self.rows + _HELD_OUT
        codes = random.integers(0, self.classes, total)
        latent = random.standard_normal((total, self.dimension), dtype=np.float32)
        informative = self.dimension // 8
        apart = SETS[self.difficulty][self.classes > 2] * np.sqrt(64 / informative)
        centres = random.standard_normal((self.classes, informative)) * apart
        latent[:, :informative] += centres[codes].astype(np.float32)
        latent *= (np.arange(1, self.dimension + 1) ** -0.5).astype(np.float32)
        rotation = np.linalg.qr(random.standard_normal((self.dimension, self.dimension)))[0].astype(np.float32)
        features = latent @ rotation
        np.maximum(features, 0, out=features)
        return features, codes


def run_contender(name: str, task: Task, Cs: tuple[float, ...]) -> dict[str, Any]:
    """Fit the contender ``name`` on ``task``; return seconds, held-out accuracy, chosen C and peak memory (bytes)."""
    features, codes = task.make()
    X, y = features[: task.rows], codes[: task.rows]
    estimator = _estimator(name, task, Cs)
    print("fitting", flush=True)
    start = time.perf_counter()
    estimator.fit(X, y)
    seconds = time.perf_counter() - start
    result = {
        "seconds": seconds,
        "accuracy": float(np.mean(estimator.predict(features[task.rows :]) == codes[task.rows :])),
        "C": float(estimator.C_) if hasattr(estimator, "C_") else float(next(iter(estimator.best_params_.values()))),
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    if hasattr(estimator, "effort_"):
        result |= _floors(X, estimator.effort_.passes, estimator.effort_.operations)
    return result


def _default_Cs(name: str) -> tuple[float, ...]:
    return defaults.SVM_CS if name.endswith("svm") else defaults.HEAD_CS


def _estimator(name: str, task: Task, Cs: tuple[float, ...]) -> Any:
    if name == "featstore-logreg":
        return LogisticHead(Cs=Cs, cv=task.folds)
    if name == "featstore-svm":
        return LinearSVMHead(Cs=Cs, cv=task.folds)
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import LinearSVC

    last = LogisticRegression(max_iter=1000) if name == "sklearn-logreg" else LinearSVC(dual=False)
    parameter = f"{type(last).__name__.lower()}__C"
    return GridSearchCV(make_pipeline(StandardScaler(), last), {parameter: list(Cs)}, cv=task.folds)


def _floors(X: NDArray[Any], passes: int, operations: float) -> dict[str, float]:
    """Return lower bounds of the fitting time, from the memory bandwidth and the matrix-product speed of this machine.

    ``passes``: how often the fit reads X; ``operations``: number of floating-point operations of the fit.
    """
    vector = np.ones(X.shape[1], X.dtype)
    square = X[: X.shape[1]]
    scan = min(_timed(lambda: X @ vector) for _ in range(3))
    product = min(_timed(lambda: square @ square.T) for _ in range(3))
    rate = 2.0 * len(square) ** 2 * X.shape[1] / product
    return {
        "passes": passes,
        "operations": operations,
        "bandwidth_bytes_per_second": X.nbytes / scan,
        "operations_per_second": rate,
        "memory_floor_seconds": passes * scan,
        "operations_floor_seconds": operations / rate,
    }


def _timed(call: Any) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def compare_objectives(task: Task, Cs: tuple[float, ...]) -> list[dict[str, float]]:
    """For each C, return the objective and the seconds of featstore's head and of scikit-learn on all training rows.

    scikit-learn runs with its default tolerance first, then with tighter tolerances until its objective is at most
    featstore's (within the relative difference EQUAL).
    """
    from sklearn.linear_model import LogisticRegression

    features, codes = task.make()
    X, y = features[: task.rows], codes[: task.rows]
    labels = Labels(y, np.zeros_like(y), None)
    rows, scaler = prepare(X, labels, standardize=True)
    exact, _ = prepare(X.astype(np.float64), labels, standardize=True, memory=1 << 40)
    table = []
    for C in Cs:
        start = time.perf_counter()
        solution = solve(rows, LOGISTIC, [Problem(C, None)])[0]
        row = {"C": C, "seconds": time.perf_counter() - start, "passes": effort(rows, [solution]).passes}
        row["objective"] = _objective(exact, C, solution.weights.T, solution.intercept)
        z = scaler.apply(X)
        for tol in (1e-4, 1e-5, 1e-6, 1e-7):
            start = time.perf_counter()
            peer = LogisticRegression(C=C, max_iter=5000, tol=tol).fit(z, y)
            seconds = time.perf_counter() - start
            objective = _objective(exact, C, peer.coef_, peer.intercept_)
            if tol == 1e-4:
                row |= {"peer_seconds": seconds, "peer_objective": objective}
            if objective <= row["objective"] * (1 + EQUAL):
                row |= {"equal_seconds": seconds, "equal_tol": tol}
                break
            # scikit-learn has not reached featstore's objective. Record the time; if this fit was slow, do not try a
            # tighter tolerance, which would take longer.
            row["unequal_seconds"] = seconds
            if seconds > _PATIENCE:
                break
        table.append(row)
    return table


def _objective(rows: Any, C: float, coef: NDArray[Any], intercept: NDArray[Any]) -> float:
    point = np.column_stack([coef, np.atleast_1d(intercept)]).astype(np.float64)[None]
    return float(evaluate(rows, LOGISTIC, [Problem(C, None)], point).values[0])


def _rounds(
    task: Task, Cs: tuple[float, ...] | None, contenders: list[str], rounds: int, patience: float | None
) -> list[dict[str, Any]]:
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name in contenders:
            command = [sys.executable, "-m", "featstore.stages.bench.heads", "--child", name]
            command += ["--Cs", *map(str, Cs or _default_Cs(name))]
            for key, value in asdict(task).items():
                command += [f"--{key}", str(value)]
            ours = results.get(name.replace("sklearn", "featstore"), [])
            limit = patience * ours[-1]["seconds"] if patience and name.startswith("sklearn") and ours else None
            results[name].append(_run(name, command, limit))
    table = []
    for name, runs in results.items():
        median = statistics.median(run["seconds"] for run in runs)
        best = min(runs, key=lambda run: abs(run["seconds"] - median))
        table.append({"contender": name, **asdict(task), **best, "all_seconds": [run["seconds"] for run in runs]})
    return table


def _run(name: str, command: list[str], limit: float | None) -> dict[str, Any]:
    """Run the process of a contender and return its result; stop the process if the fit exceeds ``limit`` seconds."""
    # bufsize=0: a buffered readline() would read more than one line, and communicate() would not return the rest.
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0) as process:
        assert process.stdout is not None
        process.stdout.readline()  # the process prints a line when its data is ready and the fit begins
        started = time.perf_counter()
        try:
            said, errors = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            process.kill()
            return {"seconds": time.perf_counter() - started, "stopped": True}
    if process.returncode:
        raise SystemExit(f"{name} failed:\n{errors.decode(errors='replace')}")
    found: dict[str, Any] = json.loads(said)
    return found


def _line(row: dict[str, Any]) -> str:
    if "stopped" in row:
        return f"{row['difficulty']:<5} {row['classes']:>3} {row['contender']:<17} {row['seconds']:8.2f} s  stopped, not done"
    text = (
        f"{row['difficulty']:<5} {row['classes']:>3} {row['contender']:<17} {row['seconds']:8.2f} s  "
        f"accuracy {row['accuracy']:.4f}  C={row['C']:<7g} peak {row['peak_bytes'] / 2**30:.2f} GiB"
    )
    if "passes" in row:
        floor = max(row["memory_floor_seconds"], row["operations_floor_seconds"])
        text += f"  {row['passes']} passes, floor {floor:.2f} s, ratio {row['seconds'] / floor:.2f}"
    return text


def main(arguments: list[str] | None = None) -> None:
    """Run the comparison and print its table and verdicts; exit with 1 if a required value is missed.

    ``--json`` also writes the results to a file.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=25_000)
    parser.add_argument("--dimension", type=int, default=2048)
    parser.add_argument("--classes", type=int, nargs="+", default=[2, 10])
    parser.add_argument("--difficulty", nargs="+", choices=sorted(SETS), default=list(SETS))
    parser.add_argument("--folds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=defaults.SEED)
    parser.add_argument("--Cs", type=float, nargs="+", help="default: those of the heads")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument(
        "--patience", type=float, help="stop a peer after this many times our seconds; the ratio is then a lower bound"
    )
    parser.add_argument("--objectives", action="store_true", help="objective and seconds at each C, instead")
    parser.add_argument("--json", help="write the results to this file as well")
    parser.add_argument("--child", choices=CONTENDERS, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    Cs = tuple(options.Cs) if options.Cs else None
    results: list[dict[str, Any]] = []
    bounds: list[Verdict] = []
    for classes in options.classes:
        for difficulty in options.difficulty:
            task = Task(options.rows, options.dimension, classes, difficulty, options.folds, options.seed)
            if options.child:
                print(json.dumps(run_contender(options.child, task, Cs or _default_Cs(options.child))))
                return
            if options.objectives:
                found = [asdict(task) | row for row in compare_objectives(task, Cs or defaults.HEAD_CS)]
                lines = [
                    "  ".join(f"{key}={value:.6g}" for key, value in row.items() if isinstance(value, float))
                    for row in found
                ]
                reached = objective_verdicts(found)
            else:
                found = _rounds(task, Cs, options.contenders, options.rounds, options.patience)
                lines = [_line(row) for row in found]
                reached = fit_verdicts(found)
            print("\n".join(lines + [verdict.line() for verdict in reached]), flush=True)
            results += found
            bounds += reached
    if options.json:
        judged = [asdict(verdict) | {"holds": verdict.holds} for verdict in bounds]
        with open(options.json, "w") as file:
            json.dump({"results": results, "verdicts": judged}, file, indent=2)
    if not all(verdict.holds for verdict in bounds):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
