"""Heads: classifiers on feature vectors, given as arrays or block by block (see solvers/blocks.py).

Estimators (scikit-learn classifiers): LogisticHead, LinearSVMHead, KernelSVMHead, KNNHead, MLPHead, OneVsRestHead; a regressor: RidgeHead. ``train_head``
returns a TrainedHead, which predicts with numpy alone; ``save_head`` and ``load_head`` store it in a file without pickle. Names
are imported lazily, so that importing this package is fast.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from featstore.heads.estimators.kernel import KernelSVMHead
    from featstore.heads.estimators.linear import LinearSVMHead, LogisticHead
    from featstore.heads.estimators.mlp import MLPHead
    from featstore.heads.estimators.neighbours import KNNHead
    from featstore.heads.estimators.one_vs_rest import OneVsRestHead
    from featstore.heads.estimators.ridge import RidgeHead
    from featstore.heads.evaluation.report import Report, evaluate
    from featstore.heads.headfile import TrainedHead, load_head, save_head
    from featstore.heads.trainer import HEADS, train_head

_HOMES: Final = {
    "KNNHead": "estimators.neighbours",
    "KernelSVMHead": "estimators.kernel",
    "LinearSVMHead": "estimators.linear",
    "LogisticHead": "estimators.linear",
    "MLPHead": "estimators.mlp",
    "OneVsRestHead": "estimators.one_vs_rest",
    "RidgeHead": "estimators.ridge",
    "HEADS": "trainer",
    "train_head": "trainer",
    "TrainedHead": "headfile",
    "load_head": "headfile",
    "save_head": "headfile",
    "Report": "evaluation.report",
    "evaluate": "evaluation.report",
}

__all__ = [
    "HEADS",
    "KNNHead",
    "KernelSVMHead",
    "LinearSVMHead",
    "LogisticHead",
    "MLPHead",
    "OneVsRestHead",
    "Report",
    "RidgeHead",
    "TrainedHead",
    "evaluate",
    "load_head",
    "save_head",
    "train_head",
]


if not TYPE_CHECKING:
    # Type checkers must not see this function, because with it they would accept any name. They read the imports above.

    def __getattr__(name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
