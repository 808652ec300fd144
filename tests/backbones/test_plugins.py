"""Backbones from users' functions: loaded by name, checked, and never imported only because a file names them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from featstore.backbones import describe_backbone, list_backbones, load_backbone, load_recorded, plugins
from featstore.decode import Preprocessing
from featstore.errors import UsageError

NETWORKS = """
import torch
from torch import nn
from featstore.backbones import OwnBackbone
from featstore.decode import Preprocessing

SMALL = Preprocessing(18, 16)


def network(seed=0, *more):
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return nn.Sequential(nn.Conv2d(3, 5, 3, stride=2), nn.ReLU(), *more, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def good():
    return OwnBackbone(network(), SMALL, "my-net")

def as_a_tuple():
    return network(), SMALL, "my-net"

def raises():
    return 1 / 0

def leaves():
    raise SystemExit(3)

def needs(argument):
    return argument

def nothing():
    pass

def no_preprocessing():
    return network(), (224, 256), "my-net"

def odd_name():
    return network(), SMALL, "My net\\n"

def another_name():
    return network(), SMALL, "resnet18"

def not_a_number():
    made = network()
    made[0].weight[0] = float("nan")
    return made, SMALL, "my-net"

def wrong_shape():
    return nn.Conv2d(3, 4, 3), SMALL, "my-net"

class Fails(nn.Module):
    def forward(self, x):
        raise RuntimeError("no such\\nlayer")

class Squeezes(nn.Module):
    def forward(self, x):
        return x.mean((2, 3)).squeeze()

def squeezes():
    return Squeezes(), SMALL, "my-net"

class Empty(nn.Module):
    def forward(self, x):
        return x[:, :0, 0, 0]

def empty():
    return Empty(), SMALL, "my-net"

class OwnLine(nn.Module):
    def forward(self, x):
        return torch.zeros(2, 3) @ x.mean((2, 3))

def own_line():
    return OwnLine(), SMALL, "my-net"

def fails():
    return Fails(), SMALL, "my-net"

class Random(nn.Module):
    def forward(self, x):
        return x.mean((2, 3)) + torch.rand(len(x), 3)

def at_random():
    return Random(), SMALL, "my-net"

class Counts(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(1))
    def forward(self, x):
        self.seen += 1
        return x.mean((2, 3))

def counts():
    return Counts(), SMALL, "my-net"

here = 3
"""


@pytest.fixture
def networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Make the modules my_networks, my_broken and my_wrong importable; remove them from sys.modules afterwards."""
    (tmp_path / "my_networks.py").write_text(NETWORKS.replace("made[0].weight[0]", "made[0].weight.data[0]"))
    (tmp_path / "my_broken.py").write_text("import a_package_that_is_missing")
    (tmp_path / "my_wrong.py").write_text("value = {}[1]")
    monkeypatch.syspath_prepend(os.fspath(tmp_path))
    yield tmp_path
    for name in ("my_networks", "my_broken", "my_wrong"):
        sys.modules.pop(name, None)


def test_function_of_the_user_is_loaded_as_a_backbone(networks: Path) -> None:
    backbone = load_backbone("my_networks:good")
    assert (backbone.name, backbone.layer, backbone.dimension) == ("my-net", "output", 5)
    assert (backbone.weights, backbone.preprocessing) == ("my_networks:good", Preprocessing(18, 16))
    assert not backbone.module.training
    assert backbone.module(torch.zeros(2, 3, 16, 16)).shape == (2, 5)
    assert load_backbone("my_networks:as_a_tuple").weights_digest == backbone.weights_digest
    assert describe_backbone("my_networks:good").dimension == 5


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("my_networks:raises", "ZeroDivisionError: division by zero (line "),
        ("my_networks:leaves", "SystemExit: 3"),
        ("my_networks:needs", "called without arguments"),
        ("my_networks:nothing", "returned a NoneType, where featstore.backbones.OwnBackbone"),
        ("my_networks:no_preprocessing", "its preprocessing is a tuple; return a Preprocessing"),
        ("my_networks:odd_name", "use lower-case letters"),
        ("my_networks:another_name", "is called resnet18, as another backbone is"),
        ("my_networks:not_a_number", "hold NaN or infinity in 0.weight"),
        ("my_networks:wrong_shape", "returns (2, 4, 14, 14) for 2 pictures"),
        (
            "my_networks:squeezes",
            "returns (3,) for 1 picture; return floats of shape (n, d), of the same d for every n",
        ),
        ("my_networks:empty", "returns (2, 0) for 2 pictures"),
        ("my_networks:own_line", "my_networks.py); correct it"),
        ("my_networks:fails", "fails on pictures of 16 x 16 pixels: RuntimeError: no such layer"),
        ("my_networks:at_random", "other features for the same pictures"),
        ("my_networks:counts", "changes its weights or buffers"),
        ("my_networks:absent", "the module has no absent"),
        ("my_networks:here", "is a int, not a function"),
        ("my_absent:good", "there is no module my_absent; install its package, or put its folder into PYTHONPATH"),
        ("my_networks.inner:good", "there is no module my_networks.inner"),
        ("my_broken:good", "a_package_that_is_missing"),
        ("my_wrong:good", "KeyError: 1 (line 1 of "),
    ],
)
def test_functions_that_are_no_backbones_are_refused_with_a_one_line_error(
    networks: Path, spec: str, words: str
) -> None:
    with pytest.raises(UsageError) as error:
        load_backbone(spec)
    assert words in str(error.value)
    assert str(error.value).startswith(spec)
    assert "\n" not in str(error.value)


def test_option_weights_is_rejected_for_a_backbone_function_of_the_user(networks: Path) -> None:
    with pytest.raises(UsageError, match="leave --weights out"):
        load_backbone("my_networks:good", "random:0")


@pytest.mark.parametrize(
    "name", ["my_networks:good", "my-entry", "os:system", "timm/hf-hub:some/one", "../my_networks"]
)
def test_a_module_named_in_a_file_is_never_imported(networks: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(plugins, "installed", lambda: {"my-entry": "my_networks:good"})
    with pytest.raises(UsageError):
        load_recorded(name, None)
    assert "my_networks" not in sys.modules


def test_entry_point_backbones_are_listed_without_being_imported_and_can_be_loaded_by_name(
    networks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = networks / "my_networks-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-networks\nVersion: 1\n")
    points = ("my-entry = my_networks:good", "resnet50 = my_networks:good", "odd = my_networks:good [extra]; x")
    (info / "entry_points.txt").write_text("\n".join(["[featstore.backbones]", *points]))
    listed = {one.name: one for one in list_backbones()}
    assert (listed["my-entry"].source, listed["my-entry"].weights) == ("own", "my_networks:good")
    assert listed["resnet50"].source == "torchvision"
    assert "odd" not in listed
    assert "my_networks" not in sys.modules
    assert load_backbone("my-entry").weights == "my_networks:good"
    assert load_backbone("resnet18", "random:0").weights == "random:0"
