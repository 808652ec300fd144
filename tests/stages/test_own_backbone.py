"""All commands with a backbone from the user's own module, and untrusted files that name such a module."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from featstore.backbones import load_backbone
from featstore.embed.recipe import reopen
from featstore.errors import FeatstoreError, IdentityError, UsageError
from featstore.stages.export import export
from featstore.stages.extract import extract
from featstore.stages.index import index
from featstore.stages.predict import predict
from featstore.stages.repair import repair
from featstore.stages.search import search
from featstore.stages.train import train
from featstore.store import FeatureStore, Identity
from tests.chain import names, write_coloured
from tests.cli.running import run_json
from tests.made import extract as extract_here
from tests.made import tiny_backbone

NETWORKS = """
from pathlib import Path

Path(__file__).with_name("was-imported").touch()

import torch
from torch import nn
from featstore.backbones import OwnBackbone
from featstore.decode import Preprocessing

def small():
    seed = int(Path(__file__).with_name("seed").read_text())
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        network = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten())
    return OwnBackbone(network, Preprocessing(18, 16), "my-small")

class Picky(nn.Sequential):
    def forward(self, pictures):
        features = super().forward(pictures)
        if len(pictures) > 4:
            raise ValueError("more than\\nfour")
        return features[:, :3] if len(pictures) == 3 else features

def picky():
    return OwnBackbone(Picky(nn.AdaptiveAvgPool2d(2), nn.Flatten()), Preprocessing(18, 16), "my-picky")
