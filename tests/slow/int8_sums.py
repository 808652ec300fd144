"""Compare int8 features of this processor with the same quantised network summed exactly, and with fp32.

    python -m tests.slow.int8_sums PICTURES [--count 128]

PICTURES: a folder of photographs. Three engines run EfficientNet-Lite0 with its real weights on the same pixels:
OpenVINO in fp32, openvino-int8 with this processor's integer kernels, and openvino-int8 with its graph left in float32
(``LP_TRANSFORMS_MODE`` off), which sums the same quantised values without any saturation, as VNNI does. Prints the
agreement of nearest neighbours, cosines, the root mean square difference in standard deviations, and pictures per
second. On a processor with VNNI int8 is also computed without it, in a process in which oneDNN is limited to AVX2.
Exits with 1 if two of them agree on less than 0.8 of the nearest neighbours, or if int8 exceeds the bound of its class.
"""

from __future__ import annotations

import json
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
from featstore.sources.reading import read_picture
from tests.slow.instruction_sets import SETS, switches

BACKBONE, AGREEMENT, BATCH = "efficientnet_lite0", 0.8, 32
TOLD = ("neighbour_agreement", "cosine_min", "rms_difference", "greatest_difference")


def features(engine: Any, pixels: NDArray[np.uint8]) -> tuple[NDArray[np.float32], float]:
    """Return the features (n, d) and the pictures per second, without start-up."""
    engine(pixels[:BATCH])
    started = time.perf_counter()
    found = np.concatenate([engine(pixels[start : start + BATCH]) for start in range(0, len(pixels), BATCH)])
    return found, len(pixels) / (time.perf_counter() - started)


def summed_exactly(model: Any) -> Any:
    """Return the int8 engine whose graph OpenVINO runs in float32."""
    configuration = openvino._configuration
    openvino._configuration = lambda precision: {**configuration(precision), "LP_TRANSFORMS_MODE": "NO"}
    try:
        return open_engine(model, engine="openvino-int8", device="cpu")
    finally:
        openvino._configuration = configuration


def without_vnni(pixels: NDArray[np.uint8]) -> tuple[NDArray[np.float32], float]:
    """Return the int8 features and the pictures per second of a process in which oneDNN is limited to AVX2."""
    avx2 = next(each for each in SETS if each.name == "avx2")
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        np.save(place / "pixels.npy", pixels)
        code = (
            "import sys, numpy as np; from tests.slow.int8_sums import *; model = load_backbone(BACKBONE); "
            "assert not has_8_bit_sums(); engine = open_engine(model, engine='openvino-int8', device='cpu'); "
            "found, rate = features(engine, np.load(sys.argv[1] + '/pixels.npy')); "
            "np.save(sys.argv[1] + '/features.npy', found); print(rate)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, folder], env=switches(avx2), stdout=subprocess.PIPE, text=True, check=True
        )
        return np.load(place / "features.npy"), float(done.stdout.splitlines()[-1])


@click.command()
@click.argument("pictures", type=click.Path(exists=True, path_type=Path))
@click.option("--count", default=128, show_default=True)
def main(pictures: Path, count: int) -> None:
    """Measure, print one JSON object, and exit with 1 if a bound is missed."""
    model = load_backbone(BACKBONE)
    found = list(inputs_of([pictures]))
    chosen = [found[at] for at in np.linspace(0, len(found) - 1, min(count, len(found))).astype(int)]
    data = (read_picture(one.root, one.location, one.offset, one.size, limit=1 << 28).data for one in chosen)
    pixels = np.stack([decode(each, model.preprocessing) for each in data])
    fp32, fp32_rate = features(open_engine(model, engine="openvino", device="cpu"), pixels)
    int8, int8_rate = features(open_engine(model, engine="openvino-int8", device="cpu"), pixels)
    exact, _ = features(summed_exactly(model), pixels)
    result: dict[str, Any] = {
        "pictures": len(pixels),
        "8-bit sums in one instruction": has_8_bit_sums(),
        "int8 against exact sums": {name: drift(int8, exact)[name] for name in TOLD},
        "int8 against fp32": {name: drift(int8, fp32)[name] for name in TOLD},
        "pictures a second": {"fp32": fp32_rate, "int8": int8_rate, "ratio": int8_rate / fp32_rate},
    }
    agreements = [drift(int8, exact)["neighbour_agreement"]]
    if has_8_bit_sums():
        older, older_rate = without_vnni(pixels)
        result["int8 with and without VNNI"] = {name: drift(older, int8)[name] for name in TOLD}
        result["int8 without VNNI against fp32"] = {name: drift(older, fp32)[name] for name in TOLD}
        result["int8 without VNNI, pictures a second"] = older_rate
        agreements.append(drift(older, int8)["neighbour_agreement"])
    checks = {
        "arithmetics agree": min(agreements) >= AGREEMENT,
        "within the class": not describe_excess(PRECISION, drift(int8, fp32)),
    }
    print(json.dumps({**result, "reached": checks}, indent=2))
    sys.exit(not all(checks.values()))


if __name__ == "__main__":
    main()
