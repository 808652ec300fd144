"""Stores of the precision classes bf16 and int8-s16: later vectors are computed in the class of the store."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from featstore.errors import IdentityError
from featstore.files import sealed
from featstore.stages.index import index
from featstore.stages.predict import predict
from featstore.stages.repair import repair
from featstore.stages.search import search
from featstore.stages.train import train
from featstore.store import FeatureStore
from featstore.store.repair.verify import verify_store
from tests.chain import make_store, names, write_coloured
from tests.made import tiny_backbone

pytestmark = pytest.mark.slow

MADE = {"bf16": {"engine": "torch-folded", "precision": "bf16"}, "int8-s16": {"engine": "openvino-int8"}}
LATER = {"bf16": {"engine": "torch-folded"}, "int8-s16": {}}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Return a folder with pictures, and a store of these pictures for each precision class."""
    place = tmp_path_factory.mktemp("classes")
    write_coloured(place / "pictures", names("", 8), size=(60, 50))
    for precision, options in MADE.items():
        make_store(place / "pictures", place / precision, **options)
    make_store(place / "pictures", place / "fp32", engine="torch")
    return place


@pytest.mark.parametrize("precision", MADE)
def test_lower_precision_is_not_mixed_with_fp32_vectors(place, precision):
    ours, exact = FeatureStore.open(place / precision), FeatureStore.open(place / "fp32")
    assert (ours.identity.precision, exact.identity.precision) == (precision, "fp32")
    assert np.abs(ours.features() - exact.features()).max() > 1e-3 * exact.features().std(axis=0).mean()
    with pytest.raises(IdentityError, match=f"precision {precision}, not fp32"):
        make_store(place / "pictures", place / precision, engine="torch", precision="fp32")


@pytest.mark.parametrize("precision", MADE)
def test_predict_and_search_use_the_precision_of_head_and_index(place, precision):
    store, given = FeatureStore.open(place / precision), {"backbone": tiny_backbone(), **LATER[precision]}
    trained = train(store.path, folds=2, out=place / f"{precision}.head")
    of_pictures = [one.probabilities for one in predict(trained.path, place / "pictures", batch=8, **given)]
    np.testing.assert_array_equal(of_pictures, [one.probabilities for one in predict(trained.path, store.path)])
    found = search(index(store.path).path, place / "pictures", k=1, batch=8, **given)
    assert [one.neighbours[0].key for one in found.queries] == list(store.keys)
    np.testing.assert_allclose([one.neighbours[0].score for one in found.queries], 1, atol=1e-6)


@pytest.mark.parametrize("precision", MADE)
def test_repair_of_a_lower_precision_store_restores_vectors_bit_identically(place, tmp_path, precision):
    store = shutil.copytree(place / precision, tmp_path / "s")
    (shard,) = (store / "shards").glob("*.h5")
    at = sealed.read_header(shard)["arrays"]["features"]["offset"]
    with open(shard, "r+b") as file:
        file.seek(at + 40)
        file.write(b"\x5a\xa5\x5a")
    assert repair(store, backbone=tiny_backbone(), **LATER[precision]).remade == 1
    assert FeatureStore.open(store).features().tobytes() == FeatureStore.open(place / precision).features().tobytes()
    assert verify_store(store).problems == []
