from __future__ import annotations

import csv
import datetime
import json
import os
import tempfile
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from featstore.errors import UsageError
from featstore.sources import read_picture
from featstore.sources.base import label_text
from featstore.sources.table import TableSource, find_columns
from featstore.sources.tabular import open_table

from .helpers import keys, whole, write


def table(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_table_columns_are_recognised_by_usual_names(tmp_path: Path):
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


def test_table_keys_come_from_the_id_column_and_locations_from_the_path(tmp_path: Path):
    chunk = whole(TableSource(table(tmp_path / "t.csv", "id,file\n7,./a.jpg\nseven,/b.jpg\n")))
    assert chunk.keys == [b"7", b"seven"]
    assert chunk.locations == [b"a.jpg", b"/b.jpg"]


def test_column_options_choose_the_columns_of_a_table(tmp_path: Path):
    path = table(tmp_path / "t.csv", "id,path,where,kind,fold,y\n1,p,a.jpg,cat,0,z\n")
    source = TableSource(path, path_column="where", id_column="path", label_column="kind", split_column="fold")
    chunk = whole(source)
    assert (chunk.keys, chunk.locations, chunk.labels, chunk.splits) == ([b"p"], [b"a.jpg"], ["cat"], ["0"])
    assert chunk.metadata == {"id": ["1"], "y": ["z"]}
    with pytest.raises(UsageError, match="no column 'nope'; its columns are id, path, where, kind, fold, y"):
        TableSource(path, label_column="nope")


def test_path_column_of_a_table_is_not_also_the_id_column(tmp_path: Path):
    path = table(tmp_path / "t.csv", "id,label\na.jpg,b\n")
    columns = find_columns(open_table(path), path_column="id")
    assert (columns.path, columns.id, columns.label, columns.split) == ("id", None, "label", None)


def test_table_source_chooses_the_most_usual_of_several_column_names(tmp_path: Path):
    columns = find_columns(open_table(table(tmp_path / "t.csv", "image,filename,key,ID,class,Label\n")))
    assert (columns.path, columns.id, columns.label) == ("filename", "ID", "Label")


def test_error_for_a_missing_path_column_lists_the_columns(tmp_path: Path):
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
def test_table_source_rejects_empty_tables_paths_and_ids(tmp_path: Path, text: str, message: str):
    with pytest.raises(UsageError, match=message):
        keys(TableSource(table(tmp_path / "t.csv", text)))


def test_root_option_applies_only_to_relative_paths_of_a_table(tmp_path: Path):
    write(tmp_path / "moved", ["a.jpg"])
    write(tmp_path, ["b.jpg"])
    path = table(tmp_path / "t.csv", f"path\na.jpg\n{tmp_path}/b.jpg\n../b.jpg\n")
    source = TableSource(path, root=tmp_path / "moved")
    chunk = whole(source)
    assert source.root == tmp_path / "moved"
    assert chunk.keys == [b"a.jpg", os.fsencode(tmp_path) + b"/b.jpg", b"../b.jpg"]
    # A relative path that leads out of the root becomes a failure; the file is not opened.
    assert chunk.sizes.tolist() == [1, 1, -1]
    assert whole(TableSource(path)).sizes.tolist() == [-1, 1, -1]


def test_table_source_reads_a_parquet_table(tmp_path: Path):
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
def test_table_source_rejects_unusable_parquet_columns(tmp_path: Path, data: dict[str, list[object]], message: str):
    parquet.write_table(pa.table(data), tmp_path / "t.parquet")
    with pytest.raises(UsageError, match=message):
        keys(TableSource(tmp_path / "t.parquet"))


def test_table_chunks_have_the_requested_length_for_any_parquet_row_group_size(tmp_path: Path):
    parquet.write_table(pa.table({"path": [f"{i}.jpg" for i in range(25)]}), tmp_path / "t.parquet", row_group_size=4)
    source = TableSource(tmp_path / "t.parquet")
    assert [len(chunk) for chunk in source.chunks(10)] == [10, 10, 5]
    assert keys(source, 10) == keys(source, 7) == [b"%d.jpg" % i for i in range(25)]


name = st.binary(min_size=1, max_size=8).filter(lambda text: b"\0" not in text and b"/" not in text)


@settings(deadline=None, max_examples=60)
@given(st.lists(name.map(lambda text: b"x" + text), min_size=1, max_size=4, unique=True))
def test_csv_table_may_list_files_of_any_name(names: list[bytes]):
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        made = []
        for index, file in enumerate(names):
            try:
                write(root / "pictures", [file], b"%d" % index)
            except OSError:
                continue  # Skip names that the file system rejects.
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


def one_of(data: dict[str, object], folder: Path) -> TableSource:
    parquet.write_table(pa.table({"path": ["a.jpg", "b.jpg"], **data}), folder / "t.parquet")
    return TableSource(folder / "t.parquet")


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([Decimal("1"), Decimal("2.50")], ["1.00", "2.50"]),
        ([datetime.date(2024, 1, 2), None], ["2024-01-02", None]),
        ([datetime.datetime(2024, 1, 2, 3), None], ["2024-01-02T03:00:00", None]),
        ([datetime.time(3), None], ["03:00:00", None]),
        ([datetime.timedelta(hours=1), None], ["1:00:00", None]),
        ([1.0, None], ["1", None]),
        ([b"cat", b"dog"], ["cat", "dog"]),
    ],
)
def test_table_source_keeps_parquet_labels_of_every_scalar_type(
    tmp_path: Path, labels: list[object], expected: list[str | None]
):
    found = whole(one_of({"label": labels}, tmp_path)).labels
    assert found == [None if text is None else label_text(Decimal(text)) if "." in text else text for text in expected]


