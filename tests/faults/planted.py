"""Decoders and backbones with faults, which a test passes to a worker process by name."""

from __future__ import annotations

import ctypes
import os
import signal
import time

from featstore.decode import Preprocessing
from featstore.decode import decode as real


def decode(data: bytes, preprocessing: Preprocessing, *, max_pixels: int):
    """Decode like featstore, but cause a fault if the content starts with the name of a fault, such as "DIE"."""
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
    """Decode like featstore, but 50 ms slower."""
    time.sleep(0.05)
    return real(data, preprocessing, max_pixels=max_pixels)


def eat() -> None:
    """Request more memory than a sandboxed process may have; if malloc succeeds, die by SIGKILL as if by the OOM
    killer."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.malloc.restype = ctypes.c_void_p
    if libc.malloc(ctypes.c_size_t(64 << 30)) is None:
        raise MemoryError
    os.kill(os.getpid(), signal.SIGKILL)


def backbone():
    from tests.made import tiny_backbone

    return tiny_backbone()


def die_always() -> object:
    """Kill the process by SIGKILL while it loads the backbone."""
    os.kill(os.getpid(), signal.SIGKILL)
    return None
