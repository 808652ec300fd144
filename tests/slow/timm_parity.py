"""Compare the features of fourteen timm networks, with random weights, between featstore and timm.

    python -m tests.slow.timm_parity [--pictures FOLDER] [--only NAME...] [--engines NAME...]

timm writes the weights of each network into a safetensors file, which featstore loads. Required: featstore's features
differ from those of timm's own transform and forward pass by at most 0.001 standard deviations of the features over the
pictures; three controls (wrong normalisation, wrong interpolation, BGR pixels) exceed this bound; and the same file in
the cache of the Hugging Face hub, loaded by name, has the same digest. --engines: also compare these engines, such as
openvino, with plain torch. The exit code is 1 if a requirement is missed.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from featstore.backbones import Backbone, load_backbone
from featstore.decode import decode
from featstore.engines import describe_excess, measure_drift, open_engine
from featstore.engines.parity import EXACT, drift
from featstore.errors import FeatstoreError
from tests.backbones.timm_weights import put_into_hub_cache, reference, write_weights
from tests.engines.parity import plain_path, wrong_preprocessings
from tests.made import picture

NAMES = {
    "ViT with class token": "vit_tiny_patch16_224",
    "ViT with registers, without class token": "vit_little_patch16_reg1_gap_256",
    "ViT with registers and class token": "vit_small_patch14_reg4_dinov2",
    "DINOv2": "vit_small_patch14_dinov2",
    "SigLIP": "vit_base_patch16_siglip_224",
    "CLIP tower": "vit_base_patch32_clip_224",
    "ConvNeXt": "convnext_atto",
    "EfficientNet": "efficientnet_lite0",
    "MobileNetV4": "mobilenetv4_conv_small",
    "Swin": "swin_tiny_patch4_window7_224",
    "EVA": "eva02_tiny_patch14_224",
    "ResNet": "resnet18d",
    "RegNet": "regnety_002",
    "MaxViT": "maxvit_rmlp_pico_rw_256",
}
_LARGE = 400


def pictures_of(folder: str | None, count: int = 8) -> list[bytes]:
    """Return the content of ``count`` picture files: from ``folder``, or synthetic pictures of several shapes."""
    if folder is not None:
        paths = sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
        return [path.read_bytes() for path in paths[:: max(1, len(paths) // count)][:count]]
    files = []
    for seed in range(count):
        buffer = io.BytesIO()
        picture(seed, (300 + 37 * seed, 420 - 20 * seed)).save(buffer, "PNG")
        files.append(buffer.getvalue())
    return files


def compare(name: str, files: list[bytes], place: Path) -> tuple[Backbone, dict[str, float], bool]:
    """Return the backbone, its differences from timm's features, and whether loading from the hub's cache gives the
    same weights."""
    file = write_weights(name, place / "weights.safetensors")
    backbone = load_backbone(f"timm/{name}", str(file))
    # Use fewer pictures for networks with a large input: such networks take many seconds per picture.
    files = files[: 4 if backbone.preprocessing.crop > _LARGE else None]
    images = [ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB") for data in files]
    expected = np.stack(list(map(reference(name, file), images)))
    result = {"plain": drift(plain_path(backbone, files), expected)["greatest_difference"]}
    for wrong, preprocessing in wrong_preprocessings(backbone.preprocessing).items():
        if wrong != "resize":
            other = dataclasses.replace(backbone, preprocessing=preprocessing)
            result[wrong] = drift(plain_path(other, files), expected)["greatest_difference"]
    result["BGR"] = drift(plain_path(backbone, files, bgr=True), expected)["greatest_difference"]
    from huggingface_hub import constants

    constants.HF_HUB_CACHE, constants.HF_HUB_OFFLINE = str(place / "hub"), True
    put_into_hub_cache(place / "hub", backbone.name, file)
    return backbone, result, load_backbone(f"timm/{name}").weights_digest == backbone.weights_digest


def engines_of(backbone: Backbone, files: list[bytes], names: list[str]) -> list[tuple[str, str, bool]]:
    """Return for each engine (name, difference from plain torch or why the engine does not run, whether it passes)."""
    pixels = np.stack(
        [decode(data, backbone.preprocessing) for data in files[: 4 if backbone.preprocessing.crop > _LARGE else None]]
    )
    plain, found = open_engine(backbone, engine="torch", device="cpu"), []
    for name in names:
        try:
            engine = open_engine(backbone, engine=name, device="cpu")
            measured = measure_drift(engine, plain, pixels)
        except FeatstoreError as error:
            found.append((name, str(error), True))
            continue
        over = describe_excess(engine.precision, measured)
        told = f"{measured['greatest_difference']:.1e} greatest, {measured['rms_difference']:.1e} rms"
        found.append((name, told + (f": {over}" if over else ""), not over))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", metavar="FOLDER")
    parser.add_argument("--only", metavar="NAME", nargs="+", default=list(NAMES.values()))
    parser.add_argument("--engines", metavar="NAME", nargs="+", default=[])
    asked = parser.parse_args()
    files, good = pictures_of(asked.pictures), True
    print(f"{len(files)} pictures; greatest difference in standard deviations of the features, at most {EXACT} allowed")
    for kind, name in NAMES.items():
        if name not in asked.only:
            continue
        with tempfile.TemporaryDirectory() as place, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            backbone, result, same = compare(name, files, Path(place))
            right = result["plain"] <= EXACT and all(value > EXACT for key, value in result.items() if key != "plain")
            good &= right and same
            told = " ".join(f"{key} {value:.2e}" for key, value in result.items())
            print(
                f"{kind}: {backbone.name}, {backbone.dimension} of {backbone.preprocessing.crop} pixels: {told}; by name "
                f"{'the same' if same else 'ANOTHER'} digest; {'ok' if right else 'FAILS'}",
                flush=True,
            )
            for engine, told, right in engines_of(backbone, files, asked.engines):
                good &= right
                print(f"    {engine}: {told}", flush=True)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
