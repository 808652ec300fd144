"""featstore.list_backbones: the available backbones, and whether their weights are on this machine."""

from __future__ import annotations

from featstore.backbones import BackboneInfo, list_backbones

__all__ = ["BackboneInfo", "list_backbones"]
