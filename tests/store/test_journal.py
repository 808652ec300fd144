from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featstore.errors import DamagedError
from featstore.store.journal import Block, JournalWriter, contiguous, read_journal

D, F4 = 3, np.dtype("<f4")


def block(start: int, stop: int, failed: tuple[int, ...] = ()) -> Block:
    random = np.random.default_rng(start)
    vectors = random.normal(size=(stop - start - len(failed), D)).astype(F4)
    sums = random.integers(0, 256, (stop - start, 32)).astype(np.uint8)
    return Block(start, stop, vectors, sums, [(row, "truncated", f"row {row} \udcff") for row in failed])


def write(path, blocks):
    writer = JournalWriter(path)
    writer.append(Block(0, 0, np.empty((0, D), F4), np.empty((0, 32), np.uint8), (), {"engine": "e"}))
    for each in blocks:
        writer.append(each)
    writer.close()


def same(a: Block, b: Block) -> bool:
    return (
        (a.start, a.stop, list(a.failures)) == (b.start, b.stop, list(b.failures))
        and np.array_equal(a.vectors, b.vectors)
        and np.array_equal(a.sha256, b.sha256)
    )


BLOCKS = [block(0, 4, (1,)), block(4, 8), block(8, 9, (8,)), block(9, 12)]


def test_journal_blocks_are_read_as_they_were_written(tmp_path):
    write(tmp_path / "j", BLOCKS)
    found = read_journal(tmp_path / "j", D, F4)
    assert len(found) == 4
    assert all(map(same, found, BLOCKS))
    assert all(each.provenance == {"engine": "e"} for each in found)
    assert [each.ok().tolist() for each in found] == [[0, 2, 3], [4, 5, 6, 7], [], [9, 10, 11]]


@given(st.integers(0))
def test_truncated_journal_of_a_unit_keeps_the_complete_blocks(tmp_path_factory, cut):
    path = tmp_path_factory.mktemp("journal") / "j"
    write(path, BLOCKS)
    data = path.read_bytes()
    path.write_bytes(data[: cut % (len(data) + 1)])
    found = read_journal(path, D, F4)
    assert all(map(same, found, BLOCKS))
    assert len(found) == 4 or cut % (len(data) + 1) < len(data)


@given(st.integers(0))
def test_damaged_journal_is_read_up_to_the_damaged_block(tmp_path_factory, bit):
    path = tmp_path_factory.mktemp("journal") / "j"
    write(path, BLOCKS)
    data = bytearray(path.read_bytes())
    bit %= 8 * len(data)
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)
    found = read_journal(path, D, F4)
    assert len(found) < 4
    assert all(map(same, found, BLOCKS))


def test_journal_of_vectors_of_another_dimension_is_refused(tmp_path):
    write(tmp_path / "j", BLOCKS)
    with pytest.raises(DamagedError, match="other features"):
        read_journal(tmp_path / "j", D + 1, F4)


def test_journal_blocks_that_overlap_earlier_blocks_are_dropped():
    a, b, c, late = block(0, 4), block(4, 8), block(8, 12), block(6, 9)
    assert [x.start for x in contiguous([a, late, b, c, block(4, 6)])] == [0, 4, 8]
    assert contiguous([b]) == []
