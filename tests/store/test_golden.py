"""Fixed format: the store in tests/golden, written by version 1, must stay readable."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np

from featstore.store import FeatureStore
from featstore.store.repair.verify import verify_store
from tests.store.building import D, Pictures, build, identity, plan, vector, work

GOLDEN = Path(__file__).parents[1] / "golden" / "store"
SOURCE = Pictures(
    {b"ant/1.jpg": 1, b"ant/2 \xff\n.jpg": 2, b"bee/3.jpg": -1, b"bee/4.jpg": 4, b"bee/5.jpg": 5, b"bee/6.jpg": 6},
    {b"ant/1.jpg": "ant", b"ant/2 \xff\n.jpg": "ant", b"bee/4.jpg": "bee"},
    {b"bee/4.jpg": "val"},
    {"age": {b"ant/1.jpg": 3, b"bee/4.jpg": 5}, "note": {b"bee/4.jpg": "ü"}},
)
SHARD = {
    "features": ("<f4", 2),
    "row_xxh3": ("<u8", 1),
    "id": ("<u8", 1),
    "view": ("<u4", 1),
    "sha256": ("|u1", 2),
    "keys/bytes": ("|u1", 1),
    "keys/offsets": ("<u8", 1),
    "lookup/hi": ("<u8", 1),
    "lookup/lo": ("<u8", 1),
    "lookup/row": ("<u4", 1),
    "failures/id": ("<u8", 1),
    "failures/keys/bytes": ("|u1", 1),
    "failures/keys/offsets": ("<u8", 1),
    "failures/reason/bytes": ("|u1", 1),
    "failures/reason/offsets": ("<u8", 1),
    "failures/message/bytes": ("|u1", 1),
    "failures/message/offsets": ("<u8", 1),
    "failures/sha256": ("|u1", 2),
    "meta": ("|u1", 1),
}
PLAN = {
    "id": ("<u8", 1),
    "view": ("<u4", 1),
    "size": ("<i8", 1),
    "mtime": ("<i8", 1),
    "keys/bytes": ("|u1", 1),
    "keys/offsets": ("<u8", 1),
    "lookup/hi": ("<u8", 1),
    "lookup/lo": ("<u8", 1),
    "lookup/row": ("<u4", 1),
    "units/number": ("<u8", 1),
    "units/start": ("<u8", 1),
    "retired/id": ("<u8", 1),
    "retired/why": ("|u1", 1),
    "touched/id": ("<u8", 1),
    "touched/size": ("<i8", 1),
    "touched/mtime": ("<i8", 1),
    "meta": ("|u1", 1),
}
TABLE = {
    "keys/bytes": ("|u1", 1),
    "keys/offsets": ("<u8", 1),
    "lookup/hi": ("<u8", 1),
    "lookup/lo": ("<u8", 1),
    "lookup/row": ("<u4", 1),
    "row_digest": ("<u8", 1),
    "columns/0/values": ("<i4", 1),
    "columns/0/categories/bytes": ("|u1", 1),
    "columns/0/categories/offsets": ("<u8", 1),
    "columns/1/values": ("<i4", 1),
    "columns/1/categories/bytes": ("|u1", 1),
    "columns/1/categories/offsets": ("<u8", 1),
    "columns/2/values": ("<i8", 1),
    "columns/2/valid": ("|b1", 1),
    "columns/3/values": ("<i4", 1),
    "columns/3/categories/bytes": ("|u1", 1),
    "columns/3/categories/offsets": ("<u8", 1),
    "meta": ("|u1", 1),
}
FILES = {
    "plan/000000/000000.h5": PLAN,
    "plan/000000/000001.h5": PLAN,
    "shards/000000-00000000.h5": SHARD,
    "shards/000000-00000001.h5": SHARD,
    "shards/000000-00000002.h5": SHARD,
    "tables/000000/000000.h5": TABLE,
}


def make(path: Path) -> None:
    """Write the stored example, the "golden" store. This was run once by hand when version 1 of the format was
    final."""
    build(path, SOURCE)
    changed = Pictures({**SOURCE.content, b"bee/5.jpg": 55}, SOURCE.labels, SOURCE.splits, SOURCE.metadata)
    plan(path, changed)
    work(path, changed)
    (path / "work").rmdir()


def layout(path: Path) -> dict[str, dict[str, tuple[str, int]]]:
    """Return the datasets of every HDF5 file below ``path``, as h5py reports them."""
    found = {}
    for file in sorted(path.rglob("*.h5")):
        with h5py.File(file) as opened:
            datasets: dict[str, tuple[str, int]] = {}
            opened.visititems(
                lambda name, item, into=datasets: (
                    into.update({name: (item.dtype.str, item.ndim)}) if isinstance(item, h5py.Dataset) else None
                )
            )
        found[str(file.relative_to(path))] = datasets
    return found


def check(path: Path) -> None:
    store = FeatureStore.open(path)
    assert verify_store(path).problems == []
    assert store.identity == identity()
    content = {**SOURCE.content, b"bee/5.jpg": 55}
    keys = list(store._key_bytes(None))
    assert keys == [b"ant/1.jpg", b"ant/2 \xff\n.jpg", b"bee/4.jpg", b"bee/6.jpg", b"bee/5.jpg"]
    np.testing.assert_array_equal(store.features(), [vector(key, content[key]) for key in keys])
    assert store.ids.tolist() == [0, 1, 3, 5, 6]
    assert store.labels.tolist() == ["ant", "ant", "bee", None, None]
    assert store.splits.tolist() == [None, None, "val", None, None]
    assert store.column("age").tolist() == [3, None, 5, None, None]
    assert [(key, failure.id, failure.reason) for key, failure in store.failures()] == [("bee/3.jpg", 2, "corrupt")]


def test_featstore_reads_the_golden_store():
    check(GOLDEN)


def test_featstore_reads_the_golden_store_without_lookup_tables():
    check(GOLDEN.with_name("without_lookup"))


def test_featstore_writes_the_layout_of_the_golden_store(tmp_path):
    make(tmp_path / "s")
    check(tmp_path / "s")
    assert layout(tmp_path / "s") == layout(GOLDEN) == FILES
    for name in FILES:
        with h5py.File(GOLDEN / name) as golden, h5py.File(tmp_path / "s" / name) as ours:
            for dataset in set(FILES[name]) - {"meta"}:
                np.testing.assert_array_equal(golden[dataset][()], ours[dataset][()])
            since = {"versions"} if name.startswith("plan") else {"generation"} if name.startswith("tables") else set()
            before, now = (json.loads(file["meta"][:].tobytes()).keys() for file in (golden, ours))
            assert before | since == now
    golden, ours = (json.loads((path / "featstore.json").read_text()) for path in (GOLDEN, tmp_path / "s"))
    assert golden.keys() == ours.keys()
    assert golden["fingerprint"] == ours["fingerprint"]


def test_plain_h5py_and_json_read_the_golden_vectors():
    """Read the vectors with h5py and json, as the README describes the format, and compare with FeatureStore."""
    manifest = json.loads((GOLDEN / "featstore.json").read_text())
    retired = set()
    for segment in sorted(GOLDEN.glob(f"plan/{manifest['epoch']:06d}/*.h5")):
        with h5py.File(segment) as file:
            retired |= set(file["retired/id"][:].tolist())
    vectors = {}
    for shard in sorted(GOLDEN.glob("shards/*.h5")):
        with h5py.File(shard) as file:
            offsets, blob = file["keys/offsets"][:].astype(int), file["keys/bytes"][:].tobytes()
            for row, number in enumerate(file["id"][:].tolist()):
                if number not in retired:
                    vectors[blob[offsets[row] : offsets[row + 1]]] = file["features"][row]
    store = FeatureStore.open(GOLDEN)
    assert list(vectors) == list(store._key_bytes(None))
    np.testing.assert_array_equal(np.stack(list(vectors.values())), store.features())
    assert manifest["identity"]["dimension"] == D
