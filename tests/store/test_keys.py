from __future__ import annotations

import hashlib

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from featstore.store.keys import KeyIndex, digests

keys = st.lists(st.binary(max_size=9), max_size=30)


@given(st.lists(st.binary(max_size=4), unique=True, max_size=40), st.lists(st.binary(max_size=4), max_size=20))
def test_key_index_finds_exactly_the_indexed_keys(items, asked):
    index = KeyIndex.build(digests(items))
    expected = [items.index(key) if key in items else -1 for key in asked]
    assert index.find(digests(asked)).tolist() == expected
    assert index.digest().tolist() == digests(items).tolist()
    assert index.doubled() is None


def test_key_digests_with_equal_first_halves_are_distinguished():
    digest = np.array([[7, 3], [7, 1], [7, 2], [9, 0]], np.uint64)
    index = KeyIndex.build(digest)
    assert index.find(digest).tolist() == [0, 1, 2, 3]
    assert index.find(np.array([[7, 4], [8, 0], [9, 1], [1, 1]], np.uint64)).tolist() == [-1, -1, -1, -1]


@given(st.lists(st.binary(max_size=3), min_size=1, max_size=20), st.integers(0))
def test_key_index_detects_duplicate_keys(items, which):
    doubled = [*items, items[which % len(items)]]
    found = KeyIndex.build(digests(doubled)).doubled()
    assert found is not None
    assert doubled[found[0]] == doubled[found[1]]


def test_key_digest_is_blake2b_of_the_key_with_the_view_number_as_salt():
    plain = hashlib.blake2b(b"a.jpg", digest_size=16).digest()
    assert digests([b"a.jpg"]).tobytes() == plain == digests([b"a.jpg"], [0]).tobytes()
    assert digests([b"a.jpg"], [1]).tobytes() != plain
