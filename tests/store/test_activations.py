from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from featstore.store import FeatureStore
from featstore.store.activations import activations, by_unit, grid_of, mean_vectors, unit_count
from tests.store.building import Pictures, build, identity


def mapped_bytes(folder: Path) -> int:
    """Return how many bytes of the files in ``folder`` are in this process's memory, as the kernel reports it."""
    text = Path("/proc/self/smaps").read_text()
    found = re.findall(rf"^\S+ r\S+ .* {re.escape(str(folder))}/\S+\n(?:.*\n)*?Rss: +(\d+) kB", text, re.MULTILINE)
    return sum(map(int, found)) << 10


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return build(tmp_path_factory.mktemp("activations") / "s", Pictures({b"%d" % row: 1 for row in range(12)})).path


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="only Linux reports the memory of mapped files")
@pytest.mark.parametrize(
    "read",
    [lambda store: activations(store, [1]), lambda store: mean_vectors(store, np.ones(len(store), np.bool_))],
    ids=["activations", "mean_vectors"],
)
def test_pages_of_the_vectors_are_released_after_a_pass(path, read):
    store = FeatureStore.open(path)
    read(store)
    assert mapped_bytes(path / "shards") == 0
    before = [store.features(rows=[row]).sum() for row in range(12)]
    assert mapped_bytes(path / "shards") > 0
    read(store)
    assert [store.features(rows=[row]).sum() for row in range(12)] == before


def test_units_are_elements_of_vectors_channels_of_maps_or_channels_of_tokens():
    values = np.arange(12.0)
    for shape, count, grid, sums in (
        ((), 12, None, values.tolist()),
        ((2, 3, 2), 2, (3, 2), [15, 51]),
        ((3, 4), 4, None, [12, 15, 18, 21]),
    ):
        made = identity(dimension=12, pool="none" if shape else "", shape=shape)
        assert (unit_count(made), grid_of(made), by_unit(values, made).tolist()) == (count, grid, sums)
