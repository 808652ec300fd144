"""Notes for the user after a run: how the source was read, if the user may not expect it, and why work is unfinished."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from featstore.embed.units import Run
from featstore.sources import Source
from featstore.store.plan import source_name
from featstore.store.tables import LABEL, SPLIT, Tables
from featstore.text import counted, natural

if TYPE_CHECKING:
    from featstore.embed.units import Run


def notes_of(run: Run, source: Source, units: tuple[int, int]) -> list[str]:
    """Return notes on how ``source`` was read, if the user may not expect it, and on how to finish unfinished work."""
    notes = list(source.notes)
    if count := unreached(run, source):
        notes.append(
            f"{counted(count, 'picture is', 'pictures are')} pending, because the folder {source.root} is not there; if it was "
            "moved, run the same command with --root and its new place"
        )
    if run.kept:
        notes.append(
            f"{run.kept:,} of the pending pictures are extracted already and kept in journals; a unit of up to "
            f"{run.manifest.unit_rows:,} pictures counts when it is whole"
        )
    if run.done and run.failed == run.done:
        missing = ""
        if set(run.reasons) == {"missing"}:
            why = f": {source.unfound}" if source.unfound else "; --root says where they are"
            missing = f", for all are missing below {source.root}{why}"
        notes.append(f"none of the {run.done:,} pictures of this run could be read{missing}")
    elif source.unfound:
        notes.append(f"some pictures are not there: {source.unfound}")
    if run.lost:
        notes.append(
            f"{counted(len(run.lost), 'shard was', 'shards were')} gone (the first: {run.lost[0]}), and the pictures of "
            "these finished units were to be extracted again"
        )
    ours = source_name(source.describe())
    pending = {source_name(run.plan.segments[unit.segment].source) for unit in run.todo}
    for name, other in run.plan.sources().items():
        root = str(other.get("root", "/"))
        if name in pending - {ours}:
            notes.append(f"pending pictures of {other.get('location')} were extracted too, read from {root}")
        if name != ours and not Path(root).exists():
            notes.append(
                f"{root}, an earlier source, is gone, and its pictures stay in the store; if it was moved, extract "
                f"{other.get('location')} with --root and its new place"
            )
    if units[1] > 1 and run.shared < units[1]:
        notes.append(
            f"the store has {counted(run.shared, 'unit')} to share among {units[1]:,} processes; make it with a smaller "
            f"--unit-rows than {run.manifest.unit_rows:,} to share so few pictures"
        )
    return notes


def unreached(run: Run, source: Source) -> int:
    """Return the number of pending pictures of ``source`` whose folder does not exist."""
    ours = source_name(source.describe())
    if source.kind == "import":
        return 0
    of = [unit for unit in run.absent if source_name(run.plan.segments[unit.segment].source) == ours]
    return sum(map(len, of))


def classes_of(tables: Tables) -> tuple[int, list[str]]:
    """Return the number of classes and the names of the splits that occur in a store's tables."""
    names: dict[str, set[str]] = {LABEL: set(), SPLIT: set()}
    for table in tables.layers:
        for name in names.keys() & set(table.columns):
            names[name].update(table.column(name).categories)
    return len(names[LABEL]), sorted(names[SPLIT], key=natural)
