"""Verify a store: every byte against its checksums, and its files against each other."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from featstore.errors import DamagedError, FeatstoreError
from featstore.files import sealed
from featstore.store import folders, shards, tables, written
from featstore.store import manifest as manifests
from featstore.store import plan as plans
from featstore.store.erasure import traces
from featstore.store.history import KIND, former_epochs, history_files
from featstore.store.live_rows import missing_shard, shard_names
from featstore.store.manifest import Manifest, settled
from featstore.store.plan import Plan, Unit
from featstore.store.shards import Shard
from featstore.store.tables import Tables
from featstore.text import counted

NAMED_KEYS = 20
"""Largest number of damaged pictures to name individually per shard."""


@dataclass(frozen=True)
class Problem:
    """Damage of a ``file``.

    ``what``: text that describes the damage. ``unit``: number of the affected unit. ``keys``: the first affected keys,
    if known.
    """

    file: str
    what: str
    unit: int | None = None
    images: int = 0
    keys: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        text = self.what if self.what.startswith(self.file) else f"{self.file}: {self.what}"
        if self.images:
            more = ", ..." if self.images > len(self.keys) else ""
            text += f"; touches {counted(self.images, 'image')}" + (
                f" ({', '.join(map(repr, self.keys))}{more})" if self.keys else ""
            )
        return text

    def to_dict(self) -> dict[str, Any]:
        """Return the found damage as JSON types."""
        return asdict(self)


@dataclass(frozen=True)
class VerifyReport:
    """Result of a verification; ``strangers``: files in the store that featstore did not write."""

    files: int
    bytes: int
    problems: list[Problem]
    strangers: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Return the result of the verification as JSON types."""
        problems = [problem.to_dict() for problem in self.problems]
        return {"files": self.files, "bytes": self.bytes, "problems": problems, "strangers": self.strangers}


def verify_store(store: str | os.PathLike[str]) -> VerifyReport:
    """Read every file of a store and return the damage found; raise UsageError if there is no store.

    Reads file by file through memory maps: memory is bounded, and the speed is that of the disk or of XXH3.
    """
    path = Path(store)
    check = _Check(path)
    try:
        Manifest.read(path)
    except DamagedError as error:
        check.problems.append(Problem(str(path / manifests.NAME), str(error)))
        check.count(path / manifests.NAME)
        _each_file(check, path)
        return check.report()
    try:
        return settled(path, lambda manifest: _verified(path, manifest))[1]
    except DamagedError as error:
        check.problems.append(Problem(str(path), str(error)))
        return check.report()


def _verified(path: Path, manifest: Manifest) -> VerifyReport:
    folders.check(path)
    check = _Check(path)
    check.count(path / manifests.NAME)
    marks, names = written.marks(path), shard_names(path)
    for folder, kind in (
        (plans.folder(path, manifest.epoch), plans.KIND),
        (tables.folder(path, manifest.epoch), tables.KIND),
    ):
        for name in _listed(path, folder):
            check.sealed(folder / name, kind)
    for file in history_files(path):
        check.sealed(file, KIND)
    units = check.structure(path, manifest)
    if manifest.purging:
        check.problems.append(
            Problem(str(path), f"a purge was begun and not finished: featstore remove {path} --purge")
        )
    for unit in units:
        file = shards.shard_path(path, unit.number)
        if file.name in names or shards.has_shard(path, unit.number):
            check.shard(file, manifest, unit)
        elif written.mark_of(file) in marks:
            check.problems.append(Problem(str(file), missing_shard(file), unit.number, len(unit)))
    if check.plan is not None:
        if not check.problems:
            check.problems += [
                Problem(str(file), f"has {counted(count, 'key')} of pictures that were purged from the store")
                for file, count in traces(path, manifest, check.plan)
            ]
        planned = (shards.shard_path(path, unit.number).name for unit in units)
        for name in written.unplanned_shards(path, manifest.epoch, names, planned):
            file = shards.folder(path) / name
            check.sealed(file, shards.KIND)
            check.problems.append(Problem(str(file), "belongs to no unit of the plan, of which a part is lost"))
    return check.report()


