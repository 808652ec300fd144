from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from featstore import defaults
from featstore.errors import UsageError
from featstore.indexes import build_index
from tests.indexes.made import Source, clusters


def keys(rows: int) -> list[bytes]:
    return [b"%d" % row for row in range(rows)]


def test_flat_index_is_exact_and_reads_the_source_once() -> None:
    source = Source(clusters(90, 8))
    index = build_index(source, np.arange(90), keys(90))
    assert source.passes == 1
    assert index.exact
    assert index.recall.method == "exact"
    assert index.recall.value == 1


def test_default_index_of_many_rows_is_not_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(defaults, "EXACT_SCAN_BYTES", 90 * 8 * 4)
    assert build_index(clusters(90, 8), np.arange(90), keys(90)).exact
    assert not build_index(clusters(91, 8), np.arange(91), keys(91)).exact


def test_graph_recall_is_measured_on_held_out_rows() -> None:
    vectors = clusters(3000, 24, centres=5)
    stages = []
    index = build_index(
        Source(vectors, rows=500),
        np.arange(3000) + 10**12,
        keys(3000),
        kind="hnsw",
        recall=0.9,
        progress=lambda *stage: stages.append(stage),
    )
    label = index.recall
    assert label.method == "held-out"
    assert label.queries == 200
    assert label.low < label.value <= label.high <= 1
    assert label.value > 0.85
    assert len(index) == 3000
    assert stages[-1] == ("index", 3000, 3000)
    _, found = index.search(vectors, 1)
    assert (found[:, 0] == np.arange(3000) + 10**12).mean() > 0.9
    assert index.keys_of(found[:, 0]) == [b"%d" % (number - 10**12) for number in found[:, 0]]


def test_higher_recall_goal_sets_a_larger_ef_search() -> None:
    vectors = np.random.default_rng(0).standard_normal((3000, 32)).astype(np.float32)
    low, high = (build_index(vectors, np.arange(3000), keys(3000), kind="hnsw", recall=goal) for goal in (0.5, 0.99))
    assert low.info()["effort"]["efSearch"] < high.info()["effort"]["efSearch"]
    assert low.recall.value < high.recall.value


def test_recall_of_an_index_is_measured_with_whole_groups_held_out() -> None:
    # Each picture has eleven near copies, which form one group. At most 60 groups are held out, with at most eight
    # queries each; recall is measured on two thirds of the groups, at most 320 queries.
    pictures = clusters(300, 16, centres=300)
    vectors = np.repeat(pictures, 11, axis=0) + 1e-3 * clusters(3300, 16, seed=1)
    groups = np.repeat(np.arange(300), 11)
    grouped = build_index(vectors, np.arange(3300), keys(3300), kind="hnsw", recall=0.5, groups=groups)
    assert 0 < grouped.recall.queries <= 320
    alone = build_index(vectors, np.arange(3300), keys(3300), kind="hnsw", recall=0.5)
    assert alone.recall.queries == 220
    assert grouped.recall.high - grouped.recall.low > alone.recall.high - alone.recall.low


def test_recall_of_an_index_with_too_few_rows_is_not_measured() -> None:
    index = build_index(clusters(5, 8), np.arange(5), keys(5), kind="hnsw")
    assert index.recall.method == "not measured"
    assert index.recall.value is None
    assert index.search(clusters(5, 8), 1)[1][:, 0].tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"kind": "tree"}, "auto, flat or hnsw"),
        ({"metric": "hamming"}, "cosine, l2, ip"),
        ({"k": 0}, "at least 1"),
        ({"recall": 1.5}, "between 0 and 1"),
        ({"groups": np.arange(3), "kind": "hnsw"}, "groups"),
    ],
)
def test_build_index_rejects_invalid_options(options: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        build_index(clusters(50, 8), np.arange(50), keys(50), **options)


def test_building_an_index_rejects_an_empty_matrix() -> None:
    with pytest.raises(UsageError, match="extract some first"):
        build_index(np.zeros((0, 8), np.float32), np.zeros(0, np.int64), [])


def test_importing_featstore_indexes_loads_no_faiss() -> None:
    code = "import sys, featstore.indexes; sys.exit('faiss' in sys.modules or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
