"""Files from an attacker, with valid checksums: readers read the file or raise FeatstoreError."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featstore.errors import FeatstoreError
from featstore.files import atomic, sealed
from featstore.heads import load_head
from featstore.indexes import FeatureIndex
from featstore.stages.verify import verify
from featstore.store import FeatureStore, Identity
from featstore.store.journal import read_journal
from featstore.store.manifest import Manifest

SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8)
)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
FIELDS = [
    "format",
    "version",
    "requires",
    "store_id",
    "created",
    "epoch",
    "unit_rows",
    "weights_name",
    "fingerprint",
    "identity",
]


@given(
    changes=st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=3),
    gone=st.sets(st.sampled_from(FIELDS), max_size=2),
)
def test_manifest_with_any_content_is_read_or_refused_with_a_featstore_error(
    master: Path, changes: dict[str, Any], gone: set[str]
) -> None:
    value = json.loads((master / "store" / "featstore.json").read_text())
    del value["checksum"]
    with tempfile.TemporaryDirectory() as folder:
        atomic.write_json(
            Path(folder) / "featstore.json", {name: v for name, v in {**value, **changes}.items() if name not in gone}
        )
        with contextlib.suppress(FeatstoreError):
            Manifest.read(Path(folder))


@given(st.binary(max_size=200))
def test_files_of_any_bytes_are_read_or_refused_with_a_featstore_error(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "featstore.json"
        for content in (data, sealed.MAGIC.encode() + b" " + data, b"FSJ1" + data):
            path.write_bytes(content)
            with contextlib.suppress(FeatstoreError):
                Manifest.read(Path(folder))
            with contextlib.suppress(FeatstoreError):
                sealed.SealedFile(path)
            with contextlib.suppress(FeatstoreError):
                read_journal(path, 4, np.dtype("<f4"))


@given(JSON, st.dictionaries(st.sampled_from([*Identity.__dataclass_fields__]), JSON))
def test_identity_record_with_any_content_is_read_or_refused(value: Any, fields: dict[str, Any]) -> None:
    for identity in (
        value,
        fields,
        {**dict.fromkeys(Identity.__dataclass_fields__, "x"), "dimension": 4, "preprocessing": {}, **fields},
    ):
        if isinstance(identity, dict):
            with contextlib.suppress(FeatstoreError):
                Identity.from_dict(identity)


@given(
    changes=st.dictionaries(
        st.sampled_from(["kind", "bytes", "xxh3", "summary", "arrays"]), JSON, min_size=1, max_size=2
    )
)
def test_sealed_file_header_with_any_content_is_read_or_refused(master: Path, changes: dict[str, Any]) -> None:
    data = (master / "a.head").read_bytes()
    header = sealed.read_header(master / "a.head")
    size = header.pop("header_bytes")
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(ValueError):
        path = Path(folder) / "a.head"
        path.write_bytes(sealed._header_text({**header, **changes}, size) + data[size:])
        with contextlib.suppress(FeatstoreError):
            sealed.SealedFile(path).verify()
        with contextlib.suppress(FeatstoreError):
            load_head(path)


def forge(path: Path, draw: random.Random) -> None:
    """Change something at random in a sealed file (HDF5 with checksums) and write valid checksums."""
    found = sealed.SealedFile(path)
    arrays: dict[str, Any] = {name: found[name].copy() for name in found.names if name != "meta"}
    meta, summary = found.meta, dict(found.summary)
    odd: list[Any] = [None, -1, 0, 1 << 70, 1.5, "x", [], {}, [[1]], True]
    for _ in range(draw.choice((1, 1, 2))):
        what, name = draw.random(), draw.choice(sorted(arrays))
        array = arrays[name]
        if what < 0.2:
            size = draw.choice((0, 1, len(array) + 1, max(0, len(array) - 1)))
            arrays[name] = (
                np.resize(array, (size, *array.shape[1:]))
                if array.size
                else np.zeros((size, *array.shape[1:]), array.dtype)
            )
        elif what < 0.35:
            arrays[name] = np.zeros(array.shape, draw.choice(("<f4", "|u1", "<u8", "<i8", "|i1", "|b1", "<i4")))
        elif what < 0.45:
            arrays[name] = array.reshape(-1, 1) if draw.random() < 0.5 else np.zeros((len(array), 3), array.dtype)
        elif what < 0.75 and array.size:
            flat = array.reshape(-1)
            limits = np.iinfo(array.dtype) if array.dtype.kind in "iu" else None
            flat[draw.randrange(len(flat))] = (
                draw.choice((limits.max, limits.min, 1, len(flat))) if limits else draw.choice((np.nan, np.inf, 0))
            )
        elif what < 0.8:
            del arrays[name]
        elif what < 0.9 and summary:
            summary[draw.choice(sorted(summary))] = draw.choice(odd)
        elif meta:
            key = draw.choice(sorted(meta))
            if isinstance(meta[key], list) and meta[key] and draw.random() < 0.5:
                meta[key][draw.randrange(len(meta[key]))] = draw.choice(odd)
            else:
                meta[key] = draw.choice(odd)
    sealed.write(path, found.header["kind"], arrays, meta, summary)


def use(folder: Path) -> None:
    store = FeatureStore.open(folder / "store")
    for read in (
        lambda: list(store.keys),
        store.failures,
        store.to_pandas,
        lambda: store.index_of([b"cat/00.png", b"dog/07.png"], missing="mark"),
        lambda: [block.sum() for block in store.blocks()],
        lambda: store.features(rows=[0, len(store) - 1]),
        lambda: store._plan.stat(store.ids),
        lambda: store._plan.key_of(store.ids),
        lambda: [store._plan.rows(unit) for unit in store.units],
        lambda: store._content(store.ids),
        store._pending_units,
        lambda: store.sha256,
    ):
        with contextlib.suppress(FeatstoreError):
            read()


@pytest.fixture(scope="module")
def victim(master: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("forged") / "all"
    shutil.copytree(master, folder)
    return folder


@pytest.mark.slow
@settings(max_examples=120)
@given(seed=st.integers(0, 10**9))
def test_sealed_files_with_changed_content_are_read_or_refused(victim: Path, seed: int) -> None:
    draw = random.Random(seed)
    file = draw.choice([*sorted((victim / "store").rglob("*.h5")), victim / "a.head", victim / "an.index.featstore"])
    whole = file.read_bytes()
    try:
        forge(file, draw)
        with contextlib.suppress(FeatstoreError):
            use(victim)
        verify(victim / "store" if file.suffix == ".h5" else file)
        for path, reader in ((victim / "a.head", load_head), (victim / "an.index", FeatureIndex.open)):
            if file.name.startswith(path.name):
                with contextlib.suppress(FeatstoreError):
                    reader(path)
    finally:
        file.write_bytes(whole)
