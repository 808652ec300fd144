"""A file for libhdf5 that never fails: libhdf5 answers a failed write, as on a full disk, with a crash at some later time.

Writes that fail are remembered and pretended to have worked; who gave the file to libhdf5 asks for the error when
libhdf5 is done with it.
"""

from __future__ import annotations

import os
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

_SETTLED_AT_ONCE = 64 << 20


class Device:
    """A new file, as h5py's driver for Python's file objects wants one."""

    def __init__(self, path: os.PathLike[str]) -> None:
        self._path = os.fspath(path)
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        self._at = self._end = 0
        self._error: OSError | None = None
        self._pool = ThreadPoolExecutor(1, "featstore-sync")
        self._syncing: Future[None] | None = None
        self._unsettled = 0

    def check(self) -> None:
        """Raise the first OSError that libhdf5 was not told."""
        if self._error is not None:
            self._error.filename = self._path
            raise self._error

    def settle(self) -> None:
        """Begin, in a thread, to make durable what was written; close() waits for it and raises what the disk answered.

        To be asked of this handle and no other: the system tells an error of the disk once.
        """
        self._unsettled = 0
        self._syncing = self._pool.submit(self._sync)

    def close(self) -> None:
        """Wait for the disk and close the file; raise the first OSError that libhdf5 was not told."""
        self._pool.shutdown()
        os.close(self._handle)
        if self._syncing is not None:
            self._syncing.result()
        self.check()

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Set the place of the next read or write."""
        self._at = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._end}[whence] + offset
        return self._at

    def tell(self) -> int:
        """Return the place of the next read or write."""
        return self._at

    def read(self, size: int = -1) -> bytes:
        """Return ``size`` bytes, or all that follow; h5py tells a file by this method."""
        buffer = bytearray(max(0, self._end - self._at) if size < 0 else size)
        self.readinto(buffer)
        return bytes(buffer)

    def readinto(self, buffer: Any) -> int:
        """Fill ``buffer``; what was never written is zeros."""
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
        """Write ``data``."""
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
            # The disk works while the next bytes are made, instead of after the last.
            self.settle()
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        """Set the file's size."""
        self._end = self._at if size is None else size
        try:
            if self._error is None:
                os.ftruncate(self._handle, self._end)
        except OSError as error:
            self._error = error
        return self._end

    def flush(self) -> None:
        """Nothing is held back."""

    def _sync(self) -> None:
        try:
            os.fsync(self._handle)
        except OSError as error:
            self._error = self._error or error
