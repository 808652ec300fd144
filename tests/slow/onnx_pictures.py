"""Compare the predictions of an ONNX file (preprocessing, network and head) with those of featstore on real pictures.

    python -m tests.slow.onnx_pictures PICTURES [--count 200] [--backbone efficientnet_lite0]

PICTURES is a folder with a folder of pictures for each class. Extracts these pictures, trains a head, exports it with
``featstore export --onnx``, and runs the ONNX file on ``--count`` pictures, decoded by Pillow without featstore.
Required: the labels equal those of ``featstore predict``, and the probabilities differ by at most 1e-4; the exit code
is 1 otherwise.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import click
import numpy as np
import onnxruntime
from numpy.typing import NDArray
from PIL import Image, ImageOps

from featstore.stages.export import export
from featstore.stages.extract import extract
from featstore.stages.predict import predict
from featstore.stages.train import train
from featstore.store import FeatureStore

LARGEST = 1e-4


def decoded(path: Path) -> NDArray[np.uint8]:
    """Return the pixels (height, width, 3) of a picture, decoded without featstore."""
    with Image.open(path) as picture:
        return np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))


@click.command()
@click.argument("pictures", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--count", default=200, show_default=True)
@click.option("--backbone", default="efficientnet_lite0", show_default=True)
def main(pictures: Path, count: int, backbone: str) -> None:
    """Compare the predictions of the ONNX file with those of featstore; exit with 1 if a bound is missed.

    Print the largest difference of the probabilities and the number of labels that differ.
    """
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        extract(pictures, place / "s", backbone=backbone)
        trained = train(place / "s", out=place / "a.head")
        made = export(trained.path, to="onnx", out=place / "a.onnx")
        keys = list(FeatureStore.open(place / "s").keys)
        chosen = np.unique(np.linspace(0, len(keys) - 1, count).astype(int)).tolist()
        paths = [pictures / keys[at] for at in chosen]
        expected = list(predict(trained.path, paths, engine="torch"))
        session = onnxruntime.InferenceSession(str(place / "a.onnx"), providers=["CPUExecutionProvider"])
        differences, other = [], []
        for path, one in zip(paths, expected, strict=True):
            label, probabilities = session.run(["label", "probabilities"], {"pixels": decoded(path)})
            differences.append(float(np.abs(probabilities[0] - one.probabilities).max()))
            if str(label[0]) != one.label:
                other.append(path.name)
        print(
            f"{len(paths)} pictures, {backbone}, {len(trained.head.classes)} classes, accuracy {trained.report.accuracy.value:.3f}, "
            f"a file of {made.bytes / 2**20:.1f} MiB: {len(other)} other labels, probabilities differ by {max(differences):.1e} at most, "
            f"{np.median(differences):.1e} in the median"
        )
        sys.exit(0 if not other and max(differences) <= LARGEST else 1)


if __name__ == "__main__":
    main()
