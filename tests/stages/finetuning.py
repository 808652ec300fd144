"""Pictures, a store and a small network for tests of fine-tuning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors.numpy import load_file

from featstore.artifacts.model import load_model
from featstore.stages.finetune import FinetuneReport, finetune
from tests.chain import names, write_coloured
from tests.made import extract

NETWORK: dict[str, Any] = {"backbone": "squeezenet1_1", "weights": "random:0"}
SIDE = 32
FAST: dict[str, Any] = {"epochs": 2, "batch": 8, "workers": 1, "views": 1, "lr": 1e-3}


def write_store(place: Path, train: int = 8, held_out: int = 4, **network: Any) -> Path:
    """Write pictures of two classes in two splits below ``place``, and return their store."""
    folder = write_coloured(place / "pictures", names("train", train) + names("val", held_out))
    extract(folder, place / "s", size=SIDE, engine="torch", batch=8, **(network or NETWORK))
    return place / "s"


def tuned(store: Path, out: Path, **options: Any) -> FinetuneReport:
    """Fine-tune on ``store`` with few epochs."""
    return finetune(store, out, **{**FAST, **options})


def state_of(path: str | Path) -> dict[str, Any]:
    """Return the tensors of a model and its metrics without the times, for comparison bit for bit."""
    model = Path(path)
    tensors = {name: array.tobytes() for name, array in load_file(model / "weights.safetensors").items()}
    rows = [line.rpartition(",")[0] for line in (model / "metrics.csv").read_text().splitlines()]
    head = {name: array.tobytes() for name, array in load_model(model).head.model.arrays().items()}
    return {"tensors": tensors, "metrics": rows, "head": head}
