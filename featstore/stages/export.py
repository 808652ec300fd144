"""Export a store to files of other programs."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from featstore.artifacts import kind_of
from featstore.embed.progress import Progress
from featstore.errors import UsageError
from featstore.store import FeatureStore
from featstore.store.exporting import FORMATS, StoreExport, export_store
from featstore.text import did_you_mean


def export(
    path: str | os.PathLike[str],
    *,
    to: str | None = None,
    out: str | os.PathLike[str] | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> StoreExport:
    """Write the store at ``path`` in the format ``to``.

    A store becomes a folder of "parquet" (default), "npy" or "csv" (see featstore.store.exporting). ``out``: by default
    beside the store, under its name and the format's. An export that was killed goes on where it was.

    Raises UsageError if there is no store, no such format, or something else at ``out``; DamagedError, OSError.
    """
    kind = kind_of(path)
    if kind == "index":
        raise UsageError(
            f"{os.fspath(path)}: is an index, which is a plain FAISS file already: faiss.read_index reads it"
        )
    if kind == "head":
        raise UsageError(f"{os.fspath(path)}: is a head, which has no {to or 'parquet'} form")
    return _export_store(path, to or FORMATS[0], out, progress)


def _export_store(
    path: str | os.PathLike[str],
    to: str,
    out: str | os.PathLike[str] | None,
    progress: Callable[[Progress], None] | None,
) -> StoreExport:
    if to not in FORMATS:
        raise UsageError(
            f"{os.fspath(path)}: a store has no format {to!r}; choose one of {', '.join(FORMATS)}{did_you_mean(to, FORMATS)}"
        )
    place = Path(f"{os.path.abspath(path)}.{to}") if out is None else Path(out)

    def on_rows(done: int, total: int) -> None:
        if progress is not None:
            progress(Progress(done, total, 0))

    with FeatureStore.open(Path(path)) as store:
        return export_store(store, place, to, on_rows)
