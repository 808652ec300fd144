"""The functions that ``featstore bench`` measures, each in a process: pictures per second, without set-up time."""

from __future__ import annotations

import os
import tempfile
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from featstore.backbones import Backbone, load_backbone, own_function
from featstore.decode import decode as reference_decode
from featstore.decode import open_decoder
from featstore.embed.geometry import Geometry, GeometryKeywords
from featstore.engines import open_engine
from featstore.engines.base import Pending
from featstore.processes.malloc import keep_memory

Asked = GeometryKeywords | None
_WARM_PICTURES: Final = 8
_PRODUCT: Final = 2048
"""Number of rows and columns of the matrices that are multiplied on a CPU; on a GPU the number is four times as large.
"""
_PRODUCTS: Final = 15
UNTRAINED: Final = "random:0"


def at_hand(device: str, backbone: str) -> dict[str, Any]:
    """Return what can be measured on ``device``, as a dict.

    Keys: ``engines``, which run on the device; ``peers``, the other installed libraries that have ``backbone``;
    ``weights``, the name of the weights used by default; ``cores``; the device's name and versions of libraries.
    """
    from featstore.engines import compiled, openvino
    from featstore.engines.cuda import can_compile
    from featstore.engines.shared import resolve_device, versions
    from featstore.stages.bench import peers

    where = resolve_device(device)
    engines = ["torch", "torch-folded"]
    if where.type == "cuda":
        engines += ["compile"] if can_compile() else []
    else:
        engines += [] if compiled.lacking() else ["compile"]
        engines += ["openvino", "openvino-int8"] if openvino.available() else []
    return {
        "engines": engines,
        "peers": peers.at_hand(backbone),
        "weights": usual_weights(backbone) or f"those of {backbone}",
        "cores": os.cpu_count() or 1,
        **versions(where),
    }


