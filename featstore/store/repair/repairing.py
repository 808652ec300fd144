"""Repair: restore damaged files where possible, and move the others aside. Nothing is deleted.

The steps, in this order and each only for damaged files:

* A single flipped bit is restored (bits.py): the file is then identical to the original.
* featstore.json is rebuilt from the shards and the plan, which repeat its content.
* A plan segment's lookup, sizes, times and keys are rebuilt from its other columns and the shards. Sizes and times
  become unknown: the next ``extract --rehash`` records them, ``extract`` without ``--rehash`` extracts these pictures
  again.
* A side table keeps its intact columns. The next ``extract`` restores lost labels that came with the pictures; labels
  that came from ``featstore label`` have to be given again.
* A shard with damaged vectors keeps the intact vectors; ``remake`` computes the damaged vectors again. Pictures that
  are missing or changed become failures with the reason "damaged". A shard with other damage is moved aside as a
  whole, and its unit (row range) is pending again.

The columns of the plan that map ids to pictures cannot be restored: repair then stops with an error and changes
nothing. Every replaced file is kept in the folder ``damaged``.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featstore.errors import DamagedError
from featstore.files import atomic, sealed
from featstore.files.byte_columns import ByteColumn
from featstore.store import folders, history, shards, tables, written
from featstore.store import manifest as manifests
from featstore.store import plan as plans
from featstore.store.claims import Claims
from featstore.store.keys import KeyIndex, digests
from featstore.store.live_rows import shard_names
from featstore.store.manifest import Manifest
from featstore.store.plan import Plan
from featstore.store.repair.bits import correct_json, correct_sealed
from featstore.store.repair.manifest import UNKNOWN_WEIGHTS, rebuilt_manifest
from featstore.store.repair.shards import Remake, ShardRepair
from featstore.store.shards import Shard
from featstore.store.tables import Table


@dataclass
class RepairReport:
    """Result of a repair.

    ``restored``: files restored to their original content. ``remade``: number of vectors computed again. ``failed``:
    pictures that became failures with the reason "damaged". ``pending``: units to extract again. ``aside``: present
    paths of the damaged files. ``notes``: warnings for the user.
    """

    store: str
    restored: list[str] = field(default_factory=list)
    remade: int = 0
    failed: int = 0
    pending: list[int] = field(default_factory=list)
    aside: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Return the result of the repair as JSON types."""
        return asdict(self)


def repair_store(
    store: str | os.PathLike[str], remake: Remake | None, then: Callable[[Claims, RepairReport], None] | None = None
) -> RepairReport:
    """Restore the damaged files of a store.

    ``remake``: computes damaged vectors again; if None, the pictures become failures. ``then`` is called at the end,
    while this process still has exclusive access. Raises UsageError if there is no store, FeatstoreError while another
    process writes to it, and DamagedError for a file that cannot be restored, which is then unchanged.
    """
    path = Path(store)
    repair = _Repair(path, remake)
    if not os.path.lexists(path / manifests.NAME):
        Manifest.read(path)
    with Claims(path) as claims:
        claims.exclusive()
        repair.run()
        if then is not None:
            then(claims, repair.report)
    return repair.report


