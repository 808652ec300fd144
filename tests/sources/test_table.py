from __future__ import annotations

import csv
import os
import tempfile
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from featstore.errors import UsageError
from featstore.sources import read_picture
from featstore.sources.table import TableSource, find_columns
from featstore.sources.tabular import open_table

from .helpers import keys, whole, write


def table(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_columns_by_name(tmp_path: Path):
    write(tmp_path, ["a.jpg", "sub/b.jpg"], b"123")
    path = table(
        tmp_path / "t.csv", "Path,Label,split,note,n\n./a.jpg,cat,train,x,1\nsub/b.jpg,,,y,2\ngone.jpg,dog,val,,\n"
    )
    source = TableSource(path)
    chunk = whole(source)
    assert chunk.keys == [b"a.jpg", b"sub/b.jpg", b"gone.jpg"]
    assert chunk.locations is None
    assert chunk.sizes.tolist() == [3, 3, -1]
    assert chunk.mtimes[0] == os.stat(tmp_path / "a.jpg").st_mtime_ns
    assert chunk.mtimes[2] == -1
    assert chunk.labels == ["cat", None, "dog"]
    assert chunk.splits == ["train", None, "val"]
    assert chunk.metadata == {"note": ["x", "y", ""], "n": ["1", "2", ""]}
    assert source.describe() == {
        "kind": "table",
        "location": str(path),
        "root": str(tmp_path),
        "columns": {"path": "Path", "id": None, "label": "Label", "split": "split"},
        "metadata": ["note", "n"],
    }


def test_an_id_is_the_key_and_the_path_the_location(tmp_path: Path):
    chunk = whole(TableSource(table(tmp_path / "t.csv", "id,file\n7,./a.jpg\nseven,/b.jpg\n")))
    assert chunk.keys == [b"7", b"seven"]
    assert chunk.locations == [b"a.jpg", b"/b.jpg"]


def test_columns_by_option(tmp_path: Path):
    path = table(tmp_path / "t.csv", "id,path,where,kind,fold,y\n1,p,a.jpg,cat,0,z\n")
    source = TableSource(path, path_column="where", id_column="path", label_column="kind", split_column="fold")
    chunk = whole(source)
    assert (chunk.keys, chunk.locations, chunk.labels, chunk.splits) == ([b"p"], [b"a.jpg"], ["cat"], ["0"])
    assert chunk.metadata == {"id": ["1"], "y": ["z"]}
    with pytest.raises(UsageError, match="no column 'nope'; its columns are id, path, where, kind, fold, y"):
        TableSource(path, label_column="nope")


def test_a_column_named_for_one_purpose_is_not_taken_for_another(tmp_path: Path):
    path = table(tmp_path / "t.csv", "id,label\na.jpg,b\n")
    columns = find_columns(open_table(path), path_column="id")
    assert (columns.path, columns.id, columns.label, columns.split) == ("id", None, "label", None)


def test_the_first_of_the_usual_names_wins(tmp_path: Path):
    columns = find_columns(open_table(table(tmp_path / "t.csv", "image,filename,key,ID,class,Label\n")))
    assert (columns.path, columns.id, columns.label) == ("filename", "ID", "Label")


def test_a_missing_path_column_lists_the_columns(tmp_path: Path):
    with pytest.raises(UsageError, match="--path-column: the columns are id, url, label"):
        TableSource(table(tmp_path / "t.csv", "id,url,label\n"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,label\n", "holds no pictures"),
        ("path,label\na.jpg,x\n,y\n", "line 3 has no path"),
        ("path,label\n./,y\n", "line 2 has no path"),
        ("id,path\n,a.jpg\n", "line 2 has no id"),
    ],
)
def test_empty_tables_paths_and_ids(tmp_path: Path, text: str, message: str):
    with pytest.raises(UsageError, match=message):
        keys(TableSource(table(tmp_path / "t.csv", text)))


def test_root_relocates_relative_paths_only(tmp_path: Path):
    write(tmp_path / "moved", ["a.jpg"])
    write(tmp_path, ["b.jpg"])
    path = table(tmp_path / "t.csv", f"path\na.jpg\n{tmp_path}/b.jpg\n../b.jpg\n")
    source = TableSource(path, root=tmp_path / "moved")
    chunk = whole(source)
    assert source.root == tmp_path / "moved"
    assert chunk.keys == [b"a.jpg", os.fsencode(tmp_path) + b"/b.jpg", b"../b.jpg"]
    # A relative path that leaves the root is an input that will fail, not a file that is looked at.
    assert chunk.sizes.tolist() == [1, 1, -1]
    assert whole(TableSource(path)).sizes.tolist() == [-1, 1, -1]


def test_parquet(tmp_path: Path):
    data = {
        "image_id": [3, 1],
        "path": ["b.jpg", "a.jpg"],
        "label": [1, 0],
        "weight": [0.5, None],
        "split": ["x", None],
    }
    parquet.write_table(pa.table(data), tmp_path / "t.parquet")
    chunk = whole(TableSource(tmp_path / "t.parquet"))
    assert chunk.keys == [b"3", b"1"]
    assert chunk.locations == [b"b.jpg", b"a.jpg"]
    assert chunk.labels == ["1", "0"]
    assert chunk.splits == ["x", None]
    assert chunk.metadata == {"weight": [0.5, None]}


def test_parquet_paths_may_be_bytes(tmp_path: Path):
    write(tmp_path, [b"\xff.jpg"])
    parquet.write_table(pa.table({"path": [b"\xff.jpg"]}), tmp_path / "t.parquet")
    assert whole(TableSource(tmp_path / "t.parquet")).sizes.tolist() == [1]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"path": ["a"], "thumbnail": [b"x"]}, "'thumbnail' holds binary data"),
        ({"path": [1]}, "row 1 has a path of type int"),
        ({"path": ["a", None]}, "row 2 has no path"),
        ({"image": [{"bytes": b"x", "path": "a"}]}, "row 1 has a path of type dict"),
    ],
)
def test_parquet_columns_that_cannot_be_used(tmp_path: Path, data: dict[str, list[object]], message: str):
    parquet.write_table(pa.table(data), tmp_path / "t.parquet")
    with pytest.raises(UsageError, match=message):
        keys(TableSource(tmp_path / "t.parquet"))


