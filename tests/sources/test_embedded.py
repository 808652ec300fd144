from __future__ import annotations

import io
import json
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from featstore.errors import FeatstoreError, UsageError
from featstore.sources import ReadFailure, open_source, read_picture
from featstore.sources.embedded import ParquetSource
from featstore.store import FeatureStore
from tests.made import extract, picture, tiny_backbone

from .helpers import whole

DATA = [b"\0" + bytes([n]) * (n + 1) for n in range(200)]


def table(
    path: Path,
    images: list[object],
    *,
    group: int = 50,
    meta: dict[bytes, bytes] | None = None,
    **columns: list[object],
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    made = pa.table({"image": images, **columns})
    parquet.write_table(made.replace_schema_metadata(meta), path, row_group_size=group, write_batch_size=8)
    return path


def structs(data: list[bytes | None]) -> list[object]:
    return [{"bytes": one, "path": f"{n}.jpg"} for n, one in enumerate(data)]


def read_all(source: ParquetSource, order: list[int] | None = None) -> list[bytes]:
    chunk = whole(source)
    rows = range(len(chunk)) if order is None else order
    return [
        read_picture(source.root, chunk.locations[n], int(chunk.offsets[n]), int(chunk.sizes[n]), limit=1 << 20).data
        for n in rows
    ]


def test_parquet_source_reads_structs_of_bytes_and_path(tmp_path: Path):
    path = table(
        tmp_path / "t.parquet",
        structs(DATA[:3]),
        label=["ant", "bee", None],
        split=["train", "val", "val"],
        n=[1, 2, 3],
    )
    source = open_source(path)
    chunk = whole(source)
    assert (source.kind, chunk.keys) == ("parquet", [b"t.parquet/0", b"t.parquet/1", b"t.parquet/2"])
    assert (chunk.labels, chunk.splits) == (["ant", "bee", None], ["train", "val", "val"])
    assert chunk.metadata == {"n": [1, 2, 3], "image.path": ["0.jpg", "1.jpg", "2.jpg"]}
    assert read_all(source) == DATA[:3]
    assert source.read_as == (
        "2 classes from the column 'label' (1 of 3 without a label), 2 splits (train, val) from the column 'split', "
        "pictures in the column 'image' of 1 file(s)"
    )


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary()])
def test_parquet_source_reads_pictures_from_a_column_of_bytes(tmp_path: Path, kind: pa.DataType):
    path = table(tmp_path / "t.parquet", pa.array(DATA[:3], kind), photo=pa.array(DATA[3:6], kind), id=["x", "y", "z"])
    source = open_source(path)
    chunk = whole(source)
    assert chunk.keys == [b"x", b"y", b"z"]
    assert read_all(source) == DATA[:3]
    assert any("'photo', which has bytes too, is left out" in note for note in source.notes)
    assert read_all(open_source(path, path_column="photo")) == DATA[3:6]


