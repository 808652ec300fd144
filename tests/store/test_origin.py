from __future__ import annotations

import shutil
from dataclasses import replace

import pytest

from featstore.errors import DamagedError, UsageError
from featstore.store import FeatureStore
from featstore.store.manifest import Manifest
from featstore.store.origin import Origin, origin_of_store, require_vectors, state_of_store
from tests.store.building import Pictures, identity, plan, work


@pytest.fixture
def folder(tmp_path):
    source = Pictures({b"a": 1, b"b": 2, b"c": -1})
    plan(tmp_path / "s", source)
    work(tmp_path / "s", source)
    return tmp_path / "s"


def test_record_of_a_source_store_survives_json_and_finds_the_store(folder, tmp_path):
    origin = origin_of_store(FeatureStore.open(folder))
    again = Origin.of(origin.identity.to_dict(), origin.to_dict(), "a head")
    assert again == origin
    assert again.find_store().store_id == origin.store_id

    shutil.move(folder, tmp_path / "elsewhere" / folder.name)
    assert again.find_store() is None
    assert again.find_store(beside=tmp_path / "elsewhere").store_id == origin.store_id


def test_another_store_at_the_recorded_path_of_the_source_store_is_rejected(folder):
    origin = origin_of_store(FeatureStore.open(folder))
    shutil.rmtree(folder)
    plan(folder, Pictures({b"a": 1}))
    assert origin.find_store() is None


@pytest.mark.parametrize("value", [None, {}, {"weights_name": "w", "store": 3, "store_id": "i"}])
def test_invalid_record_of_the_source_store_is_rejected(value):
    with pytest.raises(DamagedError, match="a head: does not say which store"):
        Origin.of(identity().to_dict(), value, "a head")


def test_store_warnings_mention_untrained_weights_and_missing_vectors(folder):
    (failed,) = state_of_store(FeatureStore.open(folder))
    assert failed.startswith("1 picture could not be read")

    plan(folder, Pictures({b"a": 1, b"b": 2, b"c": -1, b"d": 3}))
    replace(Manifest.read(folder), weights_name="random:7").write(folder)
    untrained, pending, _ = state_of_store(FeatureStore.open(folder))
    assert untrained.startswith("the weights random:7 are untrained")
    assert "1 of 4 pictures are pending" in pending


def test_error_for_a_store_without_vectors_names_the_remedy(tmp_path):
    source = Pictures({b"a": -1, b"b": -2})
    plan(tmp_path / "s", source)
    with pytest.raises(UsageError, match="2 of 2 pictures are pending; run the same"):
        require_vectors(FeatureStore.open(tmp_path / "s"))
    work(tmp_path / "s", source)
    with pytest.raises(UsageError, match="none of its 2 pictures could be read"):
        require_vectors(FeatureStore.open(tmp_path / "s"))
    source.content.clear()
    plan(tmp_path / "s", source)
    with pytest.raises(UsageError, match="it is empty"):
        require_vectors(FeatureStore.open(tmp_path / "s"))
