"""featstore.repair on a small store; tests/faults/test_repair.py tests each kind of damage."""

from __future__ import annotations

import pytest

from featstore.errors import UsageError
from featstore.stages.repair import repair
from featstore.stages.verify import verify
from featstore.store import FeatureStore
from tests.chain import make_store, names, write_coloured
from tests.made import tiny_backbone


@pytest.fixture
def damaged(tmp_path):
    """Return a store with a damaged vector, in which 16 bytes were set to zero."""
    folder = write_coloured(tmp_path / "pictures", names("", 3))
    store = make_store(folder, tmp_path / "s", engine="torch")
    (shard,) = (store / "shards").iterdir()
    data = bytearray(shard.read_bytes())
    with FeatureStore.open(store) as opened:
        at = data.find(opened.features()[2].tobytes())
    data[at : at + 16] = bytes(16)
    shard.write_bytes(data)
    assert verify(store).problems
    return store


def test_repair_extracts_a_damaged_vector_again(damaged):
    report = repair(damaged, backbone=tiny_backbone(), engine="torch")
    assert (report.remade, report.failed, len(report.aside)) == (1, 0, 1)
    assert verify(damaged).problems == []
    assert FeatureStore.open(damaged).counts.vectors == 6


def test_repair_with_option_set_aside_moves_damaged_files_and_extracts_nothing(damaged):
    report = repair(damaged, set_aside=True)
    assert (report.remade, report.failed) == (0, 1)
    store = FeatureStore.open(damaged)
    assert [(key, failure.reason) for key, failure in store.failures()] == [("ant/02.png", "damaged")]
    assert verify(damaged).problems == []


def test_repair_refuses_a_folder_of_pictures_that_does_not_exist(damaged, tmp_path):
    with pytest.raises(UsageError, match="the root is no folder"):
        repair(damaged, root=tmp_path / "nowhere")
