from __future__ import annotations

import io
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featstore.errors import FeatstoreError, UsageError
from featstore.sources.listing import ListSource, entries, relative_to

from .helpers import keys, whole, write


def listed(content: bytes) -> list[tuple[int, bytes]]:
    return list(entries(io.BytesIO(content)))


def test_list_entries_are_separated_by_line_ends():
    content = b"\xef\xbb\xbfa.jpg\r\n\n  \r\n b c.jpg\n\xff.jpg\nlast"
    assert listed(content) == [(1, b"a.jpg"), (4, b" b c.jpg"), (5, b"\xff.jpg"), (6, b"last")]
    assert listed(b"") == listed(b"\n\n") == []


def test_nul_separated_list_entries_keep_newlines():
    assert listed(b"a\nb.jpg\0\0 \0c\r\0d") == [(1, b"a\nb.jpg"), (3, b" "), (4, b"c\r"), (5, b"d")]


def test_list_source_rejects_files_that_hold_no_paths():
    with pytest.raises(UsageError, match="line 10001 holds a NUL byte"):
        listed(b"abcdefg\n" * 10_000 + b"a\0b\n")
    with pytest.raises(UsageError, match="longer than 65,536 bytes"):
        listed(b"x" * 3_000_000)


@settings(deadline=None, max_examples=200)
@given(st.lists(st.binary(min_size=1, max_size=12).filter(lambda text: b"\0" not in text)), st.booleans())
def test_nul_separated_list_keeps_names_of_any_bytes(names: list[bytes], ended: bool):
    content = b"\0".join(names) + b"\0" * (ended or len(names) == 1)
    assert [name for _, name in listed(content)] == names


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.binary(min_size=1, max_size=12).map(lambda text: b"/" + text.translate(None, b"\0\n\r"))),
    st.sampled_from([b"\n", b"\r\n", b"\n\n"]),
    st.integers(0, 2_200_000),
)
@pytest.mark.slow
def test_list_lines_that_cross_a_read_block_are_read_unchanged(names: list[bytes], end: bytes, filling: int):
    lines = [b"/filling" for _ in range(filling // 9)] + names
    assert [name for _, name in listed(end.join(lines))] == lines


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (b"/r/a.jpg", b"a.jpg"),
        (b"/r//a.jpg", b"a.jpg"),
        (b"./a.jpg", b"a.jpg"),
        (b"../a.jpg", b"../a.jpg"),
        (b"/other/a.jpg", b"/other/a.jpg"),
        (b"/rest/a.jpg", b"/rest/a.jpg"),
        (b"/r/../a.jpg", b"/r/../a.jpg"),
    ],
)
def test_keys_of_a_list_are_relative_to_the_root(path: bytes, expected: bytes):
    assert relative_to(b"/r", path) == expected
    assert relative_to(b"/", b"/a.jpg") == b"a.jpg"


def test_list_source_reads_paths_from_a_file(tmp_path: Path):
    root = write(tmp_path, ["a.jpg", "b.png", "any name"], b"1234")
    outside = os.fsencode(Path(__file__))
    list_file = tmp_path / "list.txt"
    list_file.write_bytes(
        b"\n".join([b"b.png", os.fsencode(tmp_path) + b"/a.jpg", b"any name", b"gone", outside, b"../x"])
    )
    source = ListSource(list_file)
    chunk = whole(source)
    assert chunk.keys == [b"b.png", b"a.jpg", b"any name", b"gone", outside, b"../x"]
    assert chunk.sizes.tolist() == [4, 4, 4, -1, os.path.getsize(__file__), -1]
    assert chunk.locations is None
    assert [len(part) for part in source.chunks(4)] == [4, 2]
    assert source.describe() == {"kind": "list", "location": str(list_file), "root": str(root)}


def test_root_option_sets_the_folder_of_relative_paths_in_a_list(tmp_path: Path):
    write(tmp_path / "moved", ["a.jpg"])
    (tmp_path / "list").write_text("a.jpg\n")
    assert whole(ListSource(tmp_path / "list")).sizes.tolist() == [-1]
    assert whole(ListSource(tmp_path / "list", root=tmp_path / "moved")).sizes.tolist() == [1]


