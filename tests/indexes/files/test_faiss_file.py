from __future__ import annotations

import struct
from pathlib import Path

import faiss
import numpy as np
import pytest

from featstore.errors import DamagedError
from featstore.indexes import FeatureIndex
from featstore.indexes.files import pair
from featstore.indexes.files.faiss_file import check_structure, name_for_faiss, reason_of
from featstore.indexes.files.structure import effort_fault
from featstore.indexes.tuning.trials import create
from featstore.processes import sandbox
from tests.faults import faiss_kinds
from tests.indexes.files.test_pair import saved
from tests.indexes.made import clusters

WRITTEN = ["Flat", "HNSW4", "HNSW4_SQ8", "IVF4,PQ4x4fs,Refine(SQfp16)", "PCAR8,IVF4,PQ4x4fsr,Refine(SQ8)"]
FOREIGN = [
    "LSH",
    "SQ8",
    "PQ4x4np",
    "PQ4x4fs",
    "IVF4,Flat",
    "IVF4,PQ4x4np",
    "IVF4_HNSW4,Flat",
    "HNSW4_PQ4x4",
    "L2norm,Flat",
    "IDMap2,Flat",
    *faiss_kinds.MADE_BY_HAND,
]


@pytest.mark.parametrize("factory", WRITTEN)
@pytest.mark.parametrize("rows", [0, 90])
def test_check_of_faiss_files_accepts_every_kind_of_index_that_featstore_writes(
    tmp_path: Path, factory: str, rows: int
) -> None:
    index, vectors = create(factory, 16, "ip", seed=0), clusters(90)
    index.train(vectors)
    index.add(vectors[:rows], np.arange(rows))
    path = tmp_path / "x"
    index.write(path)
    check_structure(path, rows, 16)
    for shape in ((rows + 1, 16), (rows, 17)):
        with pytest.raises(DamagedError, match="is not the index of"):
            check_structure(path, *shape)
    whole = path.read_bytes()
    for size in (0, 3, 40, 80, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(DamagedError):
            check_structure(path, rows, 16)
    path.write_bytes(whole + b"\0")
    with pytest.raises(DamagedError, match="after the end"):
        check_structure(path, rows, 16)


@pytest.mark.parametrize("kind", FOREIGN)
def test_check_of_faiss_files_refuses_every_other_kind_of_index(tmp_path: Path, kind: str) -> None:
    path, aside = tmp_path / "x", tmp_path / "aside"
    for place in faiss_kinds.PLACES:
        data, rows = faiss_kinds.file(kind, place, aside)
        path.write_bytes(data)
        if (kind, place) in {("SQ8", "to re-rank on")}:
            continue
        with pytest.raises(DamagedError, match="featstore does not write there") as caught:
            check_structure(path, rows, faiss_kinds.DIMENSION)
        assert str(caught.value).isprintable()


def test_faiss_file_cannot_open_another_file(tmp_path: Path) -> None:
    """An index with valid checksums stores its inverted lists in a user's file, which FAISS would open and enlarge."""
    path, victim = tmp_path / "x", tmp_path / "victim"
    saved(path, rows=faiss_kinds.ROWS)
    tables, record = pair.load(path, mmap=True, check=True)[1:]
    data, rows = faiss_kinds.file("lists on disk", "below the ids", victim)
    before = victim.read_bytes()
    times = victim.stat().st_mtime_ns, victim.stat().st_atime_ns
    path.write_bytes(data)
    faiss_kinds.seal(path, tables, record)
    for mmap in (True, False):
        with pytest.raises(DamagedError, match="featstore does not write there"):
            FeatureIndex.open(path, mmap=mmap)
    assert pair.verify(path)
    assert victim.read_bytes() == before
    assert (victim.stat().st_mtime_ns, victim.stat().st_atime_ns) == times
    assert rows == faiss_kinds.ROWS


def read_in_child(path: str, files: int) -> int:
    """Read a FAISS file without a structure check, with at most ``files`` more open files; return its row count."""
    sandbox.limit_files(files)
    return int(faiss.read_index(path).ntotal)


def test_sandboxed_child_can_open_only_its_input_file(tmp_path: Path) -> None:
    path, victim = tmp_path / "x", tmp_path / "victim"
    data, rows = faiss_kinds.file("lists on disk", "below the ids", victim)
    path.write_bytes(data)
    entry, limits = "tests.indexes.files.test_faiss_file:read_in_child", {"seconds": 60, "memory": 1 << 30}
    assert sandbox.call(entry, {"path": str(path), "files": 2}, **limits) == rows
    with pytest.raises(Exception, match="could not open"):
        sandbox.call(entry, {"path": str(path), "files": 1}, **limits)


def test_array_longer_than_the_faiss_file_is_refused_before_allocation(tmp_path: Path) -> None:
    path = tmp_path / "x"
    saved(path, rows=60)
    data = bytearray(path.read_bytes())
    at = data.index(struct.pack("<Q", 60 * 8))
    data[at : at + 8] = struct.pack("<Q", 1 << 40)
    path.write_bytes(data)
    with pytest.raises(DamagedError, match="longer than the file"):
        check_structure(path, 60, 8)


@pytest.mark.parametrize("part", [0, 1])
def test_check_of_faiss_files_rejects_an_untrained_index_with_rows(tmp_path: Path, part: int) -> None:
    path = tmp_path / "x"
    saved(path, rows=60)
    data = bytearray(path.read_bytes())
    # In a FAISS file the flag "is trained" follows the 4-letter name, dimension, number of rows and two unused numbers.
    at = part * 37 + 32
    assert data[at] == 1
    data[at] = 0
    path.write_bytes(data)
    with pytest.raises(DamagedError, match="not trained"):
        check_structure(path, 60, 8)


@pytest.mark.parametrize(
    "effort", [{"efSearch": 0}, {"nprobe": 1 << 40}, {"k_factor": float("nan")}, {"k_factor": 1e12}, {"nprobe": -1}]
)
def test_search_parameters_out_of_range_are_reported(effort: dict[str, float]) -> None:
    assert effort_fault(effort, 1000)
    assert effort_fault({"efSearch": 1024, "nprobe": 1, "k_factor": 64.0}, 10) is None


def test_faiss_gets_a_descriptor_path_in_place_of_a_file_name_that_faiss_cannot_open() -> None:
    assert name_for_faiss(Path("a/b.faiss"), 7) == "a/b.faiss"
    assert name_for_faiss(Path("a/b\udcff.faiss"), 7) == "/dev/fd/7"
    assert name_for_faiss(Path("a/b\n.faiss"), 7) == "/dev/fd/7"


def test_error_from_faiss_is_shortened_to_its_reason_on_one_line() -> None:
    thrown = RuntimeError("Error in void faiss::read() at /x/y.cpp:3: Error: 'size' failed:\n  too large")
    assert reason_of(thrown) == "'size' failed: too large"
    assert reason_of(RuntimeError("")) == "RuntimeError"
