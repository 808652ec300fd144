"""Owners of claims: processes, here or on other hosts, and whether they still run."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


def _first_line(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _start_time(pid: int) -> str | None:
    """Return a process's start time in kernel ticks; "" if it cannot be read, None if there is no such process."""
    try:
        # In /proc/<pid>/stat the command name may contain spaces and brackets, so count fields from the last bracket.
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


def this_process() -> dict[str, Any]:
    """Return the values that identify this process in a claim: host, boot id, namespace, process and its start time."""
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
    """The process that owns a claim (lock on a unit), as read from the claim's file ``path``.

    ``alive``: whether its heartbeat was seen to advance; None if that is not known yet.
    """

    record: dict[str, Any]
    me: dict[str, Any] = field(default_factory=this_process)
    path: Path | None = None
    alive: bool | None = None

    def __str__(self) -> str:
        if not self.record:
            return f"an unknown process, whose claim {self.path} cannot be read,"
        return f"process {self.record.get('pid')} on {self.record.get('host')}"

    @property
    def released(self) -> bool:
        """Whether the owner has released the claim."""
        return bool(self.record.get("released"))

    def dead(self) -> bool | None:
        """Return whether the owner is dead; None if this host cannot tell."""
        if self.record.get("host") != self.me["host"]:
            return None
        if self.record.get("boot") != self.me["boot"]:
            return True
        if self.record.get("namespace") != self.me["namespace"]:
            return None
        pid = self.record.get("pid")
        started = _start_time(pid) if isinstance(pid, int) else None
        return started is None or (started != "" and started != self.record.get("started"))
