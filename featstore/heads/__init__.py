"""Heads: classifiers on stored features. They take arrays or block iterators and know nothing of paths or stores.

Estimators (scikit-learn classifiers): LogisticHead, LinearSVMHead, KernelSVMHead, KNNHead. ``train_head`` makes a
TrainedHead, which predicts with numpy alone; ``save_head`` and ``load_head`` keep it in a file without pickle.
Everything is imported at its first use, so that importing this package costs nothing.
"""

from __future__ import annotations

import importlib
from typing import Any, Final

_HOMES: Final = {
    "KNNHead": "neighbours",
    "KernelSVMHead": "kernel",
    "LinearSVMHead": "linear",
    "LogisticHead": "linear",
    "DataError": "errors",
    "HEADS": "training",
    "train_head": "training",
    "TrainedHead": "headfile",
    "load_head": "headfile",
    "save_head": "headfile",
    "Report": "evaluation",
    "evaluate": "evaluation",
    "held_out": "splits",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
