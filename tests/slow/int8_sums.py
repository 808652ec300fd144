"""Compare int8 features computed with each instruction set of this processor, with exact sums, and with fp32.

    python -m tests.slow.int8_sums PICTURES [--count 400]

PICTURES: photographs in a folder for each class. EfficientNet-Lite0 with its published weights runs on the same pixels

* with OpenVINO in fp32 and with openvino-int8, in one process per instruction set (see instruction_sets.py);
* with openvino-int8 whose quantised graph OpenVINO computes in float32 (``LP_TRANSFORMS_MODE`` off). These exact sums
  never saturate, like those of VNNI instructions.

Prints the share of common nearest neighbours, cosines, root mean square differences in standard deviations, pictures
per processor second, and accuracies of logistic regressions that are trained on every second picture and tested on the
others: on fp32 features, and on int8 features, also trained with one instruction set and tested with another one.
Differences of accuracy are paired by picture and have a standard error.

The exit code is 1 if two int8 results have fewer than 0.8 of the nearest neighbours in common, if int8 features exceed
the bound of their precision class, or if the accuracy on int8 is lower than on fp32 by more than one point plus two
standard errors.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from featstore.backbones import load_backbone
from featstore.decode import decode
from featstore.embed.embedder import inputs_of
from featstore.engines import drift, open_engine, openvino
from featstore.engines.int8 import PRECISION, has_8_bit_sums
from featstore.engines.parity import describe_excess
from featstore.heads import LogisticHead
from featstore.sources.reading import read_picture
from tests.slow.instruction_sets import InstructionSet, of_this_processor, switches

BACKBONE, AGREEMENT, POINTS, BATCH = "efficientnet_lite0", 0.8, 0.01, 32
ENGINES = {"fp32": "openvino", "int8": "openvino-int8"}
TOLD = ("neighbour_agreement", "cosine_min", "rms_difference", "greatest_difference")
Features = NDArray[np.float32]


def features(engine: Any, pixels: NDArray[np.uint8]) -> tuple[Features, float]:
    """Return the features (n, d), and the pictures per processor second after a first batch to warm up."""
    engine(pixels[:BATCH])
    started = time.process_time()
    found = np.concatenate([engine(pixels[start : start + BATCH]) for start in range(0, len(pixels), BATCH)])
    return found, len(pixels) / (time.process_time() - started)


def summed_exactly(model: Any) -> Any:
    """Return an int8 engine whose quantised graph OpenVINO computes in float32, so that sums are exact."""
    configuration = openvino._configuration
    openvino._configuration = lambda precision: {**configuration(precision), "LP_TRANSFORMS_MODE": "NO"}
    try:
        return open_engine(model, engine="openvino-int8", device="cpu")
    finally:
        openvino._configuration = configuration


def save_features(folder: str) -> None:
    """Compute the features of ``folder``/pixels.npy in this process, save them in ``folder``, and print speed and
    kernels."""
    model, pixels = load_backbone(BACKBONE), np.load(Path(folder) / "pixels.npy")
    told: dict[str, Any] = {"8-bit sums in one instruction": has_8_bit_sums()}
    for name, engine_name in ENGINES.items():
        engine = open_engine(model, engine=engine_name, device="cpu")
        found, rate = features(engine, pixels)
        np.save(Path(folder) / f"{name}.npy", found)
        told[name] = {"pictures a processor second": rate, "kernels": engine.provenance()["instruction_set"]}
    print(json.dumps(told))


def under(chosen: InstructionSet | None, folder: Path) -> tuple[dict[str, Features], dict[str, Any]]:
    """Run ``save_features`` in a process that is limited to the instruction set ``chosen`` (None: no limit).

    Return the features, and the JSON object that the process printed.
    """
    code = "import sys; from tests.slow.int8_sums import save_features; save_features(sys.argv[1])"
    command = [sys.executable, "-c", code, str(folder)]
    done = subprocess.run(command, env=switches(chosen), stdout=subprocess.PIPE, text=True, check=True)
    return {name: np.load(folder / f"{name}.npy") for name in ENGINES}, json.loads(done.stdout.splitlines()[-1])


def hits(trained_on: Features, tried_on: Features, labels: NDArray[np.str_]) -> NDArray[np.bool_]:
    """Train a logistic regression on the even rows of ``trained_on``; return for each odd row of ``tried_on`` whether
    the predicted label is right."""
    head = LogisticHead(calibrate=False).fit(trained_on[::2], labels[::2])
    right: NDArray[np.bool_] = head.predict(tried_on[1::2]) == labels[1::2]
    return right


def accuracy(right: NDArray[np.bool_], reference: NDArray[np.bool_]) -> dict[str, float]:
    """Return the accuracy of predictions and its difference from that of reference predictions, with standard errors.

    ``right``, ``reference``: for each picture, whether the predicted label is right.
    """
    differences = right.astype(float) - reference
    return {
        "accuracy": float(right.mean()),
        "standard_error": float(right.std() / math.sqrt(len(right))),
        "difference": float(differences.mean()),
        "standard_error_of_difference": float(differences.std() / math.sqrt(len(right))),
    }


def read(pictures: Path, count: int, model: Any) -> tuple[NDArray[np.uint8], NDArray[np.str_]]:
    """Return the pixels and classes (names of the folders) of ``count`` pictures, evenly chosen from all pictures."""
    found = list(inputs_of([pictures]))
    chosen = [found[at] for at in np.linspace(0, len(found) - 1, min(count, len(found))).astype(int)]
    data = (read_picture(one.root, one.location, one.offset, one.size, limit=1 << 28).data for one in chosen)
    pixels = np.stack([decode(each, model.preprocessing) for each in data])
    return pixels, np.array([Path(os.fsdecode(one.location)).parent.name for one in chosen])


@click.command()
@click.argument("pictures", type=click.Path(exists=True, path_type=Path))
@click.option("--count", default=400, show_default=True)
def main(pictures: Path, count: int) -> None:
    """Compare int8 features between the instruction sets. Print one JSON object; exit with 1 if a bound is missed."""
    model = load_backbone(BACKBONE)
    pixels, labels = read(pictures, count, model)
    int8: dict[str, Features] = {}
    told: dict[str, Any] = {}
    has = of_this_processor()
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "pixels.npy", pixels)
        for chosen in [*has[:-1], None]:
            name = chosen.name if chosen else "as it is"
            found, told[name] = under(chosen, Path(folder))
            int8[name] = found["int8"]
            click.echo(f"{name}: {told[name]}", err=True)
    fp32 = found["fp32"]
    everything = {**int8, "exact sums": features(summed_exactly(model), pixels)[0]}
    pairs = {
        f"{one}, {other}": (everything[one], everything[other]) for one, other in itertools.combinations(everything, 2)
    }
    between = {
        name: {"bit-identical": np.array_equal(*pair)} | {key: drift(*pair)[key] for key in TOLD}
        for name, pair in pairs.items()
    }
    reference = hits(fp32, fp32, labels)
    heads = {"fp32": accuracy(reference, reference)}
    for one, other in itertools.product(int8, repeat=2):
        name = one if one == other else f"trained on {one}, tried on {other}"
        heads[name] = accuracy(hits(int8[one], int8[other], labels), reference)
    checks = {
        "arithmetics agree": all(each["neighbour_agreement"] >= AGREEMENT for each in between.values()),
        "within the class": not any(describe_excess(PRECISION, drift(each, fp32)) for each in int8.values()),
        "heads": all(
            each["difference"] + 2 * each["standard_error_of_difference"] >= -POINTS for each in heads.values()
        ),
    }
    result = {
        "pictures": len(pixels),
        "newest instruction set": has[-1].name if has else "not told",
        "engines": told,
        "int8 against fp32": {name: {key: drift(each, fp32)[key] for key in TOLD} for name, each in everything.items()},
        "int8 of two arithmetics": between,
        "heads": heads,
    }
    print(json.dumps({**result, "reached": checks}, indent=2))
    sys.exit(not all(checks.values()))


if __name__ == "__main__":
    main()
