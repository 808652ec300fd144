"""A backbone's network as an ONNX model."""

from __future__ import annotations

import io
import warnings
from typing import Any

import torch

from featstore.backbones.base import Backbone
from featstore.errors import UsageError

_LARGEST: int = (2 << 30) - (64 << 20)
"""Largest size of the weights in bytes: an ONNX file is a protobuf message, whose limit is 2 GiB."""


def to_onnx(backbone: Backbone, opset: int) -> Any:
    """Return the ONNX model of the network: ``input`` (n, 3, crop, crop) float32 to ``features`` (n, d).

    Raises UsageError if torch cannot export this network, or if the network is too large.
    """
    import onnx

    weights = sum(tensor.numel() * tensor.element_size() for tensor in backbone.module.state_dict().values())
    if weights > _LARGEST:
        raise UsageError(
            f"{backbone.name} has {weights / 2**30:.1f} GiB of weights, and an ONNX file holds less than 2 GiB; export the head "
            "alone with --features-only"
        )
    crop = backbone.preprocessing.crop
    # torch.onnx.export accepts a file object, although its type annotation does not say so.
    file: Any = io.BytesIO()
    with warnings.catch_warnings(), torch.inference_mode():
        # Use the older exporter (dynamo=False): it needs no further package, and older runtimes can load its graphs.
        warnings.simplefilter("ignore")
        try:
            torch.onnx.export(
                backbone.module,
                (torch.zeros(1, 3, crop, crop),),
                file,
                dynamo=False,
                input_names=["input"],
                output_names=["features"],
                dynamic_axes={"input": {0: "n"}, "features": {0: "n"}},
                opset_version=opset,
            )
        except Exception as error:
            reason = " ".join(str(error).split())[:160]
            raise UsageError(
                f"torch cannot write {backbone.name} as ONNX ({type(error).__name__}: {reason}); export the head alone with --features-only"
            ) from None
    return onnx.load_from_string(file.getvalue())
