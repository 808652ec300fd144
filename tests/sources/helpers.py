"""Helpers for tests of sources: write files, and collect keys, errors and chunks."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from featstore.errors import FeatstoreError
from featstore.sources import Chunk, Source


def write(root: Path, files: Iterable[str | bytes], content: bytes = b"x") -> Path:
    """Write files with ``content`` under ``root`` in the given order; ``files`` are relative paths."""
    for name in files:
        path = os.path.join(os.fsencode(root), os.fsencode(name))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(content)
    return root


def keys(source: Source, rows: int = 65536) -> list[bytes]:
    return [key for chunk in source.chunks(rows) for key in chunk.keys]


def error_of(run: Callable[[], object]) -> FeatstoreError | None:
    """Call ``run``; return the FeatstoreError that it raises, or None. Other exceptions propagate."""
    try:
        run()
    except FeatstoreError as error:
        return error
    return None


def whole(source: Source) -> Chunk:
    (chunk,) = source.chunks()
    return chunk
