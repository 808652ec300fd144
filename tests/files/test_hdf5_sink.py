"""The file object through which libhdf5 writes: it hides write errors, raises them afterwards, and syncs early."""

from __future__ import annotations

import errno
import os
import threading

import numpy as np
import pytest

from featstore.files import hdf5_sink
from featstore.files.hdf5_sink import Device
from tests.made import fail_first_sync


def test_file_object_for_libhdf5_reads_back_written_bytes(tmp_path):
    one = Device(tmp_path / "a")
    assert one.write(np.arange(6, dtype=np.uint8)) == 6
    assert one.seek(-2, os.SEEK_END) == 4
    assert one.read() == b"\4\5"
    one.seek(8)
    one.write(b"xy")
    assert one.tell() == 10
    one.seek(5)
    assert one.read(6) == b"\5\0\0xy\0"
    one.truncate(9)
    one.flush()
    one.close()
    assert (tmp_path / "a").read_bytes() == b"\0\1\2\3\4\5\0\0x"


def test_file_object_for_libhdf5_raises_the_first_write_error_when_checked(tmp_path, monkeypatch):
    one = Device(tmp_path / "a")

    def full(handle, data, offset):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    assert one.write(b"abc") == 3
    assert one.truncate(3) == 3
    for ask in (one.check, one.close):
        with pytest.raises(OSError, match="No space") as caught:
            ask()
        assert caught.value.filename == os.fspath(tmp_path / "a")


def test_file_object_for_libhdf5_never_runs_two_early_syncs_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(hdf5_sink, "_SETTLED_AT_ONCE", 100)
    real, begun, go = os.fsync, [], threading.Event()

    def fsync(handle):
        begun.append(os.fstat(handle).st_size)
        go.wait(10)
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    one = Device(tmp_path / "a")
    one.write(bytes(99))
    assert one._syncing is None
    one.write(b"x")
    first = one._syncing
    assert first is not None
    one.write(bytes(500))
    assert one._syncing is first
    go.set()
    first.result()
    one.write(b"y")
    assert one._syncing is not first
    one.close()
    assert len(begun) == 2
    assert begun[-1] == 601


def test_file_object_for_libhdf5_raises_an_early_sync_error_at_close(tmp_path, monkeypatch):
    monkeypatch.setattr(hdf5_sink, "_SETTLED_AT_ONCE", 100)
    fail_first_sync(monkeypatch)
    one = Device(tmp_path / "a")
    for _ in range(3):
        one.write(bytes(200))
        assert one._syncing is not None
        one._syncing.result()
    with pytest.raises(OSError, match="the disk"):
        one.close()
