from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest

from featstore.errors import DamagedError, UsageError
from featstore.store import FeatureStore
from featstore.store.arrow import METADATA
from tests.store.building import Pictures, build, identity, plan


def source(count: int = 12) -> Pictures:
    made = Pictures({f"{number:02d}.jpg".encode(): number for number in range(count)})
    made.labels = {key: "even" if number % 2 == 0 else "odd" for key, number in made.content.items() if number}
    made.splits = dict.fromkeys(made.content, "train")
    made.metadata = {
        "whole": {key: number for key, number in made.content.items() if number != 3},
        "ratio": {key: number / 7 for key, number in made.content.items()},
        "truth": {key: number > 4 for key, number in made.content.items()},
        "key": {key: f"other {number}" for key, number in made.content.items()},
    }
    return made


def address(array: pa.Array) -> int:
    return array.flatten().buffers()[1].address


def test_arrow_table_has_every_column_of_the_store(tmp_path):
    store = build(tmp_path / "s", source())
    table = store.to_arrow()
    assert table.column_names == ["key", "id", "label", "split", "whole", "ratio", "truth", "key_", "sha256", "vector"]
    assert table["key"].to_pylist() == list(store.keys)
    assert table["id"].to_pylist() == store.ids.tolist()
    assert table["label"].to_pylist() == store.labels.tolist()
    assert table["whole"].to_pylist() == store.column("whole").tolist()
    assert table["whole"].type == pa.int64()
    assert (table["ratio"].type, table["truth"].type) == (pa.float64(), pa.bool_())
    assert table["sha256"].to_pylist() == [row.tobytes() for row in store.sha256]
    assert table["vector"].combine_chunks().flatten().to_numpy().tobytes() == np.asarray(store.features()).tobytes()
    described = json.loads(table.schema.metadata[METADATA])
    assert (described["identity"], described["store_id"]) == (store.identity.to_dict(), store.store_id)
    assert described["made_by"] == [{"engine": "made-up"}]


def test_arrow_vectors_and_keys_share_the_memory_of_the_shards(tmp_path):
    store = build(tmp_path / "s", source())
    table = store.to_arrow()
    shards = [shard for shard, _, _ in store._live.parts(None)]
    assert len(shards) == table["vector"].num_chunks == 3
    for shard, vectors, keys in zip(shards, table["vector"].chunks, table["key"].chunks, strict=True):
        assert address(vectors) == shard.features.ctypes.data
        assert keys.buffers()[2].address == shard.keys.blob.ctypes.data
    store.close()
    assert table["vector"].combine_chunks().flatten().to_numpy().shape == (48,)


def test_arrow_table_leaves_out_removed_rows(tmp_path, monkeypatch):
    pictures = source()
    build(tmp_path / "s", pictures)
    for key in (b"03.jpg", b"08.jpg"):
        del pictures.content[key]
    plan(tmp_path / "s", pictures)
    store = FeatureStore.open(tmp_path / "s")
    copied = store.to_arrow()
    with pytest.raises(UsageError, match="featstore compact"):
        store.to_arrow(memory_limit=10)
    monkeypatch.setattr("featstore.store.arrow._RUN_ROWS", 1)
    viewed = store.to_arrow(memory_limit=0)
    assert viewed["vector"].num_chunks > copied["vector"].num_chunks
    for table in (copied, viewed):
        assert table["key"].to_pylist() == list(store.keys)
        assert table["vector"].combine_chunks().flatten().to_numpy().tobytes() == np.asarray(store.features()).tobytes()


def test_keys_and_labels_that_are_not_utf8_become_bytes_in_arrow(tmp_path):
    pictures = Pictures({b"a.jpg": 1, b"\xff.jpg": 2}, labels={b"a.jpg": "\udcff"})
    table = build(tmp_path / "s", pictures).to_arrow()
    assert table["key"].to_pylist() == [b"a.jpg", b"\xff.jpg"]
    assert table["label"].to_pylist() == [b"\xff", None]


def test_arrow_table_of_a_float16_store_has_float16_vectors(tmp_path):
    store = build(tmp_path / "s", source(), identity=identity(dtype="float16"))
    assert store.to_arrow()["vector"].type.value_type == pa.float16()
    assert store.to_arrow()["vector"].combine_chunks().flatten().to_numpy().tobytes() == store.features().tobytes()


def test_store_without_vectors_gives_an_empty_arrow_table(tmp_path):
    pictures = source(2)
    store = build(tmp_path / "s", pictures)
    plan(tmp_path / "e", pictures)
    empty = FeatureStore.open(tmp_path / "e").to_arrow()
    assert (len(empty), empty["vector"].type) == (0, store.to_arrow()["vector"].type)


def test_arrow_table_is_refused_for_invalid_key_offsets(tmp_path):
    store = build(tmp_path / "s", source(4))
    shard = next(shard for shard, _, _ in store._live.parts(None))
    offsets = shard.keys.offsets.copy()
    offsets[1] = 1 << 40
    shard.keys.offsets = offsets
    with pytest.raises(DamagedError, match="offsets"):
        store.to_arrow()


def test_duckdb_and_polars_read_the_arrow_table(tmp_path):
    duckdb, polars = pytest.importorskip("duckdb"), pytest.importorskip("polars")
    store = build(tmp_path / "s", source())
    rows = store.to_arrow()
    assert duckdb.sql("select count(*) from rows where label = 'odd'").fetchall() == [(6,)]
    vectors = duckdb.sql("select vector from rows order by id").to_arrow_table()["vector"]
    expected = np.asarray(store.features())
    assert np.array(vectors.to_pylist(), np.float32).tobytes() == expected.tobytes()
    assert polars.from_arrow(rows)["vector"].to_numpy().tobytes() == expected.tobytes()


def test_column_of_several_value_types_becomes_text_in_arrow(tmp_path):
    pictures = Pictures({b"a": 1, b"b": 2})
    build(tmp_path / "s", pictures)
    from featstore.store.labels import set_columns

    set_columns(tmp_path / "s", [b"a"], {"note": ["x"]})
    set_columns(tmp_path / "s", [b"b"], {"note": [3]})
    assert FeatureStore.open(tmp_path / "s").to_arrow()["note"].to_pylist() == ["x", "3"]
