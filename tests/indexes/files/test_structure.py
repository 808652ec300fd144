from __future__ import annotations

from pathlib import Path

import faiss
import numpy as np
import pytest

from featstore.errors import DamagedError
from featstore.files import atomic, sealed
from featstore.indexes import FeatureIndex, build_index
from featstore.indexes.files import pair
from featstore.indexes.files.structure import chain_fault, graph_fault, lists_fault
from featstore.indexes.tuning.trials import create
from tests.indexes.made import clusters


def graph() -> dict[str, object]:
    """Return the arrays of a valid HNSW graph of three nodes; only node 2 is on level 1 too."""
    return {
        "rows": 3,
        "neighbours": np.array([1, 2, 0, -1, 0, 1, -1], np.int32),
        "offsets": np.array([0, 2, 4, 7], np.uint64),
        "levels": np.array([1, 1, 2], np.int32),
        "widths": np.array([0, 2, 3], np.int32),
        "entry": 2,
        "top": 1,
    }


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, None),
        ({"rows": 4}, "rows"),
        ({"widths": np.array([0, 3, 2], np.int32)}, "widths"),
        ({"widths": np.array([1, 2, 3], np.int32)}, "widths"),
        ({"levels": np.array([1, 0, 2], np.int32)}, "level"),
        ({"levels": np.array([1, 1, 3], np.int32)}, "level"),
        ({"offsets": np.array([0, 2, 4, 8], np.uint64)}, "offsets"),
        ({"offsets": np.array([0, 3, 4, 7], np.uint64)}, "offsets"),
        ({"offsets": np.array([0, 2**63, 4, 7], np.uint64)}, "offsets"),
        ({"neighbours": np.array([1, 3, 0, -1, 0, 1, -1], np.int32)}, "out of the graph"),
        ({"neighbours": np.array([1, -2, 0, -1, 0, 1, -1], np.int32)}, "out of the graph"),
        ({"neighbours": np.array([1, 2, 0, -1, 0, 1, 0], np.int32)}, "not on its level"),
        ({"entry": 3}, "entry"),
        ({"entry": -1}, "entry"),
        ({"entry": 0}, "entry"),
        ({"top": 2}, "entry"),
    ],
)
def test_invalid_structure_of_an_hnsw_graph_is_reported(change: dict[str, object], words: str | None) -> None:
    fault = graph_fault(**{**graph(), **change})
    assert fault is None if words is None else words in fault


@pytest.mark.parametrize(
    ("lists", "words"),
    [
        ([[0, 2], [1]], None),
        ([[0, 3], [1]], "does not have"),
        ([[0, -1], [1]], "does not have"),
        ([[0, 1], [1]], "once"),
        ([[0, 2], []], "once"),
        ([[0, 2], [1, 1]], "once"),
    ],
)
def test_inverted_lists_with_missing_repeated_or_unknown_rows_are_reported(
    lists: list[list[int]], words: str | None
) -> None:
    fault = lists_fault(3, [np.array(one, np.int64) for one in lists])
    assert fault is None if words is None else words in fault


def sealed_to(path: Path) -> None:
    """Write the checksum of the changed FAISS file into its side file; only structure checks can find the change."""
    side = sealed.SealedFile(pair.side_path(path))
    arrays = {name: side[name].copy() for name in side.names if name != "meta"}
    size = {"faiss_bytes": path.stat().st_size, "faiss_xxh3": atomic.checksum_file(path)}
    sealed.write(pair.side_path(path), "index", arrays, side.meta, {**side.summary, **size})


def broken_links(index: faiss.Index) -> None:
    links = faiss.vector_to_array(index.hnsw.neighbors)
    links[5] = 10**6
    faiss.copy_array_to_vector(links, index.hnsw.neighbors)


def broken_entry(index: faiss.Index) -> None:
    index.hnsw.entry_point = 12345


def broken_rows(index: faiss.Index) -> None:
    index.storage.ntotal = 100


@pytest.mark.parametrize("harm", [broken_links, broken_entry, broken_rows])
def test_index_whose_graph_links_outside_its_rows_is_refused(harm: object, tmp_path: Path) -> None:
    path = tmp_path / "x"
    build_index(clusters(200, 8), np.arange(200), [b"k"] * 200, kind="hnsw").save(path)
    outer = faiss.read_index(str(path))
    harm(faiss.downcast_index(outer.index))
    faiss.write_index(outer, str(path))
    sealed_to(path)
    for mmap in (True, False):
        with pytest.raises(DamagedError) as caught:
            FeatureIndex.open(path, mmap=mmap)
        assert "\n" not in str(caught.value)


def test_inverted_lists_with_positions_outside_the_rows_are_detected() -> None:
    index = create("IVF4,PQ4x4fs,Refine(SQ8)", 8, "ip", seed=0)
    index.train(clusters(500, 8))
    index.add(clusters(500, 8), np.arange(500))
    assert index.fault() is None
    lists = faiss.downcast_index(index._inner.base_index).invlists
    faiss.rev_swig_ptr(lists.get_ids(1), lists.list_size(1))[0] = 500
    assert index.fault() == "a list names a row that the index does not have"


@pytest.mark.parametrize(
    ("transforms", "sound"),
    [
        ([], False),
        ([(8, 4, 32, None)], True),
        ([(8, 4, 32, 4)], True),
        ([(8, 6, 48, 6), (6, 4, 24, None)], True),
        ([(8, 4, 31, None)], False),
        ([(8, 4, 32, 3)], False),
        ([(4, 4, 16, None)], False),
        ([(8, 5, 40, None)], False),
        ([(8, 4, -1, None)], False),
    ],
)
def test_chained_projection_matrices_whose_sizes_do_not_match_are_reported(
    transforms: list[tuple[int, int, int, int | None]], sound: bool
) -> None:
    assert (chain_fault(8, 4, transforms) is None) == sound


def test_damaged_pca_matrix_of_an_index_is_detected() -> None:
    index = create("PCAR8,IVF4,PQ4x4fs,Refine(SQ8)", 16, "ip", seed=0)
    index.train(clusters(500, 16))
    index.add(clusters(500, 16), np.arange(500))
    assert index.fault() is None
    transform = faiss.downcast_VectorTransform(faiss.downcast_index(index._inner.base_index).chain.at(0))
    faiss.copy_array_to_vector(np.zeros(3, np.float32), transform.A)
    assert index.fault() == "the projection in front of it is damaged"
