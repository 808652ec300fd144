from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featstore import splits
from featstore.errors import DataError


@st.composite
def labelled(draw, *, grouped):
    classes = draw(st.integers(2, 4))
    counts = draw(st.lists(st.integers(2, 30), min_size=classes, max_size=classes))
    y = np.repeat([f"c{i}" for i in range(classes)], counts)
    y = np.random.default_rng(draw(st.integers(0, 99))).permutation(y)
    groups = np.array(draw(st.lists(st.integers(0, 40), min_size=len(y), max_size=len(y)))) if grouped else None
    return y, groups


@settings(deadline=None, max_examples=60)
@given(labelled(grouped=False), st.floats(0.1, 0.5), st.integers(0, 5))
def test_held_out_part_is_stratified_and_has_the_requested_share(case, fraction, seed):
    y, _ = case
    train, test = splits.held_out(y, fraction=fraction, seed=seed)
    assert sorted([*train, *test]) == list(range(len(y)))
    for name in np.unique(y):
        total, held = (y == name).sum(), (y[test] == name).sum()
        assert 1 <= held < total
        assert abs(held - total * fraction) <= 1.01
    again = splits.held_out(y, fraction=fraction, seed=seed)
    np.testing.assert_array_equal(again[0], train)
    np.testing.assert_array_equal(again[1], test)


@settings(deadline=None, max_examples=60)
@given(labelled(grouped=True), st.integers(0, 5))
def test_held_out_part_never_splits_a_group(case, seed):
    y, groups = case
    groups_of = [len(set(groups[y == name])) for name in set(y)]
    if min(groups_of) < 2:
        with pytest.raises(DataError, match="only copies of one"):
            splits.held_out(y, groups=groups, fraction=0.3, seed=seed)
        return
    try:
        train, test = splits.held_out(y, groups=groups, fraction=0.3, seed=seed)
    except DataError:
        # If groups contain several classes, it can be impossible to have each class in both parts.
        assert any(len(set(y[groups == group])) > 1 for group in set(groups)) or min(groups_of) < 4
        return
    assert not set(groups[train]) & set(groups[test])
    assert set(y[train]) == set(y[test]) == set(y)
    assert len(train) + len(test) == len(y)


@settings(deadline=None, max_examples=60)
@given(labelled(grouped=True), st.booleans(), st.integers(2, 5), st.integers(0, 5))
def test_folds_keep_groups_together_and_every_training_part_has_all_classes(case, grouped, count, seed):
    y, groups = case
    groups = groups if grouped else None
    try:
        fold = splits.folds(y, groups=groups, count=count, seed=seed)
    except DataError:
        assert groups is not None
        return
    assert set(fold) <= {-1, *range(count)}
    for number in set(fold) - {-1}:
        assert set(y[fold != number]) == set(y)
    if groups is not None:
        for group in set(groups):
            assert len(set(fold[groups == group])) == 1


def test_fold_sizes_differ_by_at_most_one_row_per_class():
    y = np.repeat(["a", "b", "c"], [31, 17, 8])
    fold = splits.folds(y, count=3, seed=0)
    for name in "abc":
        counts = np.bincount(fold[y == name], minlength=3)
        assert counts.max() - counts.min() <= 1
    sizes = np.bincount(fold)
    assert sizes.max() - sizes.min() <= 1


def test_class_with_a_single_row_is_never_held_out():
    fold = splits.folds(["a"] * 6 + ["b"] * 6 + ["rare"], count=3, seed=0)
    assert fold[-1] == -1
    assert (fold[:-1] >= 0).all()


def test_large_groups_are_distributed_evenly_over_folds():
    groups = np.repeat(np.arange(30), 10)
    y = np.where(groups % 2 == 0, "even", "odd")
    fold = splits.folds(y, groups=groups, count=5, seed=1)
    for name in ("even", "odd"):
        np.testing.assert_array_equal(np.bincount(fold[y == name]), [30] * 5)