@pytest.mark.parametrize("labels", [[["cat"], ["dog"]], [{"name": "cat"}, {"name": "dog"}]])
def test_table_source_rejects_lists_and_structs_as_labels(tmp_path: Path, labels: list[object]):
    source = one_of({"label": labels}, tmp_path)
    with pytest.raises(UsageError, match=r"row 1 has a label that is a (list|struct).*--label-column ''"):
        whole(source)
    assert whole(TableSource(tmp_path / "t.parquet", label_column="")).labels == [None, None]


def test_blanks_after_commas_in_a_csv_table_are_removed(tmp_path: Path):
    path = table(tmp_path / "t.csv", 'path, label, split, note\na.jpg, cat, train, "x, y"\nb.jpg, dog , val,\n')
    source = TableSource(path)
    chunk = whole(source)
    assert (chunk.labels, chunk.splits) == (["cat", "dog"], ["train", "val"])
    assert chunk.metadata == {"note": ["x, y", ""]}
    assert source.read_as == (
        "2 classes from the column 'label', 2 splits (train, val) from the column 'split', keys from the column 'path', "
        "columns note"
    )


def test_csv_values_keep_leading_blanks_if_column_names_have_no_leading_blanks(tmp_path: Path):
    write(tmp_path, [" a.jpg"])
    chunk = whole(TableSource(table(tmp_path / "t.csv", "label,path\ncat, a.jpg\n")))
    assert (chunk.keys, chunk.sizes.tolist()) == ([b" a.jpg"], [1])


def test_integer_and_float_spellings_of_a_number_are_one_class(tmp_path: Path):
    chunk = whole(TableSource(table(tmp_path / "t.csv", "path,label\na.jpg,1\nb.jpg,1.0\nc.jpg,\n")))
    assert chunk.labels == ["1", "1", None]


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ("path,lable", "one called 'lable'; did you mean 'label'? --label-column lable takes it"),
        ("path,label,slpit", "one called 'slpit'; did you mean 'split'?"),
        ("path,Calss", "one called 'Calss'; did you mean 'class'?"),
        ("ant/1.jpg,ant", "its first line names a picture, where it must name the columns"),
    ],
)
def test_table_source_rejects_misspelt_and_missing_headers(tmp_path: Path, header: str, words: str):
    with pytest.raises(UsageError) as caught:
        TableSource(table(tmp_path / "t.csv", f"{header}\na.jpg,x,y\n"))
    assert words in str(caught.value)


def test_error_for_a_misspelt_column_option_suggests_a_column(tmp_path: Path):
    path = table(tmp_path / "t.csv", "path,species,Note\na.jpg,x,y\n")
    with pytest.raises(UsageError, match="did you mean 'species'"):
        TableSource(path, label_column="specie")
    assert TableSource(path, label_column="note").columns.label == "Note"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "path,label,class\na.jpg,x,y\nb.jpg,z,y\n",
            "'label' is taken for the label, 'class' is not (--label-column changes it)",
        ),
        ("path,label\na.jpg,\nb.jpg,\n", "the column 'label' is empty"),
        ("path,label\na.jpg,NA\nb.jpg,x\n", "'NA' is read as a class (1 picture)"),
        ("path,label\na.jpg,cat\nb.jpg,Cat\n", "the classes 'Cat' (1) and 'cat' (1) look alike"),
        ("path,label,split\na.jpg,x,train\nb.jpg,y,Train\n", "the splits 'Train' (1) and 'train' (1) look alike"),
        ("path,label\n" + "".join(f"{n}.jpg,{n / 7}\n" for n in range(30)), "is this an identifier, or a measure"),
    ],
)
def test_table_source_notes_columns_that_may_be_mistakes(tmp_path: Path, text: str, words: str):
    source = TableSource(table(tmp_path / "t.csv", text))
    whole(source)
    assert any(words in note for note in source.notes), source.notes


