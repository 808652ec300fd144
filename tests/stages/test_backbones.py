"""featstore.list_backbones: names, dimensions, and whether weights are available offline."""

from __future__ import annotations

from featstore.stages.backbones import list_backbones


def test_default_and_bundled_backbones_are_listed_once():
    found = {info.name: info for info in list_backbones()}
    assert len(found) == len(list_backbones())
    assert found["resnet50"].dimension == 2048
    assert (found["efficientnet_lite0"].dimension, found["efficientnet_lite0"].at_hand) == (1280, True)
