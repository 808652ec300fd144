from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from featstore import defaults
from featstore.defaults import OUTPUT_OF
from featstore.errors import FeatstoreError
from featstore.finetuning.inputs import Augmentation, CachedExamples, LiveExamples
from featstore.store import FeatureStore
from tests.chain import make_store, names, write_coloured
from tests.made import extract, tiny_backbone

TABLE = "path,x,y,w,h,label\nant/00.png,0,0,12,12,ant\nant/00.png,6,4,14,14,bee\nbee/01.png,2,2,16,10,bee\n"
PLAIN = Augmentation()
ROWS = np.array([7, 0, 3, 3, 9, 1, 5])


def trunk_and_backbone():
    """Return the first two layers of the tiny network, and a backbone whose features are their flattened output."""
    tiny = tiny_backbone()
    trunk = nn.Sequential(*list(tiny.module)[:2]).eval()
    flat = nn.Sequential(trunk, nn.Flatten()).eval()
    shape = (6, 7, 7)
    made = replace(tiny, layer=OUTPUT_OF + "1", module=flat, dimension=6 * 49, pool="none", shape=shape)
    return trunk, made, tiny.preprocessing


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store of ten pictures; tests only read it."""
    place = tmp_path_factory.mktemp("inputs")
    return FeatureStore.open(make_store(write_coloured(place / "pictures", names("", 5)), place / "s"))


def live_of(store, augmentation=PLAIN):
    trunk, _, preprocessing = trunk_and_backbone()
    keys, codes = list(store._key_bytes(None)), np.arange(len(store)) % 2
    return LiveExamples(store, keys, codes, trunk, preprocessing, augmentation, threads=2)


def cached_of(store, place, augmentation=PLAIN, dtype="float32", **options):
    trunk_backbone = trunk_and_backbone()[1]
    stores = {}
    for view in range(1, augmentation.views + 1) or [0]:
        given = {"augment": augmentation.policy, "view": view, "augment_seed": augmentation.seed} if view else {}
        extract(store.path, place / f"{view}", backbone=trunk_backbone, dtype=dtype, engine="torch", **given, **options)
        stores[view] = FeatureStore.open(place / f"{view}")
    keys, codes = list(store._key_bytes(None)), np.arange(len(store)) % 2
    return CachedExamples(stores, keys, codes, (6, 7, 7), augmentation)


def collected(examples, rows=ROWS, epoch=1, size=3):
    batches = list(examples.batches(rows, epoch, size))
    assert np.array_equal(np.concatenate([part for _, part in batches]), rows)
    return torch.cat([inputs for inputs, _ in batches])


@pytest.mark.parametrize("augmentation", [Augmentation(), Augmentation("light", 3, 2), Augmentation("standard", 0, 2)])
def test_cached_and_live_inputs_are_bit_identical_in_float32(store, tmp_path, augmentation):
    cached, live = cached_of(store, tmp_path, augmentation, unit_rows=4), live_of(store, augmentation)
    assert len(list((tmp_path / str(min(1, augmentation.views)) / "shards").glob("*.h5"))) > 1
    for epoch in (1, 2, 3):
        assert collected(cached, epoch=epoch).dtype == torch.float32
        assert torch.equal(collected(cached, epoch=epoch), collected(live, epoch=epoch))


def test_successive_epochs_use_successive_views(store, tmp_path):
    augmentation = Augmentation("light", 0, 2)
    assert [augmentation.view(epoch) for epoch in range(1, 6)] == [1, 2, 1, 2, 1]
    assert [Augmentation().view(epoch) for epoch in range(1, 4)] == [0, 0, 0]
    live = live_of(store, augmentation)
    first, second, third = (collected(live, epoch=epoch) for epoch in (1, 2, 3))
    assert torch.equal(first, third)
    assert not torch.equal(first, second)


def test_float16_cache_returns_activations_rounded_to_float16(store, tmp_path):
    cached, live = cached_of(store, tmp_path, dtype="float16"), live_of(store)
    assert torch.equal(collected(cached), collected(live).to(torch.float16).to(torch.float32))


def test_last_batch_with_one_row_is_merged_with_the_batch_before(store):
    sizes = [len(part) for _, part in live_of(store).batches(np.arange(7), 1, 3)]
    assert sizes == [3, 4]


def test_finetuning_inputs_equal_the_pixels_that_extract_uses(tmp_path):
    folder = write_coloured(tmp_path / "pictures", names("", 2))
    (folder / "boxes.csv").write_text(TABLE)
    extract(folder / "boxes.csv", tmp_path / "s", backbone=tiny_backbone(), boxes=("x", "y", "w", "h"))
    store = FeatureStore.open(tmp_path / "s")
    for augmentation in (Augmentation(), Augmentation("standard", 1, 1)):
        place = tmp_path / augmentation.policy
        live = collected(live_of(store, augmentation), np.arange(3))
        assert torch.equal(live, collected(cached_of(store, place, augmentation), np.arange(3)))


def test_error_names_a_picture_that_changed_or_vanished(tmp_path):
    folder = write_coloured(tmp_path / "pictures", names("", 5))
    store = FeatureStore.open(make_store(folder, tmp_path / "s"))
    live = live_of(store)
    write_coloured(folder, ["ant/01.png"], seed=5)
    with pytest.raises(FeatstoreError, match=r"ant/01.png.*changed"):
        collected(live, np.array([0, 1]))
    (folder / "ant/00.png").unlink()
    with pytest.raises(FeatstoreError, match=r"ant/00.png.*missing"):
        collected(live, np.array([0]))


def test_error_names_a_picture_above_the_default_limits(store, monkeypatch):
    monkeypatch.setattr(defaults, "MAX_FILE_BYTES", 10)
    with pytest.raises(FeatstoreError, match=r"is above the limits of fine-tuning \(too-large: .*was made with larger"):
        collected(live_of(store))
