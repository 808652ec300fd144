"""Format numbers with nouns, for messages and pages."""

from __future__ import annotations


def counted(count: int, one: str, many: str = "") -> str:
    """Return a number followed by its singular or plural text: 1 class, 2 classes; 1 key is new, 2,000 keys are new.

    ``many``: the plural text; by default ``one`` with an s.
    """
    return f"{count:,} {one if count == 1 else many or one + 's'}"
