"""Random weights for models of timm, in a file or in the Hub's cache, and reference features computed by timm alone."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save_file


def drawn(model: Any, seed: int = 0) -> Any:
    """Randomise the weights of ``model``: with timm's initial values near 0, features would hardly depend on the
    picture.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                noise = torch.rand(parameter.shape, generator=generator)
                around = 1.0 if float(parameter.abs().mean()) > 0 else 0.0
                parameter.copy_(around + 0.2 * (noise - 0.5))
            elif parameter.ndim > 1:
                parameter.add_(0.01 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def make(name: str, **options: Any) -> Any:
    """Return a model of timm with random initial weights; timm's warnings are ignored."""
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        import timm

        torch.default_generator.manual_seed(0)
        return timm.create_model(name, pretrained=False, **options)


def write_weights(name: str, file: Path, seed: int = 0) -> Path:
    """Write random weights, including the classifier, to a safetensors file like those that timm publishes."""
    state = drawn(make(name), seed).state_dict()
    save_file({key: value.contiguous().clone() for key, value in state.items()}, file)
    return file


def put_into_hub_cache(cache: Path, repository: str, file: Path) -> None:
    """Put ``file`` into a cache of the Hugging Face Hub, as huggingface_hub does after a download."""
    place, revision = cache / f"models--{repository.replace('/', '--')}", "0" * 40
    (place / "refs").mkdir(parents=True)
    (place / "refs/main").write_text(revision)
    (place / "snapshots" / revision).mkdir(parents=True)
    (place / "snapshots" / revision / "model.safetensors").symlink_to(file.resolve())


def reference(name: str, file: Path, **options: Any) -> Callable[[Image.Image], NDArray[np.float32]]:
    """Return a function that computes the vector of a picture with timm alone, with the weights in ``file``."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import timm

        overlay = {"file": str(file), "hf_hub_id": None, "url": None, "custom_load": False}
        model = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, num_classes=0, **options)
        transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    model.eval()

    def run(image: Image.Image) -> NDArray[np.float32]:
        with torch.inference_mode():
            vector: NDArray[np.float32] = model(transform(image)[None]).numpy()[0]
        return vector

    return run