@pytest.mark.parametrize(
    ("file", "written", "words"),
    [
        ("ants/x.jpg", "ants\\x.jpg", "written with backslashes"),
        ("caf\u00e9.jpg", "cafe\u0301.jpg", "another Unicode form"),
        ("cafe\u0301/\u00e9.jpg", "caf\u00e9/\u00e9.jpg", "another Unicode form"),
        ("\u00e9/x.jpg", "e\u0301\\x.jpg", "another Unicode form"),
        ("a b.jpg", "a%20b.jpg", "%-escapes"),
        ("a.jpg", "a.jpg ", "blanks or quotes"),
        ("a.jpg", "file://{root}/a.jpg", "a file: address"),
    ],
)
def test_table_paths_in_other_spellings_match_their_files(tmp_path: Path, file: str, written: str, words: str):
    write(tmp_path, [file], b"123")
    source = TableSource(table(tmp_path / "t.csv", f"path,label\n{written.format(root=tmp_path)},x\n"))
    chunk = whole(source)
    assert chunk.sizes.tolist() == [3]
    assert read_picture(tmp_path, (chunk.locations or chunk.keys)[0], -1, -1, limit=100).data == b"123"
    assert any(words in note for note in source.notes), source.notes
    assert source.unfound == ""


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("https://host/a.jpg", "addresses such as https:// or s3:// are not opened"),
        ("s3://bucket/a.jpg", "addresses such as https:// or s3:// are not opened"),
        ("C:\\data\\a.jpg", "paths of a Windows drive"),
        ("A.JPG", "differs in upper and lower case"),
        ("a", "the file's name has an ending, .jpg"),
        ("gone.jpg", ""),
        ("..\\..\\etc\\passwd", ""),
    ],
)
def test_table_source_explains_why_files_are_missing(tmp_path: Path, written: str, words: str):
    write(tmp_path, ["a.jpg"])
    source = TableSource(table(tmp_path / "t.csv", f"path,label\n{written},x\n"))
    assert whole(source).sizes.tolist() == [-1]
    assert words in source.unfound
    assert bool(words) == bool(source.unfound)


def test_hugging_face_class_numbers_become_class_names(tmp_path: Path):
    kinds = {"label": {"_type": "ClassLabel", "names": ["cat", "dog"]}, "path": {"_type": "Value", "dtype": "string"}}
    data = pa.table({"path": ["a.jpg", "b.jpg", "c.jpg"], "label": [1, 0, -1]})
    described = {"huggingface": json.dumps({"info": {"features": kinds}})}
    parquet.write_table(data.replace_schema_metadata(described), tmp_path / "t.parquet")
    assert whole(TableSource(tmp_path / "t.parquet")).labels == ["dog", "cat", None]


@pytest.mark.parametrize("header", ["File Name,Class Name", "file-name,class-name", "FILE_NAME, CLASS_NAME"])
def test_usual_column_names_are_recognised_with_blanks_or_hyphens(tmp_path: Path, header: str):
    assert whole(TableSource(table(tmp_path / "t.csv", f"{header}\na.jpg,cat\n"))).labels == ["cat"]


def test_table_source_has_a_note_for_non_utf8_labels_and_none_for_labels_1_and_minus_1(tmp_path: Path):
    (tmp_path / "t.csv").write_bytes("path,label\na.jpg,K\u00e4fer\nb.jpg,-1\nc.jpg,1\n".encode("latin-1"))
    source = TableSource(tmp_path / "t.csv")
    whole(source)
    assert len(source.notes) == 1
    assert "is no UTF-8 text: save the table" in source.notes[0]


def test_labels_of_every_text_type_and_number_type_of_arrow_are_read(tmp_path: Path):
    columns = {
        "dictionary": pa.array(["a", None]).dictionary_encode(),
        "large": pa.array(["a", None], pa.large_string()),
        "fixed": pa.array([b"a", None], pa.binary(1)),
        "decimal": pa.array([Decimal("1"), None], pa.decimal256(40, 3)),
        "small": pa.array([1, None], pa.uint8()),
        "half": pa.array(np.array([1, np.nan], np.float16)),
    }
    for name, values in columns.items():
        assert whole(one_of({"label": values}, tmp_path)).labels == [
            "1" if name in ("decimal", "small", "half") else "a",
            None,
        ]
