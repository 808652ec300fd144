"""Compare the plain torch engine with torchvision's own model and transforms, run on one image at a time.

    python -m tests.engines.parity FOLDER

Several backbones are compared on the first 100 pictures of FOLDER. The exit code is 0 only if all backbones agree with
torchvision, and deliberately wrong preprocessing (the controls: normalisation, BGR, resizing) does not.
"""

from __future__ import annotations

import dataclasses
import io
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torchvision import models, transforms

from featstore.backbones import Backbone, efficientnet_lite, load_backbone
from featstore.decode import Preprocessing, decode
from featstore.engines import open_engine
from featstore.engines.parity import EXACT, drift

Features = NDArray[np.float32]
BACKBONES = {
    **dict.fromkeys(("resnet50", "mobilenet_v2", "vgg16", "inception_v3", "efficientnet_b0"), "random:0"),
    "efficientnet_lite0": None,
}


def before_last_layer(network: torch.nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return a function that computes the input of the last linear layer of an unmodified network."""
    received: list[torch.Tensor] = []
    last = [module for module in network.modules() if isinstance(module, torch.nn.Linear)][-1]
    last.register_forward_pre_hook(lambda _, inputs: received.append(inputs[0]))

    def run(pictures: torch.Tensor) -> torch.Tensor:
        received.clear()
        with torch.inference_mode():
            network(pictures)
        return received[-1]

    return run


def torchvision_reference(name: str, seed: int = 0) -> Callable[[Image.Image], Features]:
    """Return a function that computes the features of a picture with torchvision's model and transforms alone."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        network = models.get_model(name, weights=None).eval()
    preset, run = models.get_model_weights(name).DEFAULT.transforms(), before_last_layer(network)
    return lambda image: run(preset(image)[None]).numpy()[0]


def lite_reference() -> Callable[[Image.Image], Features]:
    """Return a function that computes features with the package efficientnet-lite-pytorch instead of featstore."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from efficientnet_lite_pytorch import EfficientNet
    network = EfficientNet.from_name("efficientnet-lite0").eval()
    network.load_state_dict(torch.load(efficientnet_lite.LITE0.need_weights_file(), weights_only=True))
    preset = transforms.Compose(
        [
            transforms.Resize(256, transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(224),
            transforms.PILToTensor(),
            transforms.Lambda(lambda pixels: (pixels.float() - 127) / 128),
        ]
    )
    run = before_last_layer(network)
    return lambda image: run(preset(image)[None]).numpy()[0]


def reference_of(name: str) -> Callable[[Image.Image], Features]:
    """Return the reference function of the backbone ``name``; torchvision models have the weights random:0."""
    return lite_reference() if name == efficientnet_lite.LITE0.name else torchvision_reference(name)


def plain_path(backbone: Backbone, files: list[bytes], *, bgr: bool = False, batch: int = 8) -> Features:
    """Return the features (n, d) of picture files, computed by featstore's plain torch engine."""
    engine = open_engine(backbone, engine="torch", device="cpu")
    result = []
    for start in range(0, len(files), batch):
        pictures = np.stack([decode(data, backbone.preprocessing) for data in files[start : start + batch]])
        result.append(engine(np.ascontiguousarray(pictures[..., ::-1]) if bgr else pictures))
    return np.concatenate(result)


def wrong_preprocessings(right: Preprocessing) -> dict[str, Preprocessing]:
    """Return wrong preprocessings by name; the parity check must reject each of them."""
    imagenet = right.mean[0] == 0.485
    normalised = dataclasses.replace(right, mean=(0.5,) * 3, std=(0.5,) * 3) if imagenet else None
    return {
        "normalisation": normalised
        or dataclasses.replace(right, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
        "resize": dataclasses.replace(right, resize=right.resize + 8),
        "interpolation": dataclasses.replace(
            right, interpolation="bilinear" if right.interpolation == "bicubic" else "bicubic"
        ),
    }


def compare(name: str, weights: str | None, files: list[bytes], *, controls: bool = True) -> dict[str, float]:
    """Return the largest difference from the reference, in standard deviations, for the plain engine and each control.

    A control is the plain engine with deliberately wrong preprocessing.
    """
    backbone, reference = load_backbone(name, weights), reference_of(name)
    images = [ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB") for data in files]
    expected = np.stack([reference(image) for image in images])
    result = {"plain": drift(plain_path(backbone, files), expected)["greatest_difference"]}
    if controls:
        for wrong, preprocessing in wrong_preprocessings(backbone.preprocessing).items():
            other = dataclasses.replace(backbone, preprocessing=preprocessing)
            result[wrong] = drift(plain_path(other, files), expected)["greatest_difference"]
        result["BGR"] = drift(plain_path(backbone, files, bgr=True), expected)["greatest_difference"]
    return result


def agrees(result: dict[str, float]) -> bool:
    """Return whether the plain engine agrees with the reference, and no control (wrong preprocessing) does."""
    return result["plain"] <= EXACT and all(value > EXACT for name, value in result.items() if name != "plain")


def main(folder: str) -> int:
    paths = sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    files = [path.read_bytes() for path in paths[:: max(1, len(paths) // 100)][:100]]
    print(f"{len(files)} pictures; greatest difference in standard deviations of the features, at most {EXACT} allowed")
    good = True
    for name, weights in BACKBONES.items():
        result = compare(name, weights, files)
        good &= agrees(result)
        print(
            f"{name:20}",
            *(f"{key} {value:.2e}" for key, value in result.items()),
            "ok" if agrees(result) else "FAILS",
            flush=True,
        )
    return 0 if good else 1


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m tests.engines.parity FOLDER")
    sys.exit(main(sys.argv[1]))
