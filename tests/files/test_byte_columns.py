"""Byte columns: lists of byte strings, stored as one array of bytes and an array of offsets."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featstore.errors import DamagedError
from featstore.files.byte_columns import ByteColumn


@given(st.lists(st.binary(max_size=6)), st.lists(st.binary(max_size=6)), st.data())
@settings(deadline=None, max_examples=60)
def test_byte_columns_round_trip_any_bytes(first: list[bytes], second: list[bytes], data: st.DataObject) -> None:
    table = ByteColumn.of(first).then(ByteColumn.of(second))
    everything = first + second
    table.check(len(everything), "here")
    assert [table[row] for row in range(len(table))] == everything
    rows = data.draw(st.lists(st.sampled_from(range(len(everything))))) if everything else []
    taken = table.select(np.array(rows, np.int64))
    taken.check(len(rows), "here")
    assert [taken[row] for row in range(len(taken))] == [everything[row] for row in rows]


def test_byte_column_rejects_arrays_that_are_not_one_dimensional() -> None:
    for blob, offsets in ((np.zeros((2, 2)), np.zeros(1)), (np.zeros(2), np.zeros((2, 2))), (np.zeros(2), np.array(2))):
        with pytest.raises(DamagedError):
            ByteColumn(blob.astype(np.uint8), offsets.astype(np.int64))


def test_byte_column_encodes_text_as_utf8_with_surrogateescape() -> None:
    assert ByteColumn.of(["ä\udcff\n"])[0] == "ä".encode() + b"\xff\n"


@pytest.mark.parametrize("offsets", [[0, 1], [1, 1, 3], [0, 2, 1], [0, 4, 3], [0, 2, 4]])
def test_check_of_a_byte_column_rejects_damaged_offsets(offsets: list[int]) -> None:
    with pytest.raises(DamagedError):
        ByteColumn(np.zeros(3, np.uint8), np.array(offsets, np.int64)).check(2, "here")


keys = st.lists(st.binary(max_size=9), max_size=30)


@given(keys)
def test_byte_column_returns_its_items_by_index_and_slice(items):
    column = ByteColumn.of(items)
    assert list(column) == items
    assert [column[i] for i in range(len(items))] == items
    assert column[::-1] == items[::-1]


@given(keys.filter(len), st.data())
def test_byte_column_selects_rows_in_any_order(items, data):
    rows = data.draw(st.lists(st.integers(0, len(items) - 1), max_size=20))
    assert list(ByteColumn.of(items).take(np.array(rows, int))) == [items[row] for row in rows]


def test_byte_column_keeps_the_order_of_unsorted_and_repeated_rows():
    column = ByteColumn.of([b"nine byte", b"", b"ab", b""])
    assert list(column.take(np.array([1, 0, 0, 3]))) == [b"", b"nine byte", b"nine byte", b""]
    assert list(ByteColumn.of([b"a", b"b", b"c"]).take(np.array([0, 0, 2]))) == [b"a", b"a", b"c"]


def test_check_of_a_byte_column_rejects_offsets_beyond_its_bytes():
    with pytest.raises(DamagedError):
        ByteColumn(np.zeros(3, np.uint8), np.array([0, 4], np.uint64))