def test_chunks_are_full_across_row_groups(tmp_path: Path):
    parquet.write_table(pa.table({"path": [f"{i}.jpg" for i in range(25)]}), tmp_path / "t.parquet", row_group_size=4)
    source = TableSource(tmp_path / "t.parquet")
    assert [len(chunk) for chunk in source.chunks(10)] == [10, 10, 5]
    assert keys(source, 10) == keys(source, 7) == [b"%d.jpg" % i for i in range(25)]


name = st.binary(min_size=1, max_size=8).filter(lambda text: b"\0" not in text and b"/" not in text)


@settings(deadline=None, max_examples=60)
@given(st.lists(name.map(lambda text: b"x" + text), min_size=1, max_size=4, unique=True))
def test_files_of_any_name_are_reached_through_a_csv(names: list[bytes]):
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        made = []
        for index, file in enumerate(names):
            try:
                write(root / "pictures", [file], b"%d" % index)
            except OSError:
                continue  # This file system refuses such a name.
            made.append(file)
        if not made:
            return
        with open(root / "t.csv", "w", errors="surrogateescape", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, quoting=csv.QUOTE_ALL)
            writer.writerows([["path"], *([os.fsdecode(text)] for text in made)])
        source = TableSource(root / "t.csv", root=root / "pictures")
        assert keys(source) == made
        for text in made:
            assert read_picture(source.root, text, -1, -1, limit=10).data == b"%d" % names.index(text)
