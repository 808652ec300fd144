from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from torch import nn

from featstore.errors import FeatstoreError
from featstore.finetuning.inputs import PLAIN, Augmentation
from featstore.finetuning.partition import Partition
from featstore.stages.finetune import caching
from featstore.stages.finetune.caching import SomeRows, make_cache, trunk_backbone, views_of
from featstore.stages.info import info
from featstore.store import FeatureStore
from tests.chain import make_store, names, write_coloured
from tests.made import tiny_backbone

OPTIONS = {"device": "cpu", "workers": 1, "batch": 8, "root": None}


class Times(nn.Module):
    """A module that multiplies its input by a factor."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, inputs):
        return inputs * self.factor


def trunk_of(factor=1.0):
    """Return the first layer of the tiny network, times ``factor``, as a backbone of its own."""
    tiny = tiny_backbone()
    trunk = nn.Sequential(tiny.module[0], Times(factor)).eval()
    return trunk_backbone(tiny, Partition("0", (6, 7, 7), trunk, nn.Identity()))


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store of eight pictures; tests only read it."""
    place = tmp_path_factory.mktemp("caching")
    return FeatureStore.open(make_store(write_coloured(place / "pictures", names("", 4)), place / "s"))


def made(store, cache, backbone, augmentation=None, dtype="float16", **limits):
    keys, augmentation = list(store._key_bytes(None)), augmentation or Augmentation()
    views = views_of(cache, keys[:6], keys[6:], augmentation, dtype)
    return make_cache(store, backbone, views, augmentation, progress=None, stop=None, options={**OPTIONS, **limits})


def test_cache_has_augmented_training_pictures_and_plain_held_out_pictures(store, tmp_path):
    cache = made(store, tmp_path / "c", trunk_of(), Augmentation("light", 5, 2))
    assert sorted(cache.views) == [1, 2]
    keys = [key.decode() for key in store._key_bytes(None)]
    for number, view in cache.views.items():
        assert (list(view.keys), view.identity.dtype) == (keys[:6], "float16")
        assert view.identity.augment == {"policy": "light", "view": number, "seed": 5, "version": 1}
    assert (list(cache.held_out.keys), cache.held_out.identity.dtype) == (keys[6:], "float32")
    assert not cache.held_out.identity.augment
    assert cache.pictures == 14
    assert cache.views[1].identity.shape == (6, 7, 7)


def test_second_finetune_run_reuses_the_cache(store, tmp_path):
    first = made(store, tmp_path / "c", trunk_of())
    assert (first.pictures, list(first.views)) == (8, [PLAIN])
    assert made(store, tmp_path / "c", trunk_of()).pictures == 0


def test_cache_is_not_stale_although_it_lacks_pictures_of_its_store(tmp_path):
    pictures = write_coloured(tmp_path / "pictures", names("", 4))
    path = make_store(pictures, tmp_path / "s")
    made(FeatureStore.open(path), tmp_path / "m.cache", trunk_of())
    found = info(tmp_path)
    assert [Path(each["path"]).name for each in found["artifacts"]] == ["s", "held-out", "view-0"]
    assert all(each["made_of"] for each in found["artifacts"][1:])
    write_coloured(pictures, ["ant/new.png"])
    make_store(pictures, path)
    assert {name: info(tmp_path)[name] for name in ("stale", "commands")} == {"stale": 0, "commands": []}


@pytest.mark.parametrize("few", [0, 256])
def test_cache_is_computed_in_fp32_whatever_the_device_prefers(store, tmp_path, monkeypatch, few):
    asked = []

    def extract(*args, **options):
        asked.append((args[1].name, options["engine"], options["precision"]))
        return real(*args, **options)

    real = caching.extract
    monkeypatch.setattr(caching, "extract", extract)
    monkeypatch.setattr(caching, "_FEW", few)
    made(store, tmp_path / "c", trunk_of())
    engine = "torch" if few else "auto"
    assert asked == [("held-out", engine, "fp32"), ("view-0", engine, "fp32")]


def test_activations_too_large_for_float16_are_refused_with_the_remedy(store, tmp_path):
    with pytest.raises(FeatstoreError, match=r"6 pictures have activations that float16 cannot hold.*--dtype float32"):
        made(store, tmp_path / "c", trunk_of(1e6))
    assert made(store, tmp_path / "d", trunk_of(1e6), dtype="float32").pictures == 8


@pytest.mark.parametrize("limits", [{"max_pixels": 10}, {"max_bytes": 10}])
def test_pictures_above_the_limits_of_the_cache_are_not_called_unreadable(store, tmp_path, limits):
    with pytest.raises(FeatstoreError, match=r"2 pictures are above the limits of fine-tuning.*featstore remove"):
        made(store, tmp_path / "c", trunk_of(), **limits)


def test_selected_rows_of_a_store_can_be_extracted_as_a_source(store):
    keys = list(store._key_bytes(None))
    chunks = list(SomeRows(store.path, keys[2:4], None).chunks(3))
    assert [key for chunk in chunks for key in chunk.keys] == keys[2:4]


def test_trunk_backbone_has_the_identity_of_its_layers_feature_maps(store):
    backbone = trunk_of()
    assert (backbone.layer, backbone.pool, backbone.shape, backbone.dimension) == (
        "output of 0",
        "none",
        (6, 7, 7),
        294,
    )
    vector = trunk_backbone(tiny_backbone(), replace(Partition("4", (8,), nn.Identity(), nn.Identity())))
    assert (vector.pool, vector.shape, vector.dimension) == ("", (), 8)
