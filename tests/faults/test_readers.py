"""Ten seconds of the ten-minute test tests/slow/readers.py."""

from __future__ import annotations

import pytest

from tests.slow.readers import KINDS, run


@pytest.mark.slow
def test_every_read_beside_writers_sees_one_consistent_state() -> None:
    found = run(10 / 60, 3)
    assert not found["errors"]
    assert all(found[kind] > 0 for kind in KINDS)
