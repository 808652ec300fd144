"""The denylist of removed pictures: its entries after any sequence of removals and restorations."""

from __future__ import annotations

import hashlib

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from featstore.store.denylist import Denylist

KEYS = [f"k{number}".encode() for number in range(5)]
EMPTY = Denylist.empty()
some = st.lists(st.sampled_from(KEYS), unique=True)


def sums(keys: list[bytes]) -> np.ndarray:
    """Return a SHA-256 for each key: k3 and k4 get equal digests, k0 gets zeros (unknown)."""
    digests = [bytes(32) if key == b"k0" else hashlib.sha256(min(key, b"k3")).digest() for key in keys]
    return np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 32)


@given(st.lists(st.tuples(st.booleans(), some)))
def test_denylist_lists_exactly_the_removed_pictures(steps):
    found, keys, contents = EMPTY, set(), set()
    for add, chosen in steps:
        if add:
            found = found.with_entries(found.entries(chosen, sums(chosen)))
            keys |= set(chosen)
            contents |= {row.tobytes() for row in sums(chosen) if row.any()}
        else:
            denied, key, content = found.matching(chosen)
            assert denied.tolist() == [each in keys for each in chosen]
            found = found.without(key, content)
            contents -= {sums([each]).tobytes() for each in chosen if each in keys}
            keys -= set(chosen)
        assert found.denies_keys(KEYS).tolist() == [key in keys for key in KEYS]
        test = found.content_test()
        assert [test(row.tobytes()) for row in sums(KEYS)] == [row.tobytes() in contents for row in sums(KEYS)]
        assert len(found.erased()) == 0


def test_denylist_digests_of_equal_keys_differ_between_stores():
    one, other = (EMPTY.entries(KEYS, sums(KEYS)) for _ in range(2))
    assert (one.key != other.key).all()
    assert one.denies_keys(KEYS).all()
    assert len(EMPTY.arrays()) == 0 == len(EMPTY.about())


def test_restoring_a_picture_restores_its_removed_regions():
    keys = [b"a#0", b"a#1", b"b#0", b"c"]
    found = EMPTY.with_entries(EMPTY.entries(keys, sums(keys), [b"a", b"a", b"b", b"c"]))
    assert found.denies_keys([b"a", b"a#0", b"c"]).tolist() == [False, True, True]
    denied, key, content = found.matching([b"a", b"c", b"d", b"b#0"])
    assert denied.tolist() == [True, True, False, True]
    assert len(key) == 4
    denied, key, content = found.matching([b"a"])
    assert found.without(key, content).denies_keys(keys).tolist() == [False, False, True, True]
    assert "denied/parent" in found.arrays()
    assert "denied/parent" not in EMPTY.entries([b"c"], sums([b"c"])).arrays()
