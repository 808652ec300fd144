"""Claims: locks on units of work (row ranges) that survive crashes, on one host or on many over NFS.

A claim is a file work/<unit>/claim.<n> with JSON: its owner (host, boot id, process, start time) and a heartbeat
counter that the owner rewrites every few seconds. The claim with the highest n is valid. Another process takes the unit
over by creating claim.<n + 1> exclusively, with link(2), which is atomic on NFS. So exactly one process wins, and no
file is removed while its owner uses it. An owner on this host is dead if its process has ended (compared by pid, start
time and boot id). An owner on another host is dead if its counter did not change during the lease, measured with the
watcher's monotonic clock. If two processes do the same work, no harm is done: each claim has its own journal, and
shards are created exclusively.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from featstore import defaults
from featstore.errors import DamagedError, FeatstoreError, Notice
from featstore.files import atomic
from featstore.store import folders
from featstore.store.manifest import require_no_purge
from featstore.store.owners import Owner, this_process

_RECORD_BYTES = 512
_LARGEST_RECORD = 4096
_JOINS = 10
_TORN_TRIES, _TORN_PAUSE = 3, 0.001
_LOOK_SECONDS = 0.2
_TURN_SECONDS = 0.02
_SETTLE_SECONDS = 5.0
"""Longest time in seconds that a writer waits until an announced compaction has checked for other writers."""

Work = int | str
"""A piece of work that a claim reserves: the number of a unit, or a name such as "compaction"."""
COMPACTION = "compaction"


def work_folder(store: Path, work: Work) -> Path:
    """Return the folder of ``work`` (a unit's number or another name) below the store's folder "work"."""
    return store / folders.WORK / (work if isinstance(work, str) else f"{work:016d}")


class Claim:
    """A lock of this process on a unit. ``beat`` keeps the lock, ``release`` gives it up, ``finish`` ends the work."""

    def __init__(self, directory: Path, number: int, record: dict[str, Any]) -> None:
        self.directory, self.number = directory, number
        self._record, self._counter, self._released = record, 0, False
        self._lock = threading.Lock()

    @property
    def path(self) -> Path:
        """Path of the claim's file."""
        return self.directory / f"claim.{self.number}"

    @property
    def journal(self) -> Path:
        """Path of the journal of this claim."""
        return self.directory / f"journal.{self.number}"

    def journals(self) -> list[Path]:
        """Return the journals of this unit, oldest first."""
        found = _numbers(self.directory, folders.JOURNAL)
        return [self.directory / f"journal.{number}" for number in found if number <= self.number]

    def beat(self, *, release: bool = False) -> None:
        """Write the next heartbeat; does nothing after a release."""
        with self._lock:
            if self._released:
                return
            self._counter, self._released = self._counter + 1, release
            # Write in place, to the same inode, so that an NFS client that opens the file sees the change.
            with (
                contextlib.suppress(FileNotFoundError, DamagedError),
                atomic.open_regular(self.path, follow=False, writable=True) as file,
            ):
                file.write(_encode({**self._record, "beat": self._counter, "released": release}))

    def settle(self) -> None:
        """Record in the claim of a compaction that no other process writes to the store."""
        self._record = {**self._record, "settled": True}
        self.beat()

    def release(self) -> None:
        """Release an unfinished unit, so that another process can claim it at once."""
        self.beat(release=True)

    def finish(self) -> None:
        """Remove the unit's work folder, after its shard was written."""
        _remove(self.directory.parent.parent, self.directory.name)

    def exists(self) -> bool:
        """Return whether the claim's file still exists."""
        return os.path.lexists(self.path)


def _encode(record: dict[str, Any]) -> bytes:
    return atomic.canonical_json(record).encode().ljust(_RECORD_BYTES - 1) + b"\n"


def _read(path: Path) -> dict[str, Any] | None:
    """Return the JSON in a claim's file; {} if it is unreadable, None if the file no longer exists."""
    for _ in range(_TORN_TRIES):
        try:
            value = json.loads(atomic.read_small(path, _LARGEST_RECORD, follow=False))
            return value if isinstance(value, dict) else {}
        except FileNotFoundError:
            return None
        except (OSError, DamagedError):
            return {}
        except (ValueError, RecursionError):
            # The file may be read while another process writes a heartbeat to it.
            time.sleep(_TORN_PAUSE)
    return {}


def _numbers(directory: Path, pattern: re.Pattern[str]) -> list[int]:
    found = folders.regular(directory.parent.parent, folders.WORK, directory.name, pattern=pattern)
    return sorted(int(name.partition(".")[2]) for name in found)


def _last_claim(directory: Path) -> Path | None:
    """Return the valid claim in a work folder, or None; raise FileNotFoundError if the folder does not exist."""
    numbers = _numbers(directory, folders.CLAIM)
    return directory / f"claim.{numbers[-1]}" if numbers else None


def _remove(store: Path, name: str) -> None:
    """Remove a work folder; the next compaction removes what could not be removed now."""
    with contextlib.suppress(OSError, DamagedError):
        folders.remove_folder(store, folders.WORK, name)


class Claims:
    """Claim units of a store for this process; a thread writes the heartbeats of the claims."""

    def __init__(
        self,
        store: Path,
        lease_seconds: float = defaults.CLAIM_LEASE_SECONDS,
        heartbeat_seconds: float = defaults.HEARTBEAT_SECONDS,
    ) -> None:
        self.store, self.lease = store, lease_seconds
        self._me = this_process()
        self._held: dict[Work, Claim] = {}
        self._watched: dict[Path, tuple[Any, float, bool]] = {}
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
                # Ignore a failed heartbeat write (full disk): the next write of the work itself reports the error.
                with contextlib.suppress(OSError):
                    claim.beat()

    def take(self, unit: Work) -> Claim | Owner:
        """Claim a unit and return the claim, or return the owner that holds it. Raises OSError if the store is not
        writable."""
        directory = work_folder(self.store, unit)
        while True:
            try:
                folders.make(self.store, folders.WORK, directory.name)
                return self._take(unit, directory)
            except FileExistsError:
                # Another process created this claim first: check again who holds the unit.
                continue
            except FileNotFoundError:
                # The owner of the claim has finished and removed the work folder in between: try again.
                if not self.store.is_dir():
                    raise

    def _take(self, unit: Work, directory: Path) -> Claim | Owner:
        # List the claims before looking for an owner: a claim that another process makes in between is then found as
        # owner, or has the number chosen here, so that the exclusive creation fails. Folders and links with such names
        # count too.
        taken = folders.names(self.store, folders.WORK, directory.name, pattern=folders.CLAIM)
        number = max((int(name[6:]) for name in taken), default=-1) + 1
        if owner := self.holder(unit):
            return owner
        claim = Claim(directory, number, {**self._me, "since": time.time()})
        atomic.write_bytes(claim.path, _encode({**claim._record, "beat": 0}), exclusive=True)
        with self._lock:
            self._held[unit] = claim
        return claim

    def holder(self, work: Work) -> Owner | None:
        """Return the owner of the claim (lock) on ``work``; None if there is none, or it is known to be dead."""
        while True:
            try:
                last = _last_claim(work_folder(self.store, work))
            except FileNotFoundError:
                return None
            if last is None:
                return None
            # The claim file vanishes before it is read if its owner finishes or another process takes over: list again.
            if (record := _read(last)) is not None:
                break
        owner = Owner(record, self._me, last)
        alive = self._alive(last, owner)
        return None if owner.released or alive is False else replace(owner, alive=alive)

    def others(self) -> dict[str, Owner]:
        """Return the owners of all work that other processes hold, as a dict by name of the work folder."""
        mine = {work_folder(self.store, work).name for work in self._held}
        held = {name: self.holder(name) for name in self._names() if name not in mine}
        return {name: owner for name, owner in held.items() if owner is not None}

    def _names(self) -> list[str]:
        try:
            return folders.names(self.store, folders.WORK, pattern=folders.WORK_FOLDER)
        except FileNotFoundError:
            return []

    def join(self) -> None:
        """Announce that this process writes to the store; raise FeatstoreError if the store is being compacted.

        join() and exclusive() first announce this process and then look for others, so one of two concurrent processes
        sees the other. A compaction that sees a writer stops. A writer that sees a compaction waits until the
        compaction has looked for writers. If a compaction that was just ending removed the announcement, announce
        again.
        """
        folders.check(self.store)
        for _ in range(_JOINS):
            session = f"session-{secrets.token_hex(8)}"
            claim = self.take(session)
            if owner := self._await(lambda: [self.holder(COMPACTION)], settled=True):
                self.finish(session)
                raise FeatstoreError(f"{self.store}: is being compacted by {owner}; run again when that is done")
            if isinstance(claim, Claim) and claim.exists():
                break
            self.finish(session)
        else:
            raise FeatstoreError(f"{self.store}: is compacted again and again; run again when that is done")
        self._session = session
        require_no_purge(self.store)
        for name in self._names():
            if name.startswith("session-") and name != session:
                self._sweep(name)

    def _await(self, look: Callable[[], Sequence[Owner | None]], *, settled: bool = False) -> Owner | None:
        """Return one of the owners from ``look()`` that is alive; None if all of them are dead.

        If this host cannot tell whether an owner is alive, wait for the owner's heartbeat, at most as long as the lease.
        ``settled``: also wait a few seconds for an owner that has not yet checked for other writers (see settle).
        """
        started, told = time.monotonic(), False
        while True:
            owners = [owner for owner in look() if owner is not None]
            if not owners:
                return None
            waited = time.monotonic() - started
            for owner in owners:
                looks = settled and not owner.record.get("settled") and waited < _SETTLE_SECONDS
                if owner.alive and not looks:
                    return owner
            if not told and waited > self._heartbeat:
                told = True
                warnings.warn(
                    f"{self.store}: has a claim of {owners[0]}, which may be dead; waiting {self.lease:.0f} s for a sign "
                    f"of it (if it is surely dead, delete {owners[0].path} to go on at once)",
                    Notice,
                    stacklevel=2,
                )
            time.sleep(_LOOK_SECONDS)

    def _sweep(self, name: str) -> None:
        """Remove the folder of a session (an announced writer) if its owner is dead.

        A folder without a claim stays: its session is just starting.
        """
        with contextlib.suppress(FileNotFoundError):
            if _last_claim(work_folder(self.store, name)) is not None and self.holder(name) is None:
                _remove(self.store, name)

    def exclusive(self) -> None:
        """Claim the whole store; raise FeatstoreError if another process writes to it."""
        folders.check(self.store)
        owner = self._await(lambda: [self._other(COMPACTION)]) or self._await(lambda: list(self.others().values()))
        if owner is not None:
            self.finish(COMPACTION)
            raise FeatstoreError(f"{self.store}: is being written by {owner}; run again when that is done")
        self._held[COMPACTION].settle()
        self._session = COMPACTION

    def _other(self, work: Work) -> Owner | None:
        """Claim (lock) ``work``, such as a unit; if another process holds it, return that process, otherwise None."""
        taken = self.take(work)
        return taken if isinstance(taken, Owner) else None

    def wait_for(self, work: Work) -> None:
        """Claim (lock) ``work``, such as a unit; wait until no other process holds it."""
        while self._other(work) is not None:
            time.sleep(_TURN_SECONDS)

    def _alive(self, path: Path, owner: Owner) -> bool | None:
        """Return whether an owner is alive, judged by its process or its heartbeat; None if this is not known yet."""
        dead = owner.dead() if owner.record else None
        if dead is not None:
            return not dead
        beat, now = owner.record.get("beat"), time.monotonic()
        seen, since, beats = self._watched.setdefault(path, (beat, now, False))
        if seen != beat:
            seen, since, beats = self._watched[path] = beat, now, True
        return False if now - since >= self.lease else beats or None

    def release(self, unit: Work) -> None:
        """Release a unit that is not finished."""
        if claim := self._drop(unit):
            claim.release()

    def finish(self, unit: Work) -> None:
        """End the claim on a unit after its shard was written, and remove its work folder."""
        if claim := self._drop(unit):
            claim.finish()

    def _drop(self, unit: Work) -> Claim | None:
        with self._lock:
            return self._held.pop(unit, None)

    def close(self) -> None:
        """Release all claims and stop the heartbeat thread."""
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
