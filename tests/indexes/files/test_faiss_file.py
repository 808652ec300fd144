from __future__ import annotations

import struct
from pathlib import Path

import pytest

from featstore.errors import DamagedError
from featstore.indexes.files.faiss_file import check_header, name_for_faiss, reason_of


def header(outer: bytes, inner: bytes, dimension: int, rows: int) -> bytes:
    return b"".join(struct.pack("<4siqqqBi", name, dimension, rows, 0, 0, 1, 0) for name in (outer, inner))


def test_a_header_is_that_of_what_featstore_writes_in_the_shape_it_has(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(header(b"IxMp", b"IHNs", 16, 20) + b"more")
    check_header(path, 20, 16)
    for rows, dimension in ((21, 16), (20, 17)):
        with pytest.raises(DamagedError, match=f"is not the index of {rows} x {dimension}"):
            check_header(path, rows, dimension)
    for outer, inner in ((b"IxM2", b"IHNs"), (b"IxMp", b"IxSQ")):
        path.write_bytes(header(outer, inner, 16, 20))
        with pytest.raises(DamagedError, match="is not the index of"):
            check_header(path, 20, 16)
    path.write_bytes(header(b"IxMp", b"IHNs", 16, 20)[:-1])
    with pytest.raises(DamagedError, match="too short"):
        check_header(path, 20, 16)


def test_a_name_that_is_no_text_is_that_of_the_open_file() -> None:
    assert name_for_faiss(Path("a/b.faiss"), 7) == "a/b.faiss"
    assert name_for_faiss(Path("a/b\udcff.faiss"), 7) == "/dev/fd/7"
    assert name_for_faiss(Path("a/b\n.faiss"), 7) == "/dev/fd/7"


def test_of_a_message_from_faiss_the_reason_is_kept_on_one_line() -> None:
    thrown = RuntimeError("Error in void faiss::read() at /x/y.cpp:3: Error: 'size' failed:\n  too large")
    assert reason_of(thrown) == "'size' failed: too large"
    assert reason_of(RuntimeError("")) == "RuntimeError"
