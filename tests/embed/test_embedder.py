from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from featstore.embed import embedder as embedding
from featstore.embed.embedder import inputs_of, open_embedder
from featstore.errors import UsageError
from featstore.store import FeatureStore
from featstore.store.origin import origin_of_store
from tests.made import tiny_backbone


def test_embedded_vectors_equal_those_in_the_store_for_any_chunk_size(chain, monkeypatch):
    monkeypatch.setattr(embedding, "CHUNK", 7)
    store = FeatureStore.open(chain.store)
    embedder = open_embedder(origin_of_store(store), "x", backbone=tiny_backbone())
    parts = list(embedder.blocks(inputs_of([chain.folder]), batch=3, workers=2))
    assert [len(part.inputs) for part in parts] == [7, 7, 7, 7, 2]
    assert [one.name for part in parts for one in part.inputs] == list(store.keys)
    vectors = np.concatenate([part.vectors for part in parts])
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, store.features(), rtol=1e-5, atol=1e-6)


def test_embed_inputs_may_be_files_folders_and_tables(chain, tmp_path):
    table = tmp_path / "t.csv"
    table.write_text(f"file,label\n{chain.folder}/val/ant/00.png,ant\n")
    file = chain.folder / "val/ant/01.png"
    found = list(inputs_of([file, table, chain.folder / "val"]))
    assert len(found) == 1 + 1 + 10
    assert found[0].name == str(file)
    with pytest.raises(UsageError):
        list(inputs_of([tmp_path / "none.csv"]))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError):
        list(inputs_of([tmp_path / "empty"]))


@pytest.mark.parametrize(
    ("count", "folder", "asked", "name"),
    [(1, False, "auto", "torch"), (16, False, "auto", "torch"), (17, False, "auto", "openvino"), (1, True, "auto", "openvino"), (1, False, "openvino", "openvino")],
)  # fmt: skip
def test_auto_engine_uses_plain_torch_for_at_most_16_files(chain, count, folder, asked, name):
    pictures = [chain.folder] if folder else sorted(chain.folder.rglob("*.png"))[:1] * count
    origin = origin_of_store(FeatureStore.open(chain.store))
    embedder = open_embedder(origin, "head", backbone=tiny_backbone(), engine=asked, device="cpu", inputs=pictures)
    assert embedder.engine.name == name
    # Plain torch and OpenVINO in fp32 are equally exact, so their features have the same identity.
    assert embedder.identity == origin.identity


def test_checkpoint_path_recorded_in_a_head_is_not_opened(chain, tmp_path, monkeypatch):
    (tmp_path / "theirs.pth").write_bytes(b"x")
    monkeypatch.setattr("featstore.backbones.checkpoints.read_state", lambda _: pytest.fail("opened"))
    origin = origin_of_store(FeatureStore.open(chain.store))
    known = dataclasses.replace(origin.identity, backbone="efficientnet_lite0")
    origin = dataclasses.replace(origin, identity=known, weights_name=str(tmp_path / "theirs.pth"))
    with pytest.raises(UsageError, match="name their file with --weights"):
        open_embedder(origin, "head", device="cpu")
