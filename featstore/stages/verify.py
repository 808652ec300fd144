"""Verify every byte of a store, a head or an index against its checksums."""

from __future__ import annotations

import os
from pathlib import Path

from featstore.errors import FeatstoreError, UsageError
from featstore.files import sealed
from featstore.store.repair.verify import Problem, VerifyReport, verify_store

_INDEX_SUFFIX = ".featstore"


def verify(path: str | os.PathLike[str]) -> VerifyReport:
    """Check every byte of the store, head or index at ``path``; for an index, ``path`` is either of its two files.

    Raises UsageError if ``path`` is none of these.
    """
    path = Path(path)
    if path.is_dir():
        return verify_store(path)
    if not path.exists():
        raise UsageError(f"{path}: there is no such store, head or index")
    main = path.with_name(path.name.removesuffix(_INDEX_SUFFIX)) if path.name.endswith(_INDEX_SUFFIX) else path
    # If a save was killed, the second file of the index may still have its temporary name.
    parts = [main, *(main.with_name(main.name + _INDEX_SUFFIX + suffix) for suffix in ("", ".next"))]
    there = [part for part in parts if part.exists()]
    if len(there) > 1 or path != main:
        return _index(main, there)
    return _head(path)


def _index(main: Path, there: list[Path]) -> VerifyReport:
    from featstore.indexes import verify as verify_index

    problems = [_problem(main, what) for what in verify_index(main)]
    return VerifyReport(len(there), sum(file.stat().st_size for file in there), problems)


def _head(path: Path) -> VerifyReport:
    from featstore.heads import load_head

    size = path.stat().st_size
    try:
        damage = sealed.SealedFile(path).verify()
        if not damage:
            load_head(path)
    except (FeatstoreError, OSError) as error:
        damage = [str(error)]
    return VerifyReport(1, size, [_problem(path, what) for what in damage])


def _problem(file: Path, what: str) -> Problem:
    return Problem(str(file), what)
