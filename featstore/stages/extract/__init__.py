"""Extraction: the stage from a source of pictures to a store, the pipeline that drives it, and its supervision.

Nothing heavy is imported until a name is used: the supervisor of an extraction needs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from featstore.stages.extract.report import ExtractReport
    from featstore.stages.extract.stage import extract
    from featstore.stages.extract.supervisor import extract_supervised

_HOMES = {
    "ExtractReport": "report",
    "extract": "stage",
    "extract_supervised": "supervisor",
}

__all__ = ["ExtractReport", "extract", "extract_supervised"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
