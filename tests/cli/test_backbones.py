"""Tests of the command ``featstore backbones``."""

from __future__ import annotations

import pytest

from tests.cli.running import run, run_json


@pytest.mark.slow
def test_all_backbones_are_listed_with_their_properties():
    found = {entry["name"]: entry for entry in run_json("backbones")}
    assert found["resnet50"]["dimension"] == 2048
    assert found["efficientnet_lite0"]["at_hand"] is True
    assert "resnet50" in run("backbones").stdout


@pytest.mark.slow
def test_backbones_command_with_a_full_name_describes_the_backbone():
    told = run_json("backbones", "resnet18")
    assert (told["name"], told["dimension"], told["input_size"]) == ("resnet18", 512, 224)
    found = {entry["name"]: entry for entry in told["layers"]}
    assert found["layer3"] == {"name": "layer3", "kind": "Sequential", "shape": [256, 14, 14], "channels_last": False}
    assert "did you mean resnet18" in run("backbones", "resnet81", code=2).stderr


@pytest.mark.slow
def test_backbones_command_with_part_of_a_name_lists_the_matching_backbones():
    names = [entry["name"] for entry in run_json("backbones", "efficientnet_lite")]
    assert all("efficientnet_lite" in name for name in names)
    # If timm is installed, the command also lists the timm models whose names match.
    own = [name for name in names if not name.startswith("timm/")]
    assert own == [f"efficientnet_lite{number}" for number in range(3)]
