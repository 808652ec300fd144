"""Claims: who works on which unit, on one host or many, over NFS, with owners that die.

work/<unit>/claim.<n>: JSON of the owner (host, boot id, process, start time) and a heartbeat counter that the owner
rewrites every few seconds. The claim with the highest n is in force. It is taken over by creating claim.<n + 1>
exclusively (by link(2), which is atomic on NFS), so that of several takers one wins and nothing is ever unlinked
under its owner. An owner is dead when its process is gone from this host (pid and start time, or another boot), or,
on another host, when its counter stood still for the lease, measured by the watcher's own monotonic clock: no
clocks are compared. Work done twice is harmless: journals are per claim, and a shard is created exclusively.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import socket
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from featstore import defaults
from featstore.errors import DamagedError, FeatstoreError
from featstore.files import atomic
from featstore.store import folders

_RECORD_BYTES = 512
_LARGEST_RECORD = 4096
_JOINS = 10


Work = int | str
"""What is claimed: a unit's number, or the name of other work."""
COMPACTION = "compaction"


def work_folder(store: Path, work: Work) -> Path:
    """Return the folder where a unit, or other work, is done."""
    return store / folders.WORK / (work if isinstance(work, str) else f"{work:016d}")


def _first_line(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _start_time(pid: int) -> str | None:
    """Return when a process started, in the kernel's ticks; "" where that cannot be told, None where there is no such process."""
    try:
        # The command's name may hold spaces and brackets: fields count from the last bracket.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        pass
    if os.path.isdir("/proc/self"):
        return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except OSError:
        pass
    return ""


def _identity() -> dict[str, Any]:
    try:
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        namespace = ""
    return {
        "host": socket.gethostname(),
        "boot": _first_line("/proc/sys/kernel/random/boot_id"),
        "namespace": namespace,
        "pid": os.getpid(),
        "started": _start_time(os.getpid()) or "",
    }


@dataclass(frozen=True)
class Owner:
    """Who holds a claim, as its file tells."""

    record: dict[str, Any]
    me: dict[str, Any] = field(default_factory=_identity)

    def __str__(self) -> str:
        return f"process {self.record.get('pid')} on {self.record.get('host')}"

    @property
    def released(self) -> bool:
        """Whether the owner gave the claim back."""
        return bool(self.record.get("released"))

    def dead(self) -> bool | None:
        """Return whether the owner is dead; None where that cannot be told from here."""
        if self.record.get("host") != self.me["host"]:
            return None
        if self.record.get("boot") != self.me["boot"]:
            return True
        if self.record.get("namespace") != self.me["namespace"]:
            return None
        pid = self.record.get("pid")
        started = _start_time(pid) if isinstance(pid, int) else None
        return started is None or (started != "" and started != self.record.get("started"))


class Claim:
    """A unit held by this process; ``beat`` keeps it, ``release`` gives it back, ``finish`` ends the work."""

    def __init__(self, directory: Path, number: int, record: dict[str, Any]) -> None:
        self.directory, self.number = directory, number
        self._record, self._counter, self._released = record, 0, False
        self._lock = threading.Lock()

    @property
    def path(self) -> Path:
        """The claim's file."""
        return self.directory / f"claim.{self.number}"

    @property
    def journal(self) -> Path:
        """The journal that belongs to this claim."""
        return self.directory / f"journal.{self.number}"

    def journals(self) -> list[Path]:
        """Return the journals of this unit, the oldest first."""
        found = _numbers(self.directory, folders.JOURNAL)
        return [self.directory / f"journal.{number}" for number in found if number <= self.number]

    def beat(self, *, release: bool = False) -> None:
        """Show that the owner lives; after a release, do nothing."""
        with self._lock:
            if self._released:
                return
            self._counter, self._released = self._counter + 1, release
            # In place, on the same inode: an NFS client that opens the file then sees the change.
            with (
                contextlib.suppress(FileNotFoundError, DamagedError),
                atomic.open_regular(self.path, follow=False, writable=True) as file,
            ):
                file.write(_encode({**self._record, "beat": self._counter, "released": release}))

    def release(self) -> None:
        """Give the unit back unfinished: whoever comes next goes on at once."""
        self.beat(release=True)

    def finish(self) -> None:
        """Remove the unit's work folder: its shard is there."""
        _remove(self.directory.parent.parent, self.directory.name)

    def stands(self) -> bool:
        """Return whether the claim's file is still there."""
        return os.path.lexists(self.path)


def _encode(record: dict[str, Any]) -> bytes:
    return atomic.canonical_json(record).encode().ljust(_RECORD_BYTES - 1) + b"\n"


def _read(path: Path) -> dict[str, Any] | None:
    """Return a claim's record; None where it cannot be read just now (being rewritten, or gone)."""
    try:
        value = json.loads(atomic.read_small(path, _LARGEST_RECORD, follow=False))
    except (OSError, DamagedError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _numbers(directory: Path, pattern: re.Pattern[str]) -> list[int]:
    """Return, ascending, the numbers of a work folder's regular files whose names are of ``pattern``."""
    found = folders.regular(directory.parent.parent, folders.WORK, directory.name, pattern=pattern)
    return sorted(int(name.partition(".")[2]) for name in found)


def _last_claim(directory: Path) -> Path | None:
    """Return the claim in force; raise FileNotFoundError where the folder is gone."""
    numbers = _numbers(directory, folders.CLAIM)
    return directory / f"claim.{numbers[-1]}" if numbers else None


def _remove(store: Path, name: str) -> None:
    """Remove a folder of work; what cannot be removed now is left to the next compaction."""
    with contextlib.suppress(OSError, DamagedError):
        folders.remove_folder(store, folders.WORK, name)


class Claims:
    """Takes claims on the units of a store and keeps them alive from a thread."""

    def __init__(
        self,
        store: Path,
        lease_seconds: float = defaults.CLAIM_LEASE_SECONDS,
        heartbeat_seconds: float = defaults.HEARTBEAT_SECONDS,
    ) -> None:
        self.store, self.lease = store, lease_seconds
        self._me = _identity()
        self._held: dict[Work, Claim] = {}
        self._watched: dict[Path, tuple[Any, float]] = {}
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._heartbeat = heartbeat_seconds
        self._session: Work | None = None
        self._thread = threading.Thread(target=self._beat, name="featstore-claims", daemon=True)
        self._thread.start()

    def _beat(self) -> None:
        while not self._stop.wait(self._heartbeat):
            with self._lock:
                held = list(self._held.values())
            for claim in held:
                # A heartbeat that cannot be written (a full disk) is a missed one; the work itself will tell.
                with contextlib.suppress(OSError):
                    claim.beat()

    def take(self, unit: Work) -> Claim | Owner:
        """Claim a unit, or return the owner who holds it. Raises OSError where the store cannot be written."""
        directory = work_folder(self.store, unit)
        while True:
            try:
                folders.make(self.store, folders.WORK, directory.name)
                return self._take(unit, directory)
            except FileNotFoundError:
                # The folder went away in between: its owner finished.
                if not self.store.is_dir():
                    raise

    def _take(self, unit: Work, directory: Path) -> Claim | Owner:
        last = _last_claim(directory)
        if last is not None and (owner := self.holder(unit)):
            return owner
        # Numbers go on after all that are there: a name may be taken by what is no regular file.
        taken = folders.names(self.store, folders.WORK, directory.name, pattern=folders.CLAIM)
        number = max((int(name[6:]) for name in taken), default=-1) + 1
        claim = Claim(directory, number, {**self._me, "since": time.time()})
        try:
            atomic.write_bytes(claim.path, _encode({**claim._record, "beat": 0}), exclusive=True)
        except FileExistsError:
            return Owner(_read(claim.path) or {}, self._me)
        with self._lock:
            self._held[unit] = claim
        return claim

    def holder(self, work: Work) -> Owner | None:
        """Return the owner of some work, unless nobody holds it or the owner is known to be dead."""
        try:
            last = _last_claim(work_folder(self.store, work))
        except FileNotFoundError:
            return None
        if last is None:
            return None
        owner = Owner(_read(last) or {}, self._me)
        return None if owner.released or self._gone(last, owner) else owner

    def others(self) -> dict[str, Owner]:
        """Return, by name, the work that other processes hold."""
        mine = {work_folder(self.store, work).name for work in self._held}
        held = {name: self.holder(name) for name in self._names() if name not in mine}
        return {name: owner for name, owner in held.items() if owner is not None}

    def _names(self) -> list[str]:
        try:
            return folders.names(self.store, folders.WORK, pattern=folders.WORK_FOLDER)
        except FileNotFoundError:
            return []

    def join(self) -> None:
        """Announce that this process writes to the store; raise FeatstoreError where it is being compacted.

        Announcing comes before looking, here and in exclusive(): of the two at least one sees the other. A compaction
        that was ending meanwhile may have swept our announcement away: then it is made again.
        """
        folders.check(self.store)
        for _ in range(_JOINS):
            session = f"session-{secrets.token_hex(8)}"
            claim = self.take(session)
            if owner := self.holder(COMPACTION):
                self.finish(session)
                raise FeatstoreError(f"{self.store}: is being compacted by {owner}; run again when that is done")
            if isinstance(claim, Claim) and claim.stands():
                break
            self.finish(session)
        else:
            raise FeatstoreError(f"{self.store}: is compacted again and again; run again when that is done")
        self._session = session
        for name in self._names():
            if name.startswith("session-") and name != session:
                self._sweep(name)

    def _sweep(self, name: str) -> None:
        """Remove a session's folder where its owner is dead; one without a claim is just being announced."""
        with contextlib.suppress(FileNotFoundError):
            if _last_claim(work_folder(self.store, name)) is not None and self.holder(name) is None:
                _remove(self.store, name)

    def exclusive(self) -> None:
        """Claim the whole store; raise FeatstoreError where another process writes to it."""
        folders.check(self.store)
        taken = self.take(COMPACTION)
        others = {} if isinstance(taken, Owner) else self.others()
        if isinstance(taken, Owner) or others:
            self.finish(COMPACTION)
            owner = taken if isinstance(taken, Owner) else next(iter(others.values()))
            raise FeatstoreError(f"{self.store}: is being written by {owner}; run again when that is done")
        self._session = COMPACTION

    def _gone(self, path: Path, owner: Owner) -> bool:
        dead = owner.dead() if owner.record else None
        if dead is not None:
            return dead
        beat, now = owner.record.get("beat"), time.monotonic()
        seen, since = self._watched.setdefault(path, (beat, now))
        if seen != beat:
            self._watched[path] = (beat, now)
            return False
        return now - since >= self.lease

    def release(self, unit: Work) -> None:
        """Give a unit back unfinished."""
        if claim := self._drop(unit):
            claim.release()

    def finish(self, unit: Work) -> None:
        """End the work on a unit whose shard is written."""
        if claim := self._drop(unit):
            claim.finish()

    def _drop(self, unit: Work) -> Claim | None:
        with self._lock:
            return self._held.pop(unit, None)

    def close(self) -> None:
        """Give back what is held and stop the heartbeat."""
        if self._session is not None:
            self.finish(self._session)
        self._stop.set()
        self._thread.join()
        for unit in list(self._held):
            with contextlib.suppress(OSError):
                self.release(unit)

    def __enter__(self) -> Claims:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
