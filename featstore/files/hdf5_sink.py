"""File object that reports no write error to libhdf5, because libhdf5 crashes some time after a failed write.

The first write error is stored, and raised when the owner of the file calls ``check`` or ``close`` afterwards.
"""

from __future__ import annotations

import os
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

_SETTLED_AT_ONCE = 64 << 20


class Device:
    """A new file, as a file object with the methods that h5py's driver for Python file objects calls."""

    def __init__(self, path: os.PathLike[str]) -> None:
        self._path = os.fspath(path)
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        self._at = self._end = 0
        self._error: OSError | None = None
        self._pool = ThreadPoolExecutor(1, "featstore-sync")
        self._syncing: Future[None] | None = None
        self._unsettled = 0

    def check(self) -> None:
        """Raise the stored OSError of the first failed write, if a write failed."""
        if self._error is not None:
            self._error.filename = self._path
            raise self._error

    def settle(self) -> None:
        """Start syncing the written bytes in a thread; close() waits for it and raises its error.

        Sync through this handle only, because the system reports a disk error only once.
        """
        self._unsettled = 0
        self._syncing = self._pool.submit(self._sync)

    def close(self) -> None:
        """Wait for syncing and close the file; then raise the stored OSError of the first failed write, if any."""
        self._pool.shutdown()
        os.close(self._handle)
        if self._syncing is not None:
            self._syncing.result()
        self.check()

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Set the position of the next read or write."""
        self._at = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._end}[whence] + offset
        return self._at

    def tell(self) -> int:
        """Return the position of the next read or write."""
        return self._at

    def read(self, size: int = -1) -> bytes:
        """Return ``size`` bytes, or all remaining bytes; h5py recognises file objects by this method."""
        buffer = bytearray(max(0, self._end - self._at) if size < 0 else size)
        self.readinto(buffer)
        return bytes(buffer)

    def readinto(self, buffer: Any) -> int:
        """Read bytes at the current position into ``buffer``; bytes that were never written are zero."""
        view = memoryview(buffer).cast("B")
        got = 0
        try:
            while got < len(view) and (count := os.preadv(self._handle, [view[got:]], self._at + got)):
                got += count
        except OSError as error:
            self._error = self._error or error
        view[got:] = bytes(len(view) - got)
        self._at += len(view)
        return len(view)

    def write(self, data: Any) -> int:
        """Write ``data`` at the current position; return the number of bytes."""
        view = memoryview(data).cast("B")
        done = 0
        try:
            while done < len(view) and self._error is None:
                done += os.pwrite(self._handle, view[done:], self._at + done)
        except OSError as error:
            self._error = error
        self._at += len(view)
        self._end = max(self._end, self._at)
        self._unsettled += len(view)
        if self._unsettled >= _SETTLED_AT_ONCE and (self._syncing is None or self._syncing.done()):
            # Start syncing early, so that the disk writes while the next bytes are computed.
            self.settle()
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        """Set the size of the file to ``size`` bytes, by default to the current position."""
        self._end = self._at if size is None else size
        try:
            if self._error is None:
                os.ftruncate(self._handle, self._end)
        except OSError as error:
            self._error = error
        return self._end

    def flush(self) -> None:
        """Do nothing, as writes are not buffered."""

    def _sync(self) -> None:
        try:
            os.fsync(self._handle)
        except OSError as error:
            self._error = self._error or error
