from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featstore.errors import UsageError
from featstore.indexes import across_splits, build_index, duplicates, equal_groups, leaks, near_duplicates
from tests.indexes.made import Source, brute_force, clusters


def components(linked: np.ndarray) -> list[list[int]]:
    """Return the connected components with at least two rows, the largest first. ``linked``: bool (n, n)."""
    label = np.arange(len(linked))
    for _ in range(len(linked)):
        label = np.array([label[linked[row] | (np.arange(len(linked)) == row)].min() for row in range(len(linked))])
    groups = [np.flatnonzero(label == one).tolist() for one in set(label.tolist())]
    return sorted((group for group in groups if len(group) > 1), key=lambda group: (-len(group), group[0]))


@given(st.integers(1, 40), st.integers(0, 10**6), st.floats(0.3, 0.99), st.booleans())
@settings(deadline=None, max_examples=40)
def test_near_duplicate_groups_and_nearest_rows_equal_brute_force(
    rows: int, seed: int, threshold: float, centre: bool
) -> None:
    vectors = clusters(rows, 4, seed, centres=6)
    cosines = brute_force(*[vectors - vectors.mean(axis=0) if centre else vectors] * 2, "cosine")
    np.fill_diagonal(cosines, -np.inf)
    if (np.abs(cosines - threshold) < 1e-4).any():
        return
    found = near_duplicates(Source(vectors), threshold, centre=centre)
    assert [group.tolist() for group in found.groups] == components(cosines >= threshold)
    best = cosines.max(axis=1)
    np.testing.assert_allclose(found.score, np.where(best >= threshold, best, -np.inf), atol=1e-5)
    for row in np.flatnonzero(found.nearest >= 0):
        assert cosines[row, found.nearest[row]] == pytest.approx(best[row], abs=1e-5)


@pytest.mark.parametrize("edges", [1, 1 << 20])
def test_near_duplicates_do_not_depend_on_the_block_size(monkeypatch: pytest.MonkeyPatch, edges: int) -> None:
    vectors = clusters(150, 6)
    whole = near_duplicates(vectors, 0.8)
    monkeypatch.setattr(duplicates, "_OUTER_ROWS", 20)
    monkeypatch.setattr(duplicates, "_INNER_ROWS", 9)
    monkeypatch.setattr(duplicates, "_EDGES_AT_ONCE", edges)
    parts = near_duplicates(Source(vectors), 0.8)
    assert [group.tolist() for group in parts.groups] == [group.tolist() for group in whole.groups]
    assert len(whole.groups) > 1
    np.testing.assert_array_equal(parts.nearest, whole.nearest)


def test_exact_copies_are_found_at_a_threshold_of_one() -> None:
    vectors = clusters(60, 64)
    vectors[[50, 51]] = vectors[[3, 3]]
    found = near_duplicates(vectors, 1.0)
    assert [group.tolist() for group in found.groups] == [[3, 50, 51]]
    assert found.nearest[[3, 50, 51]].tolist() == [50, 3, 3]
    assert found.score.max() <= 1


def test_near_duplicates_are_found_through_an_index() -> None:
    vectors = clusters(200, 32, centres=200)
    vectors[150:] = vectors[:50] + 1e-3
    index = build_index(vectors, np.arange(200) * 9 + 4, [b"k"] * 200, kind="hnsw")
    by_index = near_duplicates(vectors, 0.99, index=index)
    assert [group.tolist() for group in by_index.groups] == [[row, row + 150] for row in range(50)]
    with pytest.raises(UsageError, match="update it"):
        near_duplicates(vectors[:9], 0.99, index=index)


def test_centring_removes_the_common_mean_of_all_rows() -> None:
    vectors = clusters(50, 16, centres=50) + 100
    assert len(near_duplicates(vectors, 0.95, centre=False).groups[0]) == 50
    assert near_duplicates(vectors, 0.95).groups == []


def test_groups_of_equal_bytes_contain_the_rows_with_equal_digests() -> None:
    digests = [b"a", b"b", b"a", None, b"", None, b"", b"c", b"b", b"a"]
    assert [group.tolist() for group in equal_groups(digests)] == [[0, 2, 9], [1, 8]]


def test_only_duplicates_that_occur_in_several_splits_are_returned() -> None:
    groups = [np.array([0, 1]), np.array([2, 3]), np.array([4, 5])]
    assert [group.tolist() for group in across_splits(groups, ["train", "test", "a", "a", "a", None])] == [[0, 1]]


def test_leak_between_splits_names_the_closest_row_of_another_split() -> None:
    vectors = clusters(90, 32, centres=90)
    vectors[60], vectors[61], vectors[62] = vectors[0] + 1e-4, vectors[0] + 1e-2, vectors[1]
    splits = ["train"] * 60 + ["test"] * 2 + [None] * 28
    found = leaks(Source(vectors), splits, 0.98)
    assert [(leak.row, leak.other) for leak in found] == [(0, 60), (60, 0), (61, 0)]
    assert found[0].score >= found[-1].score >= 0.98


@pytest.mark.parametrize("threshold", [0.0, -1.0, 1.01, float("nan")])
def test_near_duplicates_rejects_invalid_thresholds(threshold: float) -> None:
    with pytest.raises(UsageError, match="threshold"):
        near_duplicates(clusters(5), threshold)
    with pytest.raises(UsageError, match="threshold"):
        leaks(clusters(5), ["a"] * 5, threshold)
    with pytest.raises(UsageError, match="4 splits"):
        leaks(clusters(5), ["a"] * 4)