def test_one_fold_holds_out_the_given_fraction_of_the_rows():
    y = np.repeat(["a", "b"], 100)
    fold = splits.one_fold(y, fraction=0.1, seed=0)
    assert set(fold) == {-1, 0}
    assert (fold == 0).sum() == 20


@pytest.mark.parametrize(
    ("y", "groups", "message"),
    [
        (["a", "a"], None, "only one class"),
        (["a", "a", "b"], None, r"1 class has only one picture, or only copies of one: b"),
        (["a", "a", "b", "b"], [1, 2, 3, 3], r"only copies of one: b"),
        ([], None, "no labelled rows"),
        (["a", "a", "b", "b"], [1, 2, 3], "4 rows and 3 groups"),
        (["a", "a", "b", "b"], [1, 2, 1, 2], None),
    ],
)
def test_splits_reject_unsplittable_labels_with_a_one_line_error(y, groups, message):
    if message is None:
        train, test = splits.held_out(y, groups=groups, fraction=0.5, seed=0)
        assert len(train) == len(test) == 2
        return
    with pytest.raises(DataError, match=message) as caught:
        splits.held_out(y, groups=groups, fraction=0.5, seed=0)
    assert "\n" not in str(caught.value)


def test_pictures_of_equal_digest_share_a_group_and_unknown_digests_do_not():
    groups = splits.equal_bytes_groups([b"x", None, b"y", b"x", None])
    assert groups[0] == groups[3]
    assert len(set(groups)) == 4


def test_group_ids_may_have_mixed_types_and_rows_with_group_id_none_are_ungrouped():
    y = np.array(["a", "b"] * 10)
    groups = np.array([None, "x", 3, 3, 3, "x"] + [None] * 14, object)
    train, test = splits.held_out(y, groups=groups, fraction=0.5, seed=0)
    for members in ([1, 5], [2, 3, 4]):
        assert np.isin(members, train).all() or np.isin(members, test).all()
    assert len(train) == len(test) == 10


def test_function_divide_keeps_groups_together_and_keeps_the_share_of_every_stratum():
    strata, groups = np.repeat([0, 1, 2], [60, 30, 10]), np.arange(100) // 2
    train, test = splits.divide(strata, groups=groups, fraction=0.2, seed=0)
    assert sorted([*train, *test]) == list(range(100))
    assert not set(groups[train]) & set(groups[test])
    assert np.bincount(strata[test]).tolist() == [12, 6, 2]


def test_function_divide_accepts_rows_of_one_stratum_and_refuses_rows_of_one_group():
    train, test = splits.divide(np.zeros(10), fraction=0.3, seed=0)
    assert (len(train), len(test)) == (7, 3)
    with pytest.raises(DataError, match="cannot be divided into two parts"):
        splits.divide(np.zeros(10), groups=np.zeros(10), fraction=0.3, seed=0)


def test_plain_folds_have_equal_sizes_and_keep_groups_together():
    groups = np.arange(100) // 2
    fold = splits.plain_folds(100, groups=groups, cv=5, seed=0)
    assert np.bincount(fold).tolist() == [20] * 5
    assert all(len(set(fold[groups == group])) == 1 for group in range(50))
    once = splits.plain_folds(100, cv=0.25, seed=0)
    assert (int((once == 0).sum()), int((once == -1).sum())) == (25, 75)
    with pytest.raises(DataError, match="cannot be divided into folds"):
        splits.plain_folds(10, groups=np.zeros(10), cv=5, seed=0)


def test_group_of_a_row_that_must_be_trained_on_is_never_held_out():
    fold, needed = np.array([0, 0, 1, 1]), np.array([True, False, False, False])
    assert splits.always_trained(fold, needed).tolist() == [-1, 0, 1, 1]
    assert splits.always_trained(fold, needed, groups=["a", "b", "a", "c"]).tolist() == [-1, 0, -1, 1]
    with pytest.raises(DataError, match="nothing can be held out"):
        splits.always_trained(fold, np.ones(4, bool))
