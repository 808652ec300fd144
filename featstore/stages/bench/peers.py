"""Other libraries that ``featstore bench`` measures, each in its own process: img2vec-pytorch, and timm's DataLoader.

Each library is used as in its documentation, except that its network is untrained: this avoids downloads and does not
change the speed. A library is measured if it is installed: pip install 'image-featstore[bench]'.
"""

from __future__ import annotations

import os
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

WARM_PICTURES: Final = 8
_IMG2VEC: Final = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
"""Backbones that img2vec-pytorch also has, and from which it returns the same layer without additional pooling."""


def at_hand(backbone: str) -> list[str]:
    """Return the installed libraries that have ``backbone``: "img2vec", "timm"."""
    found = []
    if find_spec("img2vec_pytorch") is not None and backbone in _IMG2VEC:
        found.append("img2vec")
    if find_spec("timm") is not None:
        import timm

        found += ["timm"] if timm.is_model(backbone) else []
    return found


def img2vec(folder: str, *, backbone: str, device: str) -> dict[str, Any]:
    """Measure img2vec-pytorch (C. Safka) as its README uses it: one picture at a time through ``get_vec``."""
    import torchvision
    from img2vec_pytorch import Img2Vec
    from PIL import Image

    class Untrained(Img2Vec):  # type: ignore[misc]
        def _get_model_and_layer(self, model_name: str, layer: str) -> Any:
            model = getattr(torchvision.models, model_name)(weights=None)
            self.layer_output_size = self.RESNET_OUTPUT_SIZES[model_name]
            return model, model.avgpool

    embedder = Untrained(cuda=_on_cuda(device), model=backbone)
    files = sorted(Path(folder).iterdir())

    def vector(file: Path) -> Any:
        with Image.open(file) as image:
            return embedder.get_vec(image.convert("RGB"))

    for file in files[:WARM_PICTURES]:
        vector(file)
    started = time.perf_counter()
    found = [vector(file) for file in files]
    return {"rate": len(found) / (time.perf_counter() - started), "dimension": len(found[0])}


def timm_loop(folder: str, *, backbone: str, device: str, batch: int) -> dict[str, Any]:
    """Measure timm's model with its own transform and torch's DataLoader, one worker process per core."""
    import timm
    import torch
    from PIL import Image
    from torch.utils.data import DataLoader, Dataset

    model = timm.create_model(backbone, pretrained=False, num_classes=0).eval()
    where = torch.device("cuda" if _on_cuda(device) else "cpu")
    model = model.to(where)
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    files = sorted(Path(folder).iterdir())

    class Files(Dataset[Any]):
        def __len__(self) -> int:
            return len(files)

        def __getitem__(self, number: int) -> Any:
            with Image.open(files[number]) as image:
                return transform(image.convert("RGB"))

    def vectors() -> Any:
        loader = DataLoader(Files(), batch_size=batch, num_workers=os.cpu_count() or 1)
        with torch.inference_mode():
            return torch.cat([model(pictures.to(where)).cpu() for pictures in loader])

    with torch.inference_mode():
        model(torch.stack([Files()[number] for number in range(min(WARM_PICTURES, len(files)))]).to(where))
    started = time.perf_counter()
    found = vectors()
    return {"rate": len(found) / (time.perf_counter() - started), "dimension": int(found.shape[1])}


def _on_cuda(device: str) -> bool:
    from featstore.engines.shared import resolve_device

    return resolve_device(device).type == "cuda"
