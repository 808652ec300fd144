from __future__ import annotations

import csv
import datetime
import io
import subprocess
import sys
import tempfile
import time
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from featstore.errors import FeatstoreError, UsageError
from featstore.sources import tabular
from featstore.sources.table import TableSource
from featstore.sources.tabular import open_table, scalar

from .helpers import error_of


def table(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def records(path: Path) -> list[list[object]]:
    return [list(values) for _, values in open_table(path).records()]


def test_open_table_reads_csv_and_tsv(tmp_path: Path):
    path = table(tmp_path / "t.csv", b'\xef\xbb\xbfpath,"a,b",\r\nx.jpg,"1\n""2""",\r\n\r\n y ,,3\r\n')
    opened = open_table(path)
    assert opened.columns == ["path", "a,b", "unnamed_2"]
    assert list(opened.records()) == [("line 3", ["x.jpg", '1\n"2"', ""]), ("line 5", [" y ", "", "3"])]
    assert records(table(tmp_path / "t.tsv", b"path\tlabel\na,b.jpg\tc\n")) == [["a,b.jpg", "c"]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\n\n", "is empty"),
        (b"path,label\na.jpg\n", r"line 2 has 1 fields where the header names 2"),
        (b"path,label\na,b\nc,d,e\n", r"line 3 has 3 fields"),
        (b"path,label\na,b\x00\n", r"line 2 holds a NUL byte"),
        ("path,label\n".encode("utf-16"), r"line 1 holds a NUL byte; save the table as UTF-8"),
        (b'path,label\na,"b\n', r"line 2 is no well-formed CSV"),
        (b'path,label\na,"b"c\n', r"line 2 is no well-formed CSV"),
        (b'path,label\na,"' + b"x" * 200_000, r"line 2 is no well-formed CSV"),
        (b"path,label\n" + b"x" * (17 << 20), r"line 2 is longer than"),
        (b"path,label,path\na,b,c\n", r"more than one column 'path'"),
        (b"path;label\na;b\n", r"its columns are separated by semicolons, where commas are expected"),
        (b"path\tlabel\na\tb\n", r"separated by tabs, .*; save it as .csv with commas, or as .tsv with tabs"),
    ],
    ids=["empty", "blank", "short", "long", "nul", "utf-16", "open", "quote", "field", "line", "doubled", ";", "tab"],
)
def test_malformed_csv_error_names_the_line(tmp_path: Path, content: bytes, message: str):
    with pytest.raises(UsageError, match=message) as caught:
        records(table(tmp_path / "t.csv", content))
    assert "\n" not in str(caught.value)


def test_parquet_values_of_every_type_become_json_scalars(tmp_path: Path):
    when = datetime.datetime(2024, 5, 6, 7, 8, 9, 123456)
    data = pa.table(
        {
            "i": pa.array([1, None], pa.int16()),
            "f": pa.array([0.5, None]),
            "b": [True, False],
            "s": pa.array(["é", "x"]).dictionary_encode(),
            "t": pa.array([when, None], pa.timestamp("us")),
            "d": [datetime.date(2024, 1, 2), None],
            "l": [[1, 2], []],
            "m": [{"k": when, "j": 1}, None],
            "e": pa.array([Decimal("1.50"), None]),
        }
    )
    path = tmp_path / "t.data"
    parquet.write_table(data, path, row_group_size=1)
    opened = open_table(path)
    assert opened.columns == data.column_names
    rows = [(place, [scalar(value) for value in values]) for place, values in opened.records()]
    assert rows == [
        ("row 1", [1, 0.5, True, "é", "2024-05-06T07:08:09.123456", "2024-01-02", "[1, 2]",
         '{"j": 1, "k": "2024-05-06T07:08:09.123456"}', "1.50"]),
        ("row 2", [None, None, False, "x", None, None, "[]", None, None]),
    ]  # fmt: skip
    assert opened.binary == frozenset()


def test_parquet_timestamps_keep_nanoseconds(tmp_path: Path):
    parquet.write_table(pa.table({"t": pa.array([1_700_000_000_123_456_789], pa.timestamp("ns"))}), tmp_path / "t.pq")
    assert [scalar(row[0]) for row in records(tmp_path / "t.pq")] == ["2023-11-14T22:13:20.123456789"]


def test_open_table_lists_columns_that_contain_bytes(tmp_path: Path):
    columns = {"a": [b"x"], "b": [[b"x"]], "c": [{"d": b"x"}], "e": ["x"], "f": pa.array([b"x"]).dictionary_encode()}
    parquet.write_table(pa.table(columns), tmp_path / "t.pq")
    assert open_table(tmp_path / "t.pq").binary == {"a", "b", "c", "f"}


def test_damaged_parquet_file_gives_a_one_line_error(tmp_path: Path):
    path = tmp_path / "t.parquet"
    parquet.write_table(pa.table({"path": [str(i) for i in range(5000)]}), path)
    whole = path.read_bytes()
    for content in (whole[:-20], b"PAR1", whole[:200] + bytes(500) + whole[700:]):
        with pytest.raises(FeatstoreError, match="is no Parquet file that can be read") as caught:
            records(table(path, content))
        assert "\n" not in str(caught.value)


