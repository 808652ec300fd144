"""Compare the labels of ONNX and scikit-learn exports with those of the head, on every row of a store.

    python -m tests.slow.exports STORE [--json]

Trains every kind of head on STORE, exports it, and classifies all of its rows three times: by the head, loaded from its
file; by ONNX Runtime; and by the scikit-learn estimator, in a process that cannot import featstore. Prints how many
labels differ; the exit code is 1 if any label differs. The k-NN head has no export to scikit-learn.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnxruntime

from featstore.heads import HEADS, load_head
from featstore.heads.export import export_onnx, export_sklearn
from featstore.stages.train import train
from featstore.store import FeatureStore

_PLAIN = """
import sys
import numpy as np
import joblib
sys.modules["featstore"] = None
X = np.load(sys.argv[2], mmap_mode="r")
estimator = joblib.load(sys.argv[1])
np.save(sys.argv[3], estimator.predict(np.asarray(X, np.float32)).astype(str))
"""


def measure(store: Path, kind: str, place: Path) -> dict[str, Any]:
    """Train and export a head of ``kind``; return for each export how many rows get another label than from the
    head."""
    X = FeatureStore.open(store).features().astype(np.float32)
    head = load_head(Path(train(store, head=kind, out=place / f"{kind}.head").path))
    expected = head.predict(X)
    export_onnx(head, place / "head.onnx")
    session = onnxruntime.InferenceSession(place / "head.onnx", providers=["CPUExecutionProvider"])
    (labels,) = session.run(["label"], {"features": X})
    found = {"rows": len(X), "classes": len(head.classes), "onnx": int((labels.astype(str) != expected).sum())}
    if kind != "knn":
        export_sklearn(head, place / "head.joblib")
        np.save(place / "x.npy", X)
        paths = [str(place / name) for name in ("head.joblib", "x.npy", "labels.npy")]
        subprocess.run([sys.executable, "-c", _PLAIN, *paths], check=True)
        found["scikit-learn"] = int((np.load(place / "labels.npy") != expected).sum())
    return found


@click.command()
@click.argument("store", type=click.Path(exists=True, path_type=Path))
@click.option("--json", "as_json", is_flag=True)
def main(store: Path, as_json: bool) -> None:
    """Export every kind of head trained on STORE, and compare the labels of the exports on all rows."""
    with tempfile.TemporaryDirectory() as place:
        table = {kind: measure(store, kind, Path(place)) for kind in HEADS}
    if as_json:
        print(json.dumps(table, indent=2))
    else:
        for kind, found in table.items():
            for name in ("onnx", "scikit-learn"):
                if name in found:
                    print(f"{kind:<11} {name:<13} {found[name]} of {found['rows']:,} labels differ; none may")
    sys.exit(any(found.get(name, 0) for found in table.values() for name in ("onnx", "scikit-learn")))


if __name__ == "__main__":
    main()
