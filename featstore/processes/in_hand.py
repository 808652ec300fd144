"""Shared memory that records which picture each worker thread is processing, to explain a crash of the worker.

The worker and its supervisor map the same unnamed file. The file contains a counter of progress, a flag whether
progress is expected, and a heartbeat counter, which a thread of the worker increments. It also has a slot for each
decoding thread, with the row that the thread reads or decodes. An update is one memory write.
"""

from __future__ import annotations

import mmap
import os
import struct
import tempfile
import threading
from dataclasses import dataclass
from typing import Final

IDLE, READING, DECODING = 0, 1, 2
_HEADER: Final = struct.Struct("<QQ")
_ALIVE: Final = struct.Struct("<Q")
_SLOT: Final = struct.Struct("<QQQ")
_SLOTS_AT: Final = 64


_RUN_BITS: Final = 8
"""Number of bits for the stage (reading or decoding) in a slot; the higher bits hold the number of the extraction."""


@dataclass(frozen=True)
class Held:
    """A row whose picture is being read or decoded.

    ``stage``: READING or DECODING. ``run``: number of the extraction, if the worker runs several extractions.
    """

    unit: int
    row: int
    stage: int
    run: int = 0


class InHand:
    """Shared record of the row that each thread of a worker is reading or decoding.

    The worker writes the record, and the supervisor reads it.
    """

    def __init__(self, handle: int) -> None:
        self.handle = handle
        size = os.fstat(handle).st_size
        self._slots = (size - _SLOTS_AT) // _SLOT.size
        self._map = mmap.mmap(handle, size)
        self._lock, self._local, self._taken, self._ticks = threading.Lock(), threading.local(), 0, 0

    @classmethod
    def create(cls, threads: int) -> InHand:
        """Create an empty record for the given number of threads; pass its ``handle`` to the worker."""
        if hasattr(os, "memfd_create"):
            handle = os.memfd_create("featstore-in-hand")
        else:
            with tempfile.TemporaryFile() as file:
                handle = os.dup(file.fileno())
        os.ftruncate(handle, _SLOTS_AT + threads * _SLOT.size)
        return cls(handle)

    def close(self) -> None:
        """Unmap the memory and close the file."""
        self._map.close()
        os.close(self.handle)

    # The worker process calls the following methods.

    def of_run(self, run: int) -> InHand:
        """Return a view of this record for extraction number ``run`` of the worker."""
        return self if run == 0 else _OfRun(self, run)

    def hold(self, unit: int, row: int, stage: int) -> None:
        """Record that this thread starts to read or decode (``stage``) the picture of ``row`` in ``unit``."""
        try:
            at: int = self._local.at
        except AttributeError:
            at = self._local.at = self._place()
        _SLOT.pack_into(self._map, at, unit, row, stage)

    def free(self) -> None:
        """Record that this thread has finished with the picture of its row."""
        self.hold(0, 0, IDLE)

    def _place(self) -> int:
        with self._lock:
            slot, self._taken = self._taken, self._taken + 1
        # Threads without a free slot share the last slot; the last write wins.
        return _SLOTS_AT + min(slot, self._slots - 1) * _SLOT.size

    def tick(self, *, owed: bool = True) -> None:
        """Record that the worker has made progress.

        ``owed``: whether further progress is expected; if none follows, the supervisor treats the worker as stalled.
        """
        with self._lock:
            self._ticks += 1
            _HEADER.pack_into(self._map, 0, self._ticks, owed)

    def live(self) -> None:
        """Send a heartbeat: increment a counter, which shows that this process is running."""
        _ALIVE.pack_into(self._map, _HEADER.size, self.alive() + 1)

    # The supervisor process calls the following methods.

    def alive(self) -> int:
        """Return the heartbeat counter (see ``live``); the counter stays constant while the worker is stopped or hangs."""
        return int(_ALIVE.unpack_from(self._map, _HEADER.size)[0])

    def held(self) -> list[Held | None]:
        """Return the row that the worker is reading or decoding in each slot; None for an unused slot."""
        slots = (_SLOT.unpack_from(self._map, _SLOTS_AT + n * _SLOT.size) for n in range(self._slots))
        stages = ((unit, row, stage & (1 << _RUN_BITS) - 1, stage >> _RUN_BITS) for unit, row, stage in slots)
        return [Held(*held) if held[2] in (READING, DECODING) else None for held in stages]

    def progress(self) -> tuple[bool, bytes]:
        """Return whether progress is expected, and a value that changes whenever the worker makes progress."""
        value = self._map[: _HEADER.size] + self._map[_SLOTS_AT:]
        return bool(_HEADER.unpack_from(value, 0)[1]), value


class _OfRun(InHand):
    """View of the record ``whole`` for extraction number ``run``, one of several extractions in a worker."""

    def __init__(self, whole: InHand, run: int) -> None:
        self.whole, self.run = whole, run

    def hold(self, unit: int, row: int, stage: int) -> None:
        self.whole.hold(unit, row, stage | self.run << _RUN_BITS if stage else stage)

    def tick(self, *, owed: bool = True) -> None:
        self.whole.tick(owed=owed)