def test_open_table_rejects_missing_and_special_files(tmp_path: Path):
    with pytest.raises(FeatstoreError, match="No such file"):
        open_table(tmp_path / "none.csv")
    with pytest.raises(UsageError, match=r"is a folder; name a table \(CSV, TSV or Parquet\)"):
        open_table(tmp_path)


field = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8) | st.sampled_from(
    ["", '"', "\r", "\n", "\r\n", ",", "\t", "a\udcff", " x ", "\ufeff"]
)


@settings(deadline=None, max_examples=150)
@given(
    st.lists(st.tuples(field, field, field), max_size=5),
    st.sampled_from([(".csv", ","), (".tsv", "\t")]),
    st.sampled_from(["\r\n", "\n"]),
)
def test_written_csv_and_tsv_values_are_read_back_unchanged(
    rows: list[tuple[str, ...]], form: tuple[str, str], end: str
):
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=form[1], lineterminator=end, quoting=csv.QUOTE_ALL)
    writer.writerows([("a", "b", "c"), *rows])
    with tempfile.TemporaryDirectory() as directory:
        path = table(Path(directory, "t" + form[0]), text.getvalue().encode("utf-8", "surrogateescape"))
        assert records(path) == [list(row) for row in rows]


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=60))
def test_any_file_content_gives_a_table_or_a_one_line_error(content: bytes):
    with tempfile.TemporaryDirectory() as directory:
        path = table(Path(directory, "t.csv"), content)
        error = error_of(lambda: records(path))
        if error is None:
            width = len(open_table(path).columns)
            assert all(len(values) == width for values in records(path))
        else:
            assert str(error).isprintable()


def bomb(path: Path, kind: str) -> Path:
    """Write a Parquet file of less than 1 MiB that unpacks to gigabytes or to a huge list."""
    indices = pa.array(np.zeros(200_000, np.int32))
    columns: dict[str, pa.Array] = {"path": pa.array([f"{row}.png" for row in range(4000)])}
    if kind == "long text":
        columns["note"] = pa.DictionaryArray.from_arrays(indices[:4000], pa.array(["x" * (20 << 20)]))
    elif kind == "many texts":
        columns = {"path": pa.DictionaryArray.from_arrays(indices, pa.array(["x" * (100 << 10)]))}
    elif kind == "long list":
        count = 100_000_000
        zeros = pa.ListArray.from_arrays(pa.array([0, count], pa.int32()), pa.array(np.zeros(count, np.int8)))
        columns = {"path": pa.array(["a.png"]), "list": zeros}
    else:
        inner = pa.DictionaryArray.from_arrays(indices[:1500], pa.array(["x" * (1 << 20)]))
        lists = pa.ListArray.from_arrays(pa.array(np.arange(1501, dtype=np.int32)), inner)
        columns = {"path": columns["path"][:1500], "list": lists}
    parquet.write_table(pa.table(columns), path, compression="zstd", store_schema=False)
    assert path.stat().st_size < 1 << 20
    return path


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["long text", "many texts", "long list", "texts in lists"])
def test_parquet_bomb_is_rejected_within_a_memory_limit(tmp_path: Path, kind: str) -> None:
    path = bomb(tmp_path / "t.parquet", kind)
    code = (
        "import re, sys; from pathlib import Path; from featstore.errors import UsageError\n"
        "from featstore.sources.tabular import open_table\n"
        "try:\n for _ in open_table(Path(sys.argv[1])).records(): pass\n"
        "except UsageError as error: print(error)\n"
        "print(re.search(r'VmHWM:\\s*(\\d+)', Path('/proc/self/status').read_text())[1])\n"
    )
    told, peak = subprocess.check_output([sys.executable, "-c", code, path], text=True).splitlines()
    assert "made to do harm" in told or "drop it from the table" in told or "is this a table" in told
    # ru_maxrss is the peak memory of the process in KiB.
    assert int(peak) < 512 << 10


def test_parquet_table_read_in_parts_keeps_every_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tabular, "_SLICE_BYTES", 1000)
    names = [None if row % 7 == 0 else f"name {row % 5}" for row in range(500)]
    table = pa.table(
        {"path": [f"{row}" for row in range(500)], "name": names, "list": [[row, None] for row in range(500)]}
    )
    parquet.write_table(table, tmp_path / "t.parquet")
    found = list(open_table(tmp_path / "t.parquet").records())
    assert [place for place, _ in found] == [f"row {row + 1}" for row in range(500)]
    assert [list(values) for _, values in found] == [list(row.values()) for row in table.to_pylist()]


@pytest.mark.slow
def test_csv_reading_time_is_linear_in_the_number_of_columns(tmp_path: Path) -> None:
    def seconds(columns: int) -> float:
        path = tmp_path / f"{columns}.csv"
        names = ["path", *(f"c{number}" for number in range(columns))]
        path.write_text(",".join(names) + "\n" + ",".join("x" for _ in names) + "\n")
        started = time.process_time()
        (chunk,) = TableSource(path).chunks()
        taken = time.process_time() - started
        assert len(chunk.metadata) == columns
        return taken

    # Eight times the columns take 8 times as long if time is linear and 64 times if it is quadratic.
    assert seconds(80_000) < 24 * seconds(10_000)
    path = tmp_path / "80000.csv"
    with pytest.raises(UsageError, match=r"its columns are path, c0, .*, \.\.\. \(79,981 more\)"):
        TableSource(path, label_column="none")
