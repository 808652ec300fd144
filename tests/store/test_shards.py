from __future__ import annotations

import numpy as np
import pytest

from featstore.errors import DamagedError
from featstore.store import FeatureStore, shards
from featstore.store.shards import Shard, unit_of
from tests.store.building import Pictures, build, identity, vector


@pytest.fixture
def shard(tmp_path):
    build(tmp_path / "s", Pictures({b"a\n\xff": 1, b"b": -2, b"c": 3, b"d": 4}))
    return Shard(shards.shard_path(tmp_path / "s", 0), identity())


def test_shard_file_alone_finds_the_rows_of_keys(shard):
    keys = [b"d", b"nowhere", b"a\n\xff", b"b"]
    rows = shard.find(keys)
    assert rows.tolist() == [2, -1, 0, -1]
    np.testing.assert_array_equal(shard.features[rows[0]], vector(b"d", 4))
    assert shard.find(keys, view=1).tolist() == [-1] * 4
    assert shard.find([]).tolist() == []


def test_opening_a_shard_of_another_identity_is_refused(shard):
    with pytest.raises(DamagedError, match="another identity"):
        Shard(shard.file.path, identity(dtype="float16"))


def test_shard_file_identifies_its_damaged_rows(shard, tmp_path):
    data = bytearray(shard.file.path.read_bytes())
    at = shard.file.header["arrays"]["features"]["offset"] + shard.features.strides[0]
    data[at] ^= 1
    shard.file.path.write_bytes(data)
    assert Shard(shard.file.path, identity()).damaged_rows().tolist() == [1]


def test_shard_file_names_round_trip_to_unit_numbers(tmp_path):
    for unit in (0, 7, (3 << 32) + 12):
        assert unit_of(shards.shard_path(tmp_path, unit).name) == unit
    assert unit_of("notes.txt") is None


def test_number_of_open_shard_files_is_limited(tmp_path):
    store = build(tmp_path / "s", Pictures({f"{n}".encode(): n for n in range(9)}), unit_rows=2)
    opened = shards.OpenShards(tmp_path / "s", identity(), limit=2)
    assert [len(opened[unit.number].ids) for unit in store.units] == [2, 2, 2, 2, 1]
    assert len(opened._open) == 2
    assert isinstance(store, FeatureStore)
