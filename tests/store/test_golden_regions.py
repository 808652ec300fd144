"""Fixed format of regions: a stored example with regions stays readable.

The function ``make`` wrote ``tests/golden/regions`` when the format was final.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from featstore.errors import UsageError
from featstore.store import FeatureStore, manifest
from featstore.store.manifest import Manifest
from featstore.store.repair.manifest import _requires
from featstore.store.repair.verify import verify_store
from tests.store.building import Pictures, build, plan, vector, work
from tests.store.test_golden import PLAN, SHARD, layout

GOLDEN = Path(__file__).parents[1] / "golden" / "regions"
SOURCE = Pictures(
    {b"a#b.jpg#1": 1, b"c.jpg": 2, b"a#b.jpg#0": 3, b"c.jpg#left": 4, b"c.jpg#empty": -1},
    labels={b"a#b.jpg#0": "ant", b"c.jpg": "bee"},
    metadata={"x": {b"c.jpg": "an x"}},
    regions={
        b"a#b.jpg#0": (1, 2, 3, 4, 7),
        b"a#b.jpg#1": (0, 0, 70_000, 5, 7),
        b"c.jpg#left": (5, 6, 7, 8, 5),
        b"c.jpg#empty": (5, 6, 0, -8, 5),
    },
)
FILES = {
    "plan/000000/000000.h5": PLAN
    | {"region": ("<i4", 2), "location/bytes": ("|u1", 1), "location/offsets": ("<u8", 1)},
    "plan/000000/000001.h5": PLAN
    | {"region": ("<i4", 2), "location/bytes": ("|u1", 1), "location/offsets": ("<u8", 1)},
    "shards/000000-00000000.h5": SHARD,
    "shards/000000-00000001.h5": SHARD,
}


def make(path: Path) -> None:
    build(path, SOURCE)
    moved = Pictures(**{**SOURCE.__dict__, "regions": {**SOURCE.regions, b"c.jpg#left": (5, 6, 7, 9, 5)}})
    plan(path, moved)
    work(path, moved)
    shutil.rmtree(path / "work")


def check(path: Path) -> None:
    store = FeatureStore.open(path)
    assert verify_store(path).problems == []
    assert Manifest.read(path).requires == ("regions",)
    assert store.keys[:] == ["a#b.jpg#0", "a#b.jpg#1", "c.jpg", "c.jpg#left"]
    assert store.columns == ["label", "split", "x_", "parent", "x", "y", "w", "h"]
    assert store.parents.tolist() == ["a#b.jpg", "a#b.jpg", "c.jpg", "c.jpg"]
    boxes = [store.column(name).tolist() for name in ("x", "y", "w", "h")]
    assert list(zip(*boxes, strict=True)) == [(1, 2, 3, 4), (0, 0, 70_000, 5), (None,) * 4, (5, 6, 7, 9)]
    assert store.column("x_").tolist() == [None, None, "an x", None]
    assert store.labels.tolist() == ["ant", None, "bee", None]
    assert [(key, store.parent_of(key)) for key, _ in store.failures()] == [("c.jpg#empty", "c.jpg")]
    content = [vector(key, SOURCE.content[key]) for key in store._key_bytes(None)]
    np.testing.assert_array_equal(store.features(), content)
    then = FeatureStore.open(path, at=(0, 1))
    assert then.column("h").tolist() == [4, 5, None, 8]


def test_featstore_reads_the_golden_store_of_regions():
    check(GOLDEN)


def test_featstore_writes_the_layout_of_the_golden_regions(tmp_path: Path):
    make(tmp_path / "s")
    check(tmp_path / "s")
    assert {name: sets for name, sets in layout(GOLDEN).items() if not name.startswith("tables")} == FILES
    assert layout(tmp_path / "s") == layout(GOLDEN)
    for name in FILES:
        with h5py.File(GOLDEN / name) as golden, h5py.File(tmp_path / "s" / name) as ours:
            for dataset in set(FILES[name]) - {"meta"}:
                np.testing.assert_array_equal(golden[dataset][()], ours[dataset][()])
            assert json.loads(golden["meta"][:].tobytes()).keys() == json.loads(ours["meta"][:].tobytes()).keys()


def test_older_featstore_refuses_a_store_of_regions(monkeypatch):
    monkeypatch.setattr(manifest, "KNOWN_FEATURES", manifest.KNOWN_FEATURES - {"regions"})
    with pytest.raises(UsageError, match=r"needs a newer featstore \(regions\)"):
        FeatureStore.open(GOLDEN)


def test_repair_restores_the_required_format_features_of_a_store():
    assert _requires(GOLDEN, FeatureStore.open(GOLDEN)._plan) == ("regions",)
