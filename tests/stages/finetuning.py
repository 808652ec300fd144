"""Pictures, a store and a small network for tests of fine-tuning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from featstore.stages.finetune import FinetuneReport, finetune
from tests.chain import names, write_coloured
from tests.made import extract

NETWORK: dict[str, Any] = {"backbone": "shufflenet_v2_x0_5", "weights": "random:0"}
SIDE = 32
FAST: dict[str, Any] = {"epochs": 2, "batch": 8, "workers": 1, "views": 1, "lr": 1e-3}


def write_store(place: Path, split: str = "train", train: int = 8, held_out: int = 4) -> Path:
    """Write pictures of two classes in two splits below ``place``, and return their store."""
    folder = write_coloured(place / "pictures", names(split, train) + names("val", held_out))
    extract(folder, place / "s", size=SIDE, engine="torch", batch=8, **NETWORK)
    return place / "s"


def tuned(store: Path, out: Path, **options: Any) -> FinetuneReport:
    """Fine-tune on ``store`` with few epochs."""
    return finetune(store, out, **{**FAST, **options})