"""
SPEC = "featstore_test_networks:small"
NAMED = ("--backbone", SPEC, "--engine", "torch")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return a folder with pictures and a module of networks, which processes started by tests can import."""
    modules = tmp_path / "modules"
    modules.mkdir()
    (modules / "featstore_test_networks.py").write_text(NETWORKS)
    (modules / "seed").write_text("0")
    write_coloured(tmp_path / "pictures", names("", 4))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([os.fspath(modules), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("featstore_test_networks", None)


def damage(store: str) -> None:
    """Damage a store: set 16 bytes of one of its vectors to zero."""
    shard = next(Path(store, "shards").glob("*.h5"))
    data = bytearray(shard.read_bytes())
    with FeatureStore.open(store) as opened:
        at = data.find(opened.features()[2].tobytes())
    data[at : at + 16] = bytes(16)
    shard.write_bytes(data)


def of_keys(keys: list[str]) -> NDArray[np.float32]:
    """Return a copy of the vectors of ``keys`` from the store with the path "s"."""
    with FeatureStore.open("s") as store:
        return np.array(store.features()[store.index_of(keys)])


def verbs(picture: str) -> dict[str, Callable[..., Any]]:
    """Return for each command a function that runs the command on the store s, the head a.head or the index s.faiss.

    Each of these commands needs the backbone.
    """
    return {
        "extract": lambda **how: extract("pictures", "s", supervised=False, **how),
        "predict": lambda **how: predict("a.head", picture, **how),
        "search": lambda **how: search("s.faiss", picture, **how),
        "export": lambda **how: export("a.head", to="onnx", **{name: how[name] for name in how if name != "engine"}),
        "repair": lambda **how: repair("s", **how),
    }


@pytest.mark.slow
def test_network_defined_by_the_user_works_in_all_commands_in_new_processes(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = os.fspath(place / "pictures/ant/00.png")
    assert run_json("extract", "pictures", "s", *NAMED)["vectors"] == 8
    kept = [f"ant/{number:02d}.png" for number in range(4)]
    before = of_keys(kept)
    train("s", out="a.head", C=1.0, folds=2)
    index("s", out="s.faiss")
    write_coloured(place / "pictures", names("", 5))
    assert run_json("extract", "pictures", "s", *NAMED)["vectors"] == 10
    assert len(run_json("predict", "a.head", picture, *NAMED)["images"]) == 1
    assert run_json("search", "s.faiss", picture, *NAMED)["queries"][0]["neighbours"][0]["key"] == "ant/00.png"
    damage("s")
    assert run_json("repair", "s", *NAMED)["remade"] == 1
    np.testing.assert_allclose(of_keys(kept), before, rtol=1e-5, atol=1e-6)

    # Changed weights are refused because their digest differs.
    monkeypatch.syspath_prepend(os.fspath(place / "modules"))
    (place / "modules/seed").write_text("1")
    write_coloured(place / "pictures", names("", 6))
    damage("s")
    for work in verbs(picture).values():
        with pytest.raises(IdentityError, match="another identity: weights [0-9a-f]+.*, not "):
            work(backbone=SPEC, engine="torch")


def test_extraction_resumes_after_the_user_corrects_a_failing_network(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(os.fspath(place / "modules"))
    how: dict[str, Any] = {"backbone": "featstore_test_networks:picky", "engine": "torch", "supervised": False}
    with pytest.raises(UsageError) as error:
        extract("pictures", "s", batch=8, **how)
    assert "its network failed: ValueError: more than four (line " in str(error.value)
    assert "featstore_test_networks.py); correct it" in str(error.value)
    with pytest.raises(FeatstoreError, match=r"shape \(3, 3\) where \(3, 12\) were due; it has to return"):
        extract("pictures", "s", batch=3, **how)
    assert extract("pictures", "s", batch=4, **how).vectors == 8


@pytest.mark.parametrize("claim", [("os:system", "os:system"), ("my-small", SPEC)])
def test_commands_import_nothing_for_an_untrusted_store_head_or_index(
    place: Path, monkeypatch: pytest.MonkeyPatch, claim: tuple[str, str]
) -> None:
    stranger = replace(tiny_backbone(), name=claim[0], weights=claim[1])
    extract_here("pictures", "s", backbone=stranger, engine="torch")
    train("s", out="a.head", C=1.0, folds=2)
    index("s", out="s.faiss")
    write_coloured(place / "pictures", names("", 5))
    damage("s")
    # Make the module importable by sys.path and by the working directory, so that an attempt to import it succeeds.
    monkeypatch.syspath_prepend(os.fspath(place / "modules"))
    shutil.copy("modules/featstore_test_networks.py", ".")
    for verb, work in verbs(os.fspath(place / "pictures/ant/00.png")).items():
        with pytest.raises(UsageError, match=f"was made with the backbone {claim[0]}.*--backbone {claim[1]}") as error:
            work()
        assert "\n" not in str(error.value), verb
    assert not list(place.rglob("was-imported"))


@pytest.mark.parametrize(
    "claim",
    [
        ("resnet18", SPEC),
        (SPEC, "random:0"),
        (SPEC, SPEC),
        ("timm/hf-hub:a/b", "x"),
        ("open_clip/hf-hub:a/b", "openai"),
        ("open_clip/local-dir:/etc", "x"),
        ("https://an.example/network", "DEFAULT"),
        ("resnet18", "https://an.example/weights.pth"),
        ("resnet18", "/etc/passwd"),
    ],
)
def test_store_with_a_forged_backbone_name_causes_no_import_and_no_download(
    place: Path, monkeypatch: pytest.MonkeyPatch, claim: tuple[str, str]
) -> None:
    monkeypatch.syspath_prepend(os.fspath(place / "modules"))
    identity = Identity(claim[0], "output", 8, "0" * 64, {"resize": 18}, "pillow", "fp32", "float32")
    with pytest.raises(UsageError, match="^s: was made with"):
        reopen(identity, claim[1], "s")
    assert not list(place.rglob("was-imported"))


def test_next_extraction_accepts_the_name_of_the_function_that_made_the_backbone(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(os.fspath(place / "modules"))
    loaded = replace(load_backbone(SPEC), weights="mine")
    extract_here("pictures", "s", backbone=loaded, engine="torch")
    write_coloured(place / "pictures", names("", 5))
    assert extract("pictures", "s", backbone=SPEC, supervised=False, engine="torch").vectors == 10
    with pytest.raises(IdentityError, match="has features of my-small, not resnet18"):
        extract("pictures", "s", backbone="resnet18", weights="random:0", supervised=False)
