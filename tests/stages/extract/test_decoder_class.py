"""The decoder of a store ("exact" or "fast"): recorded in the store and used for later pictures and queries.

A run with another decoder is refused.
"""

from __future__ import annotations

import shutil
import threading

import numpy as np
import pytest

from featstore.decode import DECODERS, open_decoder
from featstore.engines import open_engine
from featstore.errors import IdentityError, UsageError
from featstore.files import sealed
from featstore.processes.in_hand import DECODING, Held
from featstore.stages.extract import suspects
from featstore.stages.extract.suspects import verdict_on
from featstore.stages.index import index
from featstore.stages.predict import predict
from featstore.stages.repair import repair
from featstore.stages.search import search
from featstore.stages.train import train
from featstore.store import FeatureStore
from featstore.store.repair.verify import verify_store
from tests.chain import make_store, names, write_coloured
from tests.made import extract, tiny_backbone, write_pictures

SIZE = (45, 38)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Return a folder that holds pictures and, for each decoder, a store of these pictures; no test changes it."""
    place = tmp_path_factory.mktemp("decoders")
    write_coloured(place / "pictures", names("", 8), size=SIZE)
    for decode in ("exact", "fast"):
        make_store(place / "pictures", place / decode, decode=decode, engine="torch")
    return place


def expected(folder, store, decoder):
    """Return the vectors of the pictures of ``store``, computed with ``decoder`` and without a store."""
    backbone = tiny_backbone()
    engine, decode = open_engine(backbone, engine="torch"), open_decoder(decoder)
    pixels = [decode((folder / key).read_bytes(), backbone.preprocessing) for key in store.keys]
    return np.concatenate([engine(np.stack(pixels[at : at + 8])) for at in range(0, len(pixels), 8)])


def test_decoder_is_part_of_the_feature_identity_and_changes_the_vectors(place):
    exact, fast = FeatureStore.open(place / "exact"), FeatureStore.open(place / "fast")
    assert (exact.identity.decoder, fast.identity.decoder) == ("pillow", "pillow-torch")
    assert exact.fingerprint != fast.fingerprint
    for store in (exact, fast):
        np.testing.assert_array_equal(store.features(), expected(place / "pictures", store, store.identity.decoder))
    assert exact.features().tobytes() != fast.features().tobytes()
    np.testing.assert_allclose(exact.features(), fast.features(), atol=0.02)


@pytest.mark.parametrize(("made", "asked", "words"), [("exact", "fast", "pillow, not pillow-torch"), ("fast", "exact", "pillow-torch, not pillow")])  # fmt: skip
def test_next_extraction_refuses_another_decoder(place, made, asked, words):
    with pytest.raises(IdentityError, match=f"decoder {words}") as raised:
        make_store(place / "pictures", place / made, decode=asked)
    assert "\n" not in str(raised.value)


def test_extract_rejects_an_unknown_decoder(place, tmp_path):
    with pytest.raises(UsageError, match="'best' is not exact or fast"):
        make_store(place / "pictures", tmp_path / "s", decode="best")
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("made", ["exact", "fast"])
def test_next_extraction_uses_the_decoder_of_the_store(place, tmp_path, made):
    shutil.copytree(place / "pictures", tmp_path / "pictures")
    make_store(tmp_path / "pictures", tmp_path / "s", decode=made, engine="torch")
    write_coloured(tmp_path / "pictures", ["bee/x.png", "bee/y.png"], seed=9, size=SIZE)
    report = extract(tmp_path / "pictures", tmp_path / "s", backbone=tiny_backbone(), engine="torch")
    store = FeatureStore.open(tmp_path / "s")
    assert report.new_vectors == 2
    new = store.index_of(["bee/x.png", "bee/y.png"])
    wanted = expected(tmp_path / "pictures", store, store.identity.decoder)
    np.testing.assert_allclose(store.features()[new], wanted[new], rtol=1e-5, atol=1e-6)
    assert store.identity.decoder == FeatureStore.open(place / made).identity.decoder


def test_repair_with_the_fast_decoder_restores_vectors_bit_identically(place, tmp_path):
    store = shutil.copytree(place / "fast", tmp_path / "s")
    (shard,) = (store / "shards").glob("*.h5")
    at = sealed.read_header(shard)["arrays"]["features"]["offset"]
    with open(shard, "r+b") as file:
        file.seek(at + 40)
        file.write(b"\x5a\xa5\x5a")
    assert repair(store, backbone=tiny_backbone(), engine="torch").remade == 1
    assert FeatureStore.open(store).features().tobytes() == FeatureStore.open(place / "fast").features().tobytes()
    # The whole shard is damaged, so all its pictures are extracted again.
    shard.write_bytes(b"\x5a" * 1000)
    repair(store, backbone=tiny_backbone(), engine="torch")
    assert FeatureStore.open(store).features().tobytes() == FeatureStore.open(place / "fast").features().tobytes()
    assert verify_store(store).problems == []


def test_predict_and_search_use_the_decoder_of_the_head_and_index(place, tmp_path):
    store = FeatureStore.open(shutil.copytree(place / "fast", tmp_path / "s"))
    trained = train(store.path, folds=2)
    indexed = index(store.path).path
    pictures, given = place / "pictures", {"backbone": tiny_backbone(), "engine": "torch", "batch": 8}
    of_pictures = [one.probabilities for one in predict(trained.path, pictures, **given)]
    of_store = [one.probabilities for one in predict(trained.path, store.path)]
    np.testing.assert_array_equal(of_pictures, of_store)
    found = search(indexed, pictures, k=1, **given)
    assert [query.neighbours[0].key for query in found.queries] == list(store.keys)
    np.testing.assert_allclose([query.neighbours[0].score for query in found.queries], 1, atol=1e-6)


@pytest.mark.slow
def test_suspected_picture_is_decoded_alone_by_the_decoder_of_its_store(tmp_path, monkeypatch):
    pictures = write_pictures(tmp_path / "pictures", ["a.png", "b.jpg"])
    stop = threading.Event()
    stop.set()
    make_store(pictures, tmp_path / "s", decode="fast", stop=stop)
    tried = []
    monkeypatch.setattr(suspects, "verdict_on", lambda picture, seconds, memory: tried.append(picture))
    job = {"store": str(tmp_path / "s"), "decoder": None}
    job["options"] = {"max_pixels": 1 << 20, "max_bytes": 1 << 20, "max_memory": 64 << 20}
    assert suspects.judge([Held(0, 1, DECODING)], [str(pictures)], job, 1.0) == 0
    (picture,) = tried
    assert (picture["location"], picture["decoder"]) == ("b.jpg", DECODERS["pillow-torch"])
    # The memory limit of 64 MiB does not include the memory of torch itself, which is larger.
    assert verdict_on(picture, 10.0, 64 << 20) is None
