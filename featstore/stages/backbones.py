"""featstore.list_backbones: the backbones there are, and whether their weights are at hand."""

from __future__ import annotations

from featstore.backbones import BackboneInfo, list_backbones

__all__ = ["BackboneInfo", "list_backbones"]