def _listed(store: Path, folder: Path) -> list[str]:
    try:
        return folders.names(store, folder.parent.name, folder.name, pattern=folders.NUMBERED)
    except FileNotFoundError:
        return []


class _Check:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.files = self.bytes = 0
        self.problems: list[Problem] = []
        self.plan: Plan | None = None

    def report(self) -> VerifyReport:
        return VerifyReport(self.files, self.bytes, self.problems, folders.strangers(self.path))

    def count(self, file: Path) -> None:
        self.files += 1
        self.bytes += os.lstat(file).st_size

    def sealed(self, file: Path, kind: str | None, unit: int | None = None) -> bool:
        """Check the checksums of one sealed HDF5 file; return whether the file is intact."""
        self.count(file)
        try:
            damage = sealed.SealedFile(file, kind, follow=False).verify()
        except FileNotFoundError:
            raise
        except (DamagedError, OSError, ValueError) as error:
            damage = [str(error)]
        self.problems += [Problem(str(file), what, unit) for what in damage]
        return not damage

    def structure(self, path: Path, manifest: Manifest) -> list[Unit]:
        """Open the plan and the tables, which checks that their files fit together; return the units of the plan."""
        units: list[Unit] = []
        try:
            self.plan = Plan(path, manifest.epoch)
            units = self.plan.units()
            for segment in self.plan.segments:
                if (np.diff(segment.ids) <= 0).any():
                    raise DamagedError(f"{segment.file.path}: its ids are not in their order")
                segment.index.places()
            former_epochs(path, manifest.epoch)
            for table in Tables(path, manifest.epoch).own:
                table.index.places()
                for name in table.columns:
                    table.column(name)
        except FeatstoreError as error:
            if not self.problems:
                self.problems.append(Problem(str(path), str(error)))
            if self.plan is None:
                _each_file(self, path)
        return units

    def shard(self, file: Path, manifest: Manifest, unit: Unit) -> None:
        """Check the bytes of a shard, and that the shard contains all rows of its unit."""
        whole = self.sealed(file, shards.KIND, unit.number)
        try:
            shard = Shard(file, manifest.identity)
            shard.failures()
            # The first version of featstore wrote shards without a key lookup.
            if "lookup/hi" in shard.file:
                shard.find([])
            failed = shard.failed_ids
            held = np.sort(np.concatenate([shard.ids, failed])) if len(failed) else shard.ids
        except FeatstoreError as error:
            if whole:
                self.problems.append(Problem(str(file), str(error), unit.number, len(unit)))
            else:
                self.problems[-1] = Problem(str(file), self.problems[-1].what, unit.number, len(unit))
            return
        if not whole:
            self._name_pictures(shard, unit)
        assert self.plan is not None
        planned = self.plan.segments[unit.segment].ids[unit.start : unit.stop]
        if not np.array_equal(planned, held):
            self.problems.append(
                Problem(str(file), "holds other pictures than the plan says of this unit", unit.number, len(unit))
            )

    def _name_pictures(self, shard: Shard, unit: Unit) -> None:
        """Add the number of affected pictures to each reported problem of ``unit``.

        If only vectors are damaged, add the keys of the first affected pictures too.
        """
        for at, problem in enumerate(self.problems):
            if problem.unit != unit.number or problem.images:
                continue
            images, keys = len(unit), []
            if problem.what.endswith("features does not match its checksum"):
                rows = shard.damaged_rows()
                images = len(rows)
                keys = [key.decode("utf-8", "backslashreplace") for key in shard.keys.take(rows[:NAMED_KEYS])]
            self.problems[at] = Problem(problem.file, problem.what, unit.number, images, keys)


def _each_file(check: _Check, path: Path) -> None:
    """Check all sealed HDF5 files one by one, if the store's structure cannot be read."""
    seen = {problem.file for problem in check.problems}
    for folder, _, names, _ in os.fwalk(path):
        for file in (Path(folder, name) for name in sorted(names)):
            ours = folders.is_ours(file.name, folders.NUMBERED, folders.SHARD) and not file.name.startswith(".")
            if ours and str(file) not in seen:
                check.sealed(file, None)
