"""Measure how far features change if a faster engine or decoder is used, on real pictures with real weights.

    python -m tests.slow.drift PICTURES --store-dir DIR [--count 500]

PICTURES: folders train/ and test/ with a folder for each class. Writes three stores of EfficientNet-Lite0 features into
DIR: exact decoding with plain torch (the reference), the fast decoder, and int8. Existing stores are continued.
Compares features with the reference on ``count`` pictures, evenly chosen; differences are in standard deviations of the
features:

* the engines of precision fp32, on the same pixels, also for ResNet50 with random weights: largest difference at most
  1e-3. As controls, wrong normalisation and BGR pixels must exceed this bound;
* the fast decoder: at least 0.99 of the nearest neighbours are the same;
* int8: the test accuracy of a logistic regression is within 0.5 points of that of the reference;
* the three stores have different identities, so that their features cannot be mixed.

The exit code is 1 if a requirement is missed.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from featstore.backbones import load_backbone
from featstore.decode import decode
from featstore.engines import EXACT, Engine, drift, open_engine
from featstore.processes.malloc import keep_memory
from featstore.stages.train import train
from featstore.store import FeatureStore
from tests.made import extract

BACKBONE = "efficientnet_lite0"
ENGINES = ("torch-folded", "compile", "openvino")
STORES: dict[str, dict[str, Any]] = {
    "reference": {"engine": "torch"},
    "fast": {"decode": "fast"},
    "int8": {"engine": "openvino-int8"},
}
AGREEMENT, POINTS = 0.99, 0.005
BATCH = 32


def engines(backbone: str, weights: str | None, pictures: list[bytes]) -> dict[str, dict[str, float]]:
    """Return how far the features of each fp32 engine differ from those of plain torch on the same pixels.

    The result also has the difference of each control (wrong preprocessing).
    """
    model = load_backbone(backbone, weights)
    pixels = np.stack([decode(data, model.preprocessing) for data in pictures])
    plain = in_batches(open_engine(model, engine="torch", device="cpu"), pixels)
    found = {name: drift(in_batches(open_engine(model, engine=name, device="cpu"), pixels), plain) for name in ENGINES}
    few = pixels[:64]
    wrong = replace(model, preprocessing=replace(model.preprocessing, mean=(0.4,) * 3, std=(0.3,) * 3))
    other = open_engine(wrong, engine="openvino", device="cpu")
    found["control: normalisation"] = drift(in_batches(other, few), plain[:64])
    right = open_engine(model, engine="openvino", device="cpu")
    found["control: BGR"] = drift(in_batches(right, np.ascontiguousarray(few[..., ::-1])), plain[:64])
    return found


def in_batches(engine: Engine, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the features of all pictures, computed in batches."""
    return np.concatenate([engine(pixels[start : start + BATCH]) for start in range(0, len(pixels), BATCH)])


@click.command()
@click.argument("pictures", type=click.Path(exists=True, path_type=Path))
@click.option("--store-dir", type=click.Path(path_type=Path), required=True)
@click.option("--count", default=500, show_default=True)
def main(pictures: Path, store_dir: Path, count: int) -> None:
    """Measure the differences of features for every engine and print one JSON object; exit with 1 if a requirement is
    missed.
    """
    keep_memory()
    stores = {}
    for name, options in STORES.items():
        extract(pictures, store_dir / f"{name}.store", backbone=BACKBONE, **options)
        stores[name] = FeatureStore.open(store_dir / f"{name}.store")
    chosen = np.linspace(0, len(stores["reference"]) - 1, count).astype(np.intp)
    keys = [stores["reference"].keys[row] for row in chosen.tolist()]
    data = [(pictures / key).read_bytes() for key in keys]
    result: dict[str, Any] = {
        "engines": {
            f"{name}, {weights or 'its own weights'}": engines(name, weights, data)
            for name, weights in ((BACKBONE, None), ("resnet50", "random:0"))
        }
    }
    reference = stores["reference"].features()[chosen]
    for name in ("fast", "int8"):
        result[name] = drift(stores[name].features(rows=stores[name].index_of(keys)), reference)
    trained = {name: train(stores[name].path, out=store_dir / f"{name}.head") for name in ("reference", "int8")}
    result["head"] = {name: asdict(one.report.accuracy) for name, one in trained.items()}
    result["head"]["difference"] = trained["int8"].report.accuracy.value - trained["reference"].report.accuracy.value
    checks = {
        "exact engines": all(
            (one["greatest_difference"] <= EXACT) != name.startswith("control")
            for found in result["engines"].values()
            for name, one in found.items()
        ),
        "fast decoder": result["fast"]["neighbour_agreement"] >= AGREEMENT,
        "int8 head": abs(result["head"]["difference"]) <= POINTS,
        "never mixed": len({one.fingerprint for one in stores.values()}) == len(stores),
    }
    print(json.dumps({**result, "reached": checks}, indent=2))
    sys.exit(not all(checks.values()))


if __name__ == "__main__":
    main()
