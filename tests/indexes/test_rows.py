from __future__ import annotations

import numpy as np
import pytest

from featstore.errors import UsageError
from featstore.indexes.rows import IndexRows


def test_joining_row_tables_of_an_index_keeps_ids_keys_and_labels() -> None:
    first = IndexRows.of(np.array([4, 2]), [b"x", b"y"], ["dog", None], 2)
    second = IndexRows.of(np.array([9, 7], np.uint64), [b"", b"z"], ["cat", "dog"], 2)
    both = first.then(second).take(np.array([3, 0, 2]))
    assert both.ids.tolist() == [7, 4, 9]
    assert [both.keys[row] for row in range(3)] == [b"z", b"x", b""]
    assert both.labels is not None
    assert [both.classes[code] for code in both.labels] == ["dog", "dog", "cat"]


def test_index_rows_with_and_without_labels_can_be_joined() -> None:
    bare, labelled = IndexRows.of(np.array([1]), [b"a"], None, 1), IndexRows.of(np.array([2]), [b"b"], ["cat"], 1)
    assert bare.then(labelled).labels.tolist() == [-1, 0]
    assert labelled.then(bare).labels.tolist() == [0, -1]
    assert bare.then(IndexRows.of(np.array([2]), [b"b"], None, 1)).labels is None


@pytest.mark.parametrize(
    ("ids", "keys", "labels", "words"),
    [
        ([1, 1], [b"a", b"b"], None, "distinct"),
        ([1, -1], [b"a", b"b"], None, "between 0 and"),
        (np.array([1, 1 << 63], np.uint64), [b"a", b"b"], None, "between 0 and"),
        ([1.0, 2.0], [b"a", b"b"], None, "whole numbers"),
        ([[1, 2]], [b"a", b"b"], None, "one a row"),
        ([1, 2], [b"a"], None, "1 keys"),
        ([1], [b"a", b"b"], None, "1 ids"),
        ([1, 2], [b"a", b"b"], ["x"], "1 labels"),
    ],
)
def test_index_rows_reject_invalid_ids_and_columns_of_different_lengths(
    ids: object, keys: list[bytes], labels: list[str] | None, words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        IndexRows.of(np.asarray(ids), keys, labels, 2)
