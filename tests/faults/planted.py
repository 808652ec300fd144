"""Faults planted in a worker by name: decoders that die, and the tiny backbone."""

from __future__ import annotations

import ctypes
import os
import signal
import time

from featstore.decode import Preprocessing
from featstore.decode import decode as real


def decode(data: bytes, preprocessing: Preprocessing, *, max_pixels: int):
    """Decode normally, except files whose content starts with the name of a fault."""
    if data.startswith(b"DIE"):
        os.kill(os.getpid(), signal.SIGSEGV)
        time.sleep(5)
    elif data.startswith(b"ABORT"):
        os.abort()
    elif data.startswith(b"EXIT"):
        os._exit(3)
    elif data.startswith(b"SLEEP"):
        time.sleep(3600)
    elif data.startswith(b"LOOP"):
        while True:
            pass
    elif data.startswith(b"EAT"):
        eat()
    return real(data, preprocessing, max_pixels=max_pixels)


def slow(data: bytes, preprocessing: Preprocessing, *, max_pixels: int):
    """Decode normally, but take 50 ms."""
    time.sleep(0.05)
    return real(data, preprocessing, max_pixels=max_pixels)


def eat() -> None:
    """Request more memory than a sandboxed process may have; if that succeeds, die as by the kernel's OOM killer."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.malloc.restype = ctypes.c_void_p
    if libc.malloc(ctypes.c_size_t(64 << 30)) is None:
        raise MemoryError
    os.kill(os.getpid(), signal.SIGKILL)


def backbone():
    """Return the tests' tiny backbone."""
    from tests.made import tiny_backbone

    return tiny_backbone()


def die_always() -> object:
    """Die while loading the backbone."""
    os.kill(os.getpid(), signal.SIGKILL)
    return None
