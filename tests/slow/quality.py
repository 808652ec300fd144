"""Check accuracies on two data sets with real weights: ``python -m tests.slow.quality HYMENOPTERA DOGS --store-dir
DIR``.

HYMENOPTERA and DOGS: folders train/ and val/ (or test/) with a folder for each class. Missing stores are made in DIR.
Prints one JSON object: for each head the accuracy on the held-out pictures with its confidence interval, and
calibration error and log loss before and after temperature scaling. The exit code is 1 if an accuracy is below the
required one.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from featstore.indexes import leave_one_out_accuracy
from featstore.stages.train import train
from featstore.store import FeatureStore
from tests.made import extract

REQUIRED = {
    "hymenoptera": {"logreg": 0.94, "linear-svm": 0.93, "rbf-svm": 0.93, "leave-one-out": 0.94},
    "dogs-vs-cats": {"logreg": 0.985, "linear-svm": 0.98, "rbf-svm": 0.98, "leave-one-out": 0.98},
}


def measure(name: str, pictures: Path, directory: Path, backbone: str, batch: int) -> dict[str, Any]:
    """Return the accuracies of every head, and of the leave-one-out nearest neighbour, on one data set."""
    store = directory / f"{name}.store"
    extracted = extract(pictures, store, backbone=backbone, batch=batch)
    found: dict[str, Any] = {"images": extracted.images, "vectors": extracted.vectors, "failures": extracted.failures}
    for kind, required in REQUIRED[name].items():
        started = time.perf_counter()
        if kind == "leave-one-out":
            opened = FeatureStore.open(store)
            result = leave_one_out_accuracy(opened.features(), opened.labels.tolist())
            value, low, high, about = result.accuracy, result.low, result.high, {"queries": result.queries}
        else:
            trained = train(store, head=kind)
            accuracy = trained.report.accuracy
            value, low, high = accuracy.value, accuracy.low, accuracy.high
            about = {
                "rows": trained.report.rows,
                "held_out": trained.split.names[1],
                **trained.chosen,
                "calibration": trained.calibration,
            }
        found[kind] = {
            "accuracy": round(value, 4),
            "interval": [round(low, 4), round(high, 4)],
            "required": required,
            "reached": value >= required,
            "seconds": round(time.perf_counter() - started, 1),
            **about,
        }
    return found


def main() -> int:
    """Measure the accuracies of all heads on both data sets and print them as JSON; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("hymenoptera", type=Path)
    parser.add_argument("dogs", type=Path)
    parser.add_argument("--store-dir", type=Path, required=True)
    parser.add_argument("--backbone", default="efficientnet_lite0")
    parser.add_argument("--batch", type=int, default=8)
    options = parser.parse_args()
    table = {
        name: measure(name, pictures, options.store_dir, options.backbone, options.batch)
        for name, pictures in (("hymenoptera", options.hymenoptera), ("dogs-vs-cats", options.dogs))
    }
    print(json.dumps(table, indent=2))
    checks = [one["reached"] for found in table.values() for one in found.values() if isinstance(one, dict)]
    return 0 if all(checks) else 1


if __name__ == "__main__":
    sys.exit(main())
