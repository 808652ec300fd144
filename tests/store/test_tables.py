from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featstore.store.keys import digests
from featstore.store.tables import Column, Tables, row_digests, table_path, write_table

values = st.one_of(
    st.lists(st.none() | st.booleans(), max_size=8),
    st.lists(st.none() | st.integers(-(2**63), 2**63 - 1), max_size=8),
    st.lists(st.none() | st.floats(allow_nan=False), max_size=8),
    st.lists(st.none() | st.text(), max_size=8),
    st.lists(st.none() | st.sampled_from(["\udcff odd", "a\nb", ""]), max_size=8),
)


@given(values)
def test_table_columns_of_any_values_round_trip(tmp_path_factory, column):
    path = table_path(tmp_path_factory.mktemp("table"), 0, 0)
    keys = [str(i).encode() for i in range(len(column))]
    write_table(path, keys, {"c": column}, "user")
    (table,) = Tables(path.parents[2], 0).versions
    assert table.column("c").objects().tolist() == column
    assert list(table.keys) == keys


def test_table_column_of_mixed_types_becomes_text():
    assert Column.of([1, "a", None, True]).objects().tolist() == ["1", "a", None, "True"]


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["1", "-20", "0"], [1, -20, 0]),
        (["1", "", None], [1, None, None]),
        (["1.5", "2", "1e3"], [1.5, 2.0, 1000.0]),
        (["007", "1"], ["007", "1"]),
        (["1", "x", ""], ["1", "x", ""]),
        (["", ""], ["", ""]),
        (["12345678901234567890123"], [1.2345678901234568e22]),
        (["True", "False"], ["True", "False"]),
    ],
)
def test_table_column_of_numeric_texts_becomes_numbers(texts, expected):
    assert Column.of_text(texts).objects().tolist() == expected


def test_row_digests_change_if_and_only_if_the_values_change():
    base = {"label": ["a", None], "x": [1.0, float("nan")]}
    same = row_digests({"x": [1.0, float("nan")], "label": ["a", None], "empty": [None, None]}, 2)
    assert row_digests(base, 2).tolist() == same.tolist()
    for changed in ({**base, "label": ["b", None]}, {**base, "x": [2.0, float("nan")]}, {**base, "y": ["", None]}):
        assert (row_digests(changed, 2) != row_digests(base, 2)).tolist() == [True, False]
    assert row_digests({"s": ["\udcff"]}, 1).shape == (1,)


def test_user_tables_override_source_tables_and_newer_source_tables_override_older_ones(tmp_path):
    write_table(table_path(tmp_path, 0, 0), [b"a", b"b"], {"label": ["1", "1"]}, "source", np.array([1, 2], np.uint64))
    write_table(table_path(tmp_path, 0, 1), [b"a"], {"label": ["2"], "split": ["t"]}, "user")
    write_table(table_path(tmp_path, 0, 2), [b"b"], {"label": ["3"], "m": [1]}, "source", np.array([3], np.uint64))
    found = Tables(tmp_path, 0)
    assert [list(table.keys) for table in found.layers] == [[b"a", b"b"], [b"b"], [b"a"]]
    assert found.columns == ["label", "split", "m"]
    known, value = found.source_rows(digests([b"b", b"zz", b"a"]))
    assert (known.tolist(), value.tolist()) == ([True, False, True], [3, 0, 1])
