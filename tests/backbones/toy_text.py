"""A toy network with a picture tower and a text tower, whose vectors are colours."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from featstore.backbones import Backbone
from featstore.backbones.base import TextTower, digest
from featstore.decode import Preprocessing

COLOURS = {"red": (200, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 200), "yellow": (200, 200, 20)}


class MeanColour(nn.Module):
    """Return the mean colour of each picture: (n, 3, h, w) -> (n, 3)."""

    def forward(self, pictures: Tensor) -> Tensor:
        return pictures.mean((2, 3))


class Words(nn.Module):
    """Return (n, 3) for n texts: the sum of the colours that each text names."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.tensor(list(COLOURS.values())) / 255 - 0.5)

    def forward(self, texts: list[str]) -> Tensor:
        named = [[name in text for name in COLOURS] for text in texts]
        return torch.tensor(named, dtype=torch.float32) @ self.table + 1e-3


def colour_backbone() -> Backbone:
    """Return the toy network as a backbone; its digest covers the picture tower and the text tower."""
    towers = nn.ModuleDict({"pictures": MeanColour(), "texts": Words()}).eval().requires_grad_(False)
    preprocessing = Preprocessing(18, 16, mean=(0.5, 0.5, 0.5), std=(1.0, 1.0, 1.0))
    made = Backbone("colours", "output", 3, "mine", digest(towers), preprocessing, towers["pictures"])
    return replace(made, text=TextTower(towers["texts"], 20.0))