def test_list_from_standard_input_can_be_iterated_twice(tmp_path: Path):
    write(tmp_path, ["a.jpg", "b\nc.jpg"])
    program = (
        "from featstore.sources import open_source\n"
        "source = open_source('-')\n"
        "print([chunk.keys + chunk.sizes.tolist() for _ in range(2) for chunk in source.chunks()], source.describe())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        input=b"./a.jpg\0b\nc.jpg\0",
        capture_output=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        check=True,
    )
    once = [b"a.jpg", b"b\nc.jpg", 1, 1]
    described = {"kind": "list", "location": "-", "root": str(tmp_path)}
    assert done.stdout.decode().strip() == f"{[once, once]} {described}"


def test_list_from_a_fifo_can_be_iterated_twice(tmp_path: Path):
    os.mkfifo(tmp_path / "fifo")
    writer = threading.Thread(target=(tmp_path / "fifo").write_bytes, args=(b"a.jpg\n",))
    writer.start()
    source = ListSource(tmp_path / "fifo")
    writer.join()
    assert keys(source) == keys(source) == [b"a.jpg"]
    assert source.root == Path.cwd()


def test_list_source_rejects_empty_missing_and_invalid_lists(tmp_path: Path):
    path = tmp_path / "list"
    path.write_bytes(b"\n \n")
    with pytest.raises(UsageError, match="holds no pictures"):
        keys(ListSource(path))
    path.write_bytes(b"a.jpg\n./\n")
    with pytest.raises(UsageError, match="list: entry 2 names the root itself"):
        keys(ListSource(path))
    with pytest.raises(FeatstoreError, match="No such file"):
        ListSource(tmp_path / "none")
    source = ListSource(path)
    path.unlink()
    with pytest.raises(FeatstoreError, match="No such file"):
        keys(source)


@pytest.mark.parametrize("separator", [" ", "\t", ",", ";"])
def test_error_for_a_list_with_labels_suggests_a_csv_table(tmp_path: Path, separator: str):
    write(tmp_path, ["a.jpg", "b c.jpg"])
    (tmp_path / "l.txt").write_text(f"a.jpg{separator}cat\nb c.jpg{separator}dog\n")
    source = ListSource(tmp_path / "l.txt")
    assert whole(source).sizes.tolist() == [-1, -1]
    assert "save the list as CSV, with the first line path,label (2 paths" in source.unfound


def test_list_with_backslashes_and_decomposed_unicode_finds_its_files(tmp_path: Path):
    write(tmp_path, ["ants/\u00e9.jpg"])
    (tmp_path / "l.txt").write_bytes("ants\\e\u0301.jpg\r\n".encode())
    source = ListSource(tmp_path / "l.txt")
    chunk = whole(source)
    assert (chunk.sizes.tolist(), chunk.locations) == ([1], ["ants/\u00e9.jpg".encode()])
    assert len(source.notes) == 1


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ('{"file_name": "a.jpg", "label": 1}', "the lines are JSON: save them as a CSV table"),
        ('["a.jpg", "b.jpg"]', "the lines are JSON"),
        ("~/a.jpg", "write the whole path"),
        ("$HOME/a.jpg", "write the whole path"),
    ],
)
def test_list_source_explains_how_to_correct_a_line_that_is_no_path(tmp_path: Path, written: str, words: str):
    write(tmp_path, ["a.jpg"])
    (tmp_path / "l.txt").write_text(f"{written}\n")
    source = ListSource(tmp_path / "l.txt")
    assert whole(source).sizes.tolist() == [-1]
    assert words in source.unfound


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be"])
def test_list_source_rejects_utf_16(tmp_path: Path, encoding: str):
    (tmp_path / "l.txt").write_bytes(
        "\ufeffa.jpg\n".encode(encoding).removeprefix(b"\xff\xfe" * (encoding == "utf-16"))
    )
    with pytest.raises(UsageError, match="is text in UTF-16, as PowerShell writes it; save the list as UTF-8"):
        ListSource(tmp_path / "l.txt")