def test_parquet_pictures_can_be_read_in_any_order_by_many_threads(tmp_path: Path):
    source = open_source(table(tmp_path / "t.parquet", structs(DATA)))
    order = np.random.default_rng(0).permutation(200).tolist()
    assert read_all(source, order) == [DATA[n] for n in order]
    found: dict[int, list[bytes]] = {}
    threads = [
        threading.Thread(target=lambda n=n: found.__setitem__(n, read_all(source, list(range(n, 200, 8)))))
        for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(found[n] == DATA[n::8] for n in range(8))


@pytest.mark.slow
def test_reading_parquet_pictures_needs_less_memory_than_a_row_group(tmp_path: Path):
    size = 1 << 20
    random = np.random.default_rng(0)
    data = [b"\0" + random.bytes(size) for _ in range(150)]
    source = open_source(table(tmp_path / "t.parquet", structs(data), group=150))
    del data
    before = pa.total_allocated_bytes()
    chunk = whole(source)
    peak = 0
    for n in range(150):
        place = chunk.locations[n], int(chunk.offsets[n]), int(chunk.sizes[n])
        assert len(read_picture(source.root, *place, limit=1 << 30).data) == size + 1
        peak = max(peak, pa.total_allocated_bytes() - before)
    assert peak < 50 * size


def test_splits_of_parquet_files_come_from_their_file_names(tmp_path: Path):
    features = {"info": {"features": {"label": {"names": ["ant", "bee"], "_type": "ClassLabel"}}}}
    meta = {b"huggingface": json.dumps(features).encode()}
    table(tmp_path / "data/train-00000-of-00002.parquet", structs(DATA[:2]), meta=meta, label=[0, 1])
    table(tmp_path / "data/train-00001-of-00002.parquet", structs(DATA[2:4]), meta=meta, label=[1, -1])
    table(tmp_path / "data/test-00000-of-00001.parquet", structs(DATA[4:5]), meta=meta, label=[0])
    (tmp_path / "README.md").write_text("a data set")
    source = open_source(tmp_path)
    chunk = whole(source)
    assert chunk.keys[0] == b"data/test-00000-of-00001.parquet/0"
    assert chunk.labels == ["ant", "ant", "bee", "bee", None]
    assert chunk.splits == ["test", "train", "train", "train", "train"]
    assert read_all(source) == [DATA[4], *DATA[:4]]
    assert "2 splits (test, train) from file names" in source.read_as


@pytest.mark.parametrize(
    ("data", "reason"), [([None, b"\0x"], "missing"), ([b"", b"\0x"], "empty"), ([b"\0" * 200, b"\0x"], "too-large")]
)
def test_null_empty_and_oversized_parquet_pictures_become_failures(
    tmp_path: Path, data: list[bytes | None], reason: str
):
    chunk = whole(open_source(table(tmp_path / "t.parquet", structs(data))))
    with pytest.raises(ReadFailure) as caught:
        read_picture(tmp_path, chunk.locations[0], 0, int(chunk.sizes[0]), limit=100)
    assert caught.value.reason == reason
    assert read_picture(tmp_path, chunk.locations[1], 1, int(chunk.sizes[1]), limit=100).data == b"\0x"


def test_reading_from_a_changed_parquet_file_is_an_error(tmp_path: Path):
    path = table(tmp_path / "t.parquet", structs(DATA[:2]))
    chunk = whole(open_source(path))
    table(path, structs(DATA[5:9]))
    with pytest.raises(ReadFailure, match="was changed") as caught:
        read_picture(tmp_path, chunk.locations[0], 0, int(chunk.sizes[0]), limit=100)
    assert caught.value.reason == "changed-while-read"


@pytest.mark.slow
def test_unusable_parquet_files_give_a_one_line_error(tmp_path: Path):
    with pytest.raises(UsageError, match="row 1 has a label that is a list"):
        whole(open_source(table(tmp_path / "l/t.parquet", structs(DATA[:1]), label=[["ant"]])))
    table(tmp_path / "d/a.parquet", structs(DATA[:1]), label=["x"])
    table(tmp_path / "d/b.parquet", structs(DATA[:1]))
    with pytest.raises(UsageError, match=r"b.parquet: has no column 'label', which .*a.parquet has"):
        whole(open_source(tmp_path / "d"))
    (tmp_path / "p").mkdir()
    parquet.write_table(pa.table({"path": ["a.jpg"]}), tmp_path / "p/t.parquet")
    with pytest.raises(UsageError, match="has no column of pictures"):
        open_source(tmp_path / "p")
    (tmp_path / "x.parquet").write_bytes(b"PAR1" + bytes(50))
    with pytest.raises(FeatstoreError, match="is no Parquet file that can be read"):
        open_source(tmp_path / "x.parquet")


def test_pictures_in_parquet_give_the_same_vectors_as_picture_files(tmp_path: Path):
    files, data = tmp_path / "pictures", []
    files.mkdir()
    for n in range(12):
        buffer = io.BytesIO()
        picture(n).save(buffer, "png")
        data.append(buffer.getvalue())
        (files / f"{n:02}.png").write_bytes(data[-1])
    table(tmp_path / "t.parquet", structs(data), group=5, label=["ant", "bee"] * 6)
    for source, store in ((files, "a"), (tmp_path / "t.parquet", "b")):
        report = extract(source, tmp_path / store, backbone=tiny_backbone(), engine="torch", batch=4)
        assert (report.vectors, report.failures) == (12, 0)
    stored = FeatureStore.open(tmp_path / "b")
    assert np.array_equal(FeatureStore.open(tmp_path / "a").features(), stored.features())
    assert stored.labels.tolist() == ["ant", "bee"] * 6
    again = extract(tmp_path / "t.parquet", tmp_path / "b", backbone=tiny_backbone(), engine="torch")
    assert (again.new_vectors, again.change.unchanged) == (0, 12)
    assert Image.open(io.BytesIO(data[0])).size == (24, 20)
