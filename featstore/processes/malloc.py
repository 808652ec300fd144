"""The C library's memory allocator, set for large tensors. Imports nothing heavy: it is to be called first."""

from __future__ import annotations

import ctypes
import platform
from typing import Final

# glibc's malloc.h
_M_TRIM_THRESHOLD: Final = -1
_M_TOP_PAD: Final = -2
_M_MMAP_MAX: Final = -4
_TOP_PAD_BYTES: Final = 256 << 20


def keep_memory() -> bool:
    """Make glibc's malloc keep freed memory instead of giving it back to the kernel; return whether it took it.

    Large tensors are otherwise mapped and unmapped for every layer, and each batch faults all its pages anew; eager
    torch gained a factor of 1.6 on ResNet50 from this. It holds for the whole process, for good: a command may
    call it at its start, a library should not. Other allocators are left alone (False).
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, _TOP_PAD_BYTES))
    return all(mallopt(option, value) == 1 for option, value in settings)
