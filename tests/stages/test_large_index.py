from __future__ import annotations

import shutil

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from featstore.artifacts import open_index
from featstore.errors import UsageError
from featstore.indexes import check_contract
from featstore.stages.index import index
from featstore.stages.queries import Asked, Query
from featstore.stages.search import Finder, search
from featstore.store import FeatureStore
from featstore.where import rows_where
from tests.stages.large import ROWS, extend, indexed, pictures, vector

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("large")
    extend(place / "s", pictures(ROWS))
    report = indexed(place / "s")
    assert not report.info["exact"]
    assert report.standing.holds
    assert report.info["contract"]["at"] == 10
    return place


@pytest.fixture
def copied(place, tmp_path):
    shutil.copytree(place / "s", tmp_path / "s")
    for end in ("", ".featstore"):
        shutil.copy(f"{place}/s.faiss{end}", f"{tmp_path}/s.faiss{end}")
    return tmp_path / "s"


def grown(store, more, gone=0):
    """Add the pictures of the source ``more`` to the store, remove the first ``gone`` pictures, and update the
    index."""
    source = pictures(ROWS)
    for key in list(source.content)[:gone]:
        del source.content[key]
    for key, content in more.content.items():
        source.content[key] = content + ROWS
    source.labels |= more.labels
    extend(store, source)
    return index(store, update=True)


def test_updated_index_measures_its_recall_again_including_new_rows(copied, place):
    before = open_index(place / "s.faiss").info()
    report = grown(copied, pictures(2000, "n"), gone=500)
    assert (report.added, report.removed) == (2000, 500)
    assert report.standing.holds
    assert "holds: 0." in report.standing.text
    assert report.info["recall"]["queries"] == 2000
    assert report.info["measured_rows"] == ROWS + 2000
    assert report.info["effort"] == before["effort"]
    larger, opened = open_index(report.path), FeatureStore.open(copied)
    assert larger.ids.tolist() == opened.ids.tolist()
    # The recall on new queries is not below the interval that the index reports.
    fresh = np.array([vector(b"%d" % number, -number % 977) for number in range(2000)])
    recall = check_contract(larger, fresh, opened.features(), opened.ids)
    assert recall.high >= report.info["recall"]["low"]
    again = index(copied, update=True)
    assert (again.added, again.removed, again.standing) == (0, 0, report.standing)


def test_index_update_reports_a_recall_lowered_by_unusual_new_pictures(copied, place):
    report = grown(copied, pictures(300, "z"))
    assert report.standing.holds is False
    assert "does not hold any more: 0." in report.standing.text
    assert "on 300 pictures" in report.standing.text
    assert report.info["effort"]["efSearch"] > open_index(place / "s.faiss").info()["effort"]["efSearch"]
    assert open_index(report.path).info()["contract"]["holds"] is False
    assert index(copied, update=True).standing.holds is False
    assert report.standing.text in search(report.path, like=Query(keys=["00001"])).notes
    with pytest.raises(UsageError, match="an update keeps .*; leave out recall"):
        index(copied, update=True, recall=0.9)


def test_index_update_with_few_new_pictures_keeps_the_measured_recall(copied, place):
    before = open_index(place / "s.faiss").info()
    report = grown(copied, pictures(20, "z"))
    assert report.standing.holds
    assert report.standing.text.endswith(", before the last 20 came")
    assert report.info["recall"] == before["recall"]
    assert report.info["effort"] == before["effort"]


CONDITIONS = st.one_of(
    st.integers(0, ROWS - 1).map("number == {}".format),
    st.tuples(st.integers(0, ROWS), st.integers(0, 3000)).map(lambda at: f"number >= {at[0]} and number < {sum(at)}"),
    st.text("0123456789", min_size=1, max_size=4).map("key glob '*{}'".format),
    st.sampled_from(["label == 'rare'", "label != 'rare'", "label is missing", "not split == 'train'"]),
)


@given(st.lists(CONDITIONS, min_size=1, max_size=2), st.booleans(), st.integers(1, 30), st.integers(0, 99))
@settings(max_examples=8)
@example(["number == 4711"], True, 10, 0)
@example(["label == 'rare'"], True, 10, 1)
def test_filtered_search_equals_exact_search_over_the_matching_rows(place, conditions, both, k, seed):
    """Compare the scores of a filtered search with exact cosines, also if only one of 12,000 rows matches the filter.

    The index holds only 8-bit codes of the vectors, but a filtered search must be exact.
    """
    where = (" and " if both else " or ").join(f"({one})" for one in conditions)
    index, store = open_index(place / "s.faiss"), FeatureStore.open(place / "s")
    queries = np.array([vector(b"asked", 100 * seed + number) for number in range(3)])
    finder = Finder(index, store, where)
    kept = rows_where(store, where)
    assert finder.kept == kept.sum()
    vectors = store.features().astype(np.float64)
    cosines = queries @ vectors.T / np.linalg.norm(queries, axis=1)[:, None] / np.linalg.norm(vectors, axis=1)
    cosines[:, ~kept] = -np.inf
    rows = {int(number): row for row, number in enumerate(store.ids)}
    for query, wanted in zip(finder.look_up([Asked("", one) for one in queries], k), cosines, strict=True):
        best = np.sort(wanted)[::-1][: min(k, kept.sum())]
        np.testing.assert_allclose([found.score for found in query.neighbours], best, atol=1e-5)
        np.testing.assert_allclose([wanted[rows[found.id]] for found in query.neighbours], best, atol=1e-5)