def products(*, backbone: str, weights: str | None, device: str, geometry: Asked = None) -> dict[str, Any]:
    """Measure an upper bound of the rate: the network's operations at the speed of the fastest float32 matrix product.

    The matrices are multiplied by torch and, on a CPU, also by NumPy; the faster product counts. An engine close to
    this bound uses the full speed of the processor.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from featstore.engines.shared import exact_float32, resolve_device

    where = resolve_device(device)
    model = _load(backbone, weights, geometry)
    side = model.preprocessing.crop
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.module(torch.zeros(1, 3, side, side))
    operations = counter.get_total_flops()
    size = _PRODUCT if where.type == "cpu" else 4 * _PRODUCT
    matrices = [torch.rand(size, size, device=where) for _ in range(2)]
    ways: list[list[Any]] = [matrices] if where.type != "cpu" else [matrices, [each.numpy() for each in matrices]]
    best = 0.0
    with exact_float32(where):
        for left, right in ways * _PRODUCTS:
            started = time.perf_counter()
            product = left @ right
            float(product[0, 0])  # Read one value of the product: this waits until the device has computed it.
            best = max(best, 2 * size**3 / (time.perf_counter() - started))
    return {"rate": best / operations, "operations_per_second": best, "operations_per_picture": operations}


def forward(
    folder: str,
    *,
    backbone: str,
    weights: str | None,
    engine: str,
    device: str,
    precision: str,
    batch: int,
    geometry: Asked = None,
) -> dict[str, Any]:
    """Measure the network alone, on pictures that are already decoded in memory."""
    _as_the_command(engine)
    model = _load(backbone, weights, geometry)
    pictures = _decoded(_files(folder), model)
    opened = open_engine(model, engine=engine, device=device, precision=precision)
    # Warm up with a whole batch, because compiling engines compile for each new shape.
    opened(pictures[:batch])
    pending: deque[Pending] = deque()
    started = time.perf_counter()
    for start in range(0, len(pictures), batch):
        while len(pending) >= opened.in_flight:
            pending.popleft().result()
        pending.append(opened.submit(pictures[start : start + batch]))
    while pending:
        pending.popleft().result()
    seconds = time.perf_counter() - started
    return {"rate": len(pictures) / seconds, "engine": opened.name, "precision": opened.precision}


def decode(
    folder: str, *, backbone: str, weights: str | None, decoder: str, workers: int, geometry: Asked = None
) -> dict[str, Any]:
    """Measure decoding alone, in ``workers`` threads; the files are already in memory."""
    preprocessing = _load(backbone, weights, geometry).preprocessing
    run = open_decoder(decoder)
    data = [file.read_bytes() for file in _files(folder)]
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(lambda each: run(each, preprocessing), data[:_WARM_PICTURES]))
        started = time.perf_counter()
        for _ in pool.map(lambda each: run(each, preprocessing), data):
            pass
        seconds = time.perf_counter() - started
    return {"rate": len(data) / seconds, "decoder": decoder}


def end_to_end(
    folder: str,
    *,
    backbone: str,
    weights: str | None,
    engine: str,
    device: str,
    precision: str,
    batch: int,
    workers: int,
    decode: str,
    geometry: Asked = None,
) -> dict[str, Any]:
    """Measure an extraction into a temporary store, from reading the first picture until the store is on disk."""
    from featstore.embed.progress import Progress
    from featstore.stages.extract import extract

    _as_the_command(engine)
    begun: list[float] = []

    def tell(_: Progress) -> None:
        begun.append(time.perf_counter())

    with tempfile.TemporaryDirectory(prefix="featstore-bench-") as place:
        report = extract(
            folder,
            Path(place) / "store",
            backbone=_load(backbone, weights, geometry),
            engine=engine,
            device=device,
            precision=precision,
            decode=decode,
            batch=batch,
            workers=workers,
            supervised=False,
            progress=tell,
        )
        # Measure from the first progress message on, which comes before any picture is read.
        seconds = time.perf_counter() - begun[0]
    return {
        "rate": report.vectors / seconds,
        "vectors": report.vectors,
        "failures": report.failures,
        "timings": report.timings,
        "advice": report.advice,
    }


def tutorial(folder: str, *, backbone: str, weights: str | None, device: str, geometry: Asked = None) -> dict[str, Any]:
    """Measure the loop found in tutorials: Pillow, torchvision's transforms, a torch model, one picture at a time."""
    import torch
    from PIL import Image, ImageOps
    from torchvision import transforms

    from featstore.engines.shared import resolve_device

    where = resolve_device(device)
    model = _load(backbone, weights, geometry)
    network, steps = model.module.to(where), model.preprocessing
    side, interpolation = (steps.crop, steps.crop), transforms.InterpolationMode(steps.interpolation)
    fits: dict[str, list[Any]] = {
        "crop": [transforms.Resize(steps.resize, interpolation), transforms.CenterCrop(steps.crop)],
        "squash": [transforms.Resize(side, interpolation)],
        "pad": [transforms.Lambda(lambda image: ImageOps.pad(image, side, color=steps.fill))],
    }
    transform = transforms.Compose(
        [
            *fits[steps.fit],
            transforms.ToTensor(),
            transforms.Normalize(steps.mean, steps.std),
        ]
    )
    files = _files(folder)

    def features(file: Path) -> NDArray[np.float32]:
        with Image.open(file) as image, torch.inference_mode():
            found: NDArray[np.float32] = network(transform(image.convert("RGB"))[None].to(where))[0].cpu().numpy()
        return found

    for file in files[:_WARM_PICTURES]:
        features(file)
    started = time.perf_counter()
    found = [features(file) for file in files]
    return {"rate": len(found) / (time.perf_counter() - started)}


def _load(backbone: str, weights: str | None, geometry: Asked) -> Backbone:
    return Geometry(**(geometry or {})).apply(load_backbone(backbone, weights or usual_weights(backbone)))


def usual_weights(backbone: str) -> str | None:
    """Return the name of the backbone's untrained weights: they need no download and do not change the speed.

    Returns None for a user's own backbone function, which loads its own weights.
    """
    return None if own_function(backbone) is not None else UNTRAINED


def _as_the_command(engine: str) -> None:
    if engine.startswith(("torch", "compile")):
        keep_memory()


def _files(folder: str) -> list[Path]:
    return sorted(Path(folder).iterdir())


def _decoded(files: list[Path], model: Backbone) -> NDArray[np.uint8]:
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        return np.stack(list(pool.map(lambda file: reference_decode(file.read_bytes(), model.preprocessing), files)))