class _Repair:
    def __init__(self, path: Path, remake: Remake | None) -> None:
        self.path, self.remake = path, remake
        self.report = RepairReport(str(path))

    def run(self) -> None:
        self.manifest = self._manifest()
        epoch = self.manifest.epoch
        for file in self._numbered(plans.folder(self.path, epoch)):
            self._sealed(file, plans.KIND, self._segment)
        self.plan = Plan(self.path, epoch)
        self._missing_tables()
        for file in self._numbered(tables.folder(self.path, epoch)):
            self._sealed(file, tables.KIND, self._table)
        for file in history.history_files(self.path):
            self._sealed(file, history.KIND, self._history)
        repair = ShardRepair(self.manifest, self.plan, self.remake, self.aside, self._restored)
        marks, planned = written.marks(self.path), self.plan.units()
        for unit in planned:
            file = shards.shard_path(self.path, unit.number)
            if shards.has_shard(self.path, unit.number):
                self._sealed(file, shards.KIND, functools.partial(repair.restore, unit))
            elif written.mark_of(file) in marks:
                written.unmark(self.path, written.mark_of(file))
                self._restored(file, "was missing; its unit is extracted again")
                repair.pending.append(unit.number)
        self._outside([shards.shard_path(self.path, unit.number).name for unit in planned])
        self.report.remade, self.report.failed, self.report.pending = repair.remade, repair.failed, repair.pending

    def aside(self, file: Path) -> Path:
        """Keep a damaged file under a unique name in the folder ``damaged``, before it is replaced."""
        folder = folders.make(self.path, folders.DAMAGED)
        name = str(file.relative_to(self.path)).replace(os.sep, "-")
        number = 0
        while True:
            kept = folder / f"{name}.{number}"
            try:
                # If the damaged file is a symbolic link, keep the link itself and not the file that it points to.
                os.link(file, kept, follow_symlinks=False)
                break
            except FileExistsError:
                number += 1
            except PermissionError:
                # A folder cannot have a second hard link, so move it.
                os.rename(file, kept)
                break
        atomic.sync(folder)
        self.report.aside.append(str(kept))
        return kept

    def _restored(self, file: Path, note: str = "") -> None:
        self.report.restored.append(str(file))
        if note:
            self.report.notes.append(f"{file}: {note}")

    def _sealed(
        self, file: Path, kind: str, restore: Callable[[Path, sealed.SealedFile | None, set[str]], None]
    ) -> None:
        """Check a sealed file; if it is damaged, repair single bits or, if that fails, call ``restore``."""
        try:
            found: sealed.SealedFile | None = sealed.SealedFile(file, kind, follow=False)
            names = set(found.damaged()) if found is not None else set()
        except (DamagedError, OSError):
            found, names = None, set()
        if found is not None and not names:
            return
        if _readable(file) and correct_sealed(file, kind, self.aside):
            self._restored(file)
            return
        restore(file, found, names)

    def _numbered(self, folder: Path) -> list[Path]:
        try:
            found = folders.names(self.path, folder.parent.name, folder.name, pattern=folders.NUMBERED)
        except FileNotFoundError:
            return []
        return [folder / name for name in found]

    def _missing_tables(self) -> None:
        """Write an empty table in place of each missing table, because the store cannot be read without them."""
        folder = tables.folder(self.path, self.manifest.epoch)
        there = {file.name for file in self._numbered(folder)}
        marked = {f"{name[-6:]}.h5" for name in written.marks(self.path) if name.startswith(f"tables-{folder.name}-")}
        last = max(there | marked, default="")
        for file in (folder / f"{number:06d}.h5" for number in range(int(last[:6]) + 1 if last else 0)):
            if file.name not in there:
                tables.write_table(file, [], {}, "user")
                self._restored(
                    file,
                    "was missing: what came by featstore label has to be given again, the rest comes back with the "
                    "next extract",
                )

    def _outside(self, planned: list[str]) -> None:
        """Move shards aside that belong to no unit of the plan."""
        for name in written.unplanned_shards(self.path, self.manifest.epoch, shard_names(self.path), planned):
            file = shards.folder(self.path) / name
            self.aside(file)
            written.unmark(self.path, written.mark_of(file))
            folders.remove_file(self.path, folders.SHARDS, name)
            self.report.notes.append(
                f"{file}: belongs to no unit of the plan, of which a part is lost; it was set aside"
            )

    # Methods that repair featstore.json

    def _manifest(self) -> Manifest:
        file = self.path / manifests.NAME
        try:
            return Manifest.read(self.path)
        except DamagedError:
            if correct_json(file, self.aside):
                self._restored(file)
                return Manifest.read(self.path)
        rebuilt = rebuilt_manifest(self.path)
        self.aside(file)
        rebuilt.write(self.path)
        self._restored(
            file,
            "the name of the weights is not recorded elsewhere and is left open"
            if rebuilt.weights_name == UNKNOWN_WEIGHTS
            else "",
        )
        return rebuilt

    # Methods that repair the plan and the tables of a store

    def _segment(self, file: Path, found: sealed.SealedFile | None, names: set[str]) -> None:
        derived = {
            "",
            "lookup/hi",
            "lookup/lo",
            "lookup/row",
            "size",
            "mtime",
            "touched/id",
            "touched/size",
            "touched/mtime",
            "retired/why",
        }
        keys = {"keys/bytes", "keys/offsets"}
        lost = sorted(names - derived - keys)
        if found is None or lost:
            what = ", ".join(lost) or "its header"
            raise DamagedError(
                f"{file}: the plan cannot be made anew ({what} is lost, which says what picture has which id); restore "
                "this file from a copy, or extract into a new store; the shards and their vectors are untouched"
            )
        arrays = _arrays(found)
        if names & keys:
            arrays.update(ByteColumn.of(self._keys_from_shards(file, found)).arrays("keys"))
        listed = list(ByteColumn.read(arrays, "keys"))
        arrays.update(KeyIndex.build(digests(listed, arrays["view"].tolist())).arrays())
        if names & {"size", "mtime"}:
            arrays["size"], arrays["mtime"] = (np.full(len(listed), -1, np.int64) for _ in range(2))
        if names & {"touched/id", "touched/size", "touched/mtime"}:
            arrays["touched/id"] = np.empty(0, np.uint64)
            arrays["touched/size"], arrays["touched/mtime"] = (np.empty(0, np.int64) for _ in range(2))
        if "retired/why" in names:
            arrays["retired/why"] = np.full(len(arrays["retired/id"]), plans.CHANGED, np.uint8)
        unknown = bool(names & {"size", "mtime", "touched/id", "touched/size", "touched/mtime"})
        self._rewrite(
            file,
            plans.KIND,
            arrays,
            found,
            "sizes and times are unknown: extract with --rehash to note them" if unknown else "",
        )

    def _keys_from_shards(self, file: Path, found: sealed.SealedFile) -> list[bytes]:
        """Return the keys of a segment's rows from the shards of its units."""
        known: dict[int, bytes] = {}
        for number in found["units/number"].tolist():
            path = shards.shard_path(self.path, number)
            try:
                shard = Shard(path, self.manifest.identity)
                if shard.file.damaged():
                    raise DamagedError(f"{path}: is damaged too")
                known.update(zip(shard.ids.tolist(), shard.keys, strict=True))
                known.update((failure.id, key) for key, failure in shard.failures())
            except (FileNotFoundError, DamagedError):
                raise DamagedError(
                    f"{file}: its keys are lost, and unit {number} has no whole shard that repeats them; restore this "
                    "file from a copy, or extract into a new store"
                ) from None
        return [known[number] for number in found["id"].tolist()]

    def _table(self, file: Path, found: sealed.SealedFile | None, names: set[str]) -> None:
        user, lost = None, ["all columns"]
        usable = found is not None and not names & {"meta", "keys/bytes", "keys/offsets"}
        keys: list[bytes] = []
        columns: dict[str, tables.Column] = {}
        about: dict[str, Any] = {}
        if usable and found is not None:
            table = Table(file)
            user, keys, lost, about = table.origin == "user", list(table.keys), [], table.about
            for place, name in enumerate(table.columns):
                if any(damaged.startswith(f"columns/{place}/") for damaged in names):
                    lost.append(name)
                else:
                    columns[name] = table.column(name)
        self.aside(file)
        # The restored table has no row hashes. So all rows count as changed, and the next extract reads their labels
        # again.
        tables.write_table(file, keys, columns, "user" if user else "source", about=about, exclusive=False)
        what = ", ".join(lost)
        if lost and user is not False:
            self._restored(
                file, f"lost {what}; if it came from featstore label, label again with that table, else extract again"
            )
        else:
            self._restored(file, f"lost {what}; extract again to read it from the source" if lost else "")

    def _history(self, file: Path, _: sealed.SealedFile | None, __: set[str]) -> None:
        self.aside(file)
        written.unmark(self.path, written.mark_of(file))
        folders.remove_file(self.path, folders.HISTORY, file.name)
        self.report.notes.append(
            f"{file}: was set aside; the store's past before that compaction is not known any more"
        )

    def _rewrite(
        self, file: Path, kind: str, arrays: dict[str, NDArray[Any]], found: sealed.SealedFile, note: str
    ) -> None:
        meta, summary = found.meta, found.summary
        self.aside(file)
        sealed.write(file, kind, arrays, meta, summary)
        self._restored(file, note)


def _readable(file: Path) -> bool:
    """Return whether every byte of a file can be read; a bad disk sector cannot be repaired."""
    try:
        with atomic.open_regular(file, follow=False) as opened:
            atomic.checksum_open(opened)
    except (DamagedError, OSError):
        return False
    return True


def _arrays(found: sealed.SealedFile) -> dict[str, NDArray[Any]]:
    return {name: found[name] for name in found.names if name != "meta"}
