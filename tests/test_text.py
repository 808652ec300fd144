from __future__ import annotations

from featstore.text import counted


def test_counted_uses_singular_and_plural():
    assert [counted(count, "picture") for count in (0, 1, 2000)] == ["0 pictures", "1 picture", "2,000 pictures"]
    assert [counted(count, "key is", "keys are") for count in (1, 2)] == ["1 key is", "2 keys are"]
