from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featstore.errors import DamagedError
from featstore.indexes.keys import KeyTable


@given(st.lists(st.binary(max_size=6)), st.lists(st.binary(max_size=6)), st.data())
@settings(deadline=None, max_examples=60)
def test_any_bytes_come_back(first: list[bytes], second: list[bytes], data: st.DataObject) -> None:
    table = KeyTable.of(first).then(KeyTable.of(second))
    everything = first + second
    table.check(len(everything), "here")
    assert [table[row] for row in range(len(table))] == everything
    rows = data.draw(st.lists(st.sampled_from(range(len(everything))))) if everything else []
    taken = table.take(np.array(rows, np.int64))
    taken.check(len(rows), "here")
    assert [taken[row] for row in range(len(taken))] == [everything[row] for row in rows]


def test_text_is_encoded_as_file_names_are() -> None:
    assert KeyTable.of(["ä\udcff\n"])[0] == "ä".encode() + b"\xff\n"


@pytest.mark.parametrize("offsets", [[0, 1], [1, 1, 3], [0, 2, 1], [0, 4, 3], [0, 2, 4]])
def test_damaged_offsets_are_refused(offsets: list[int]) -> None:
    with pytest.raises(DamagedError):
        KeyTable(np.zeros(3, np.uint8), np.array(offsets, np.int64)).check(2, "here")
