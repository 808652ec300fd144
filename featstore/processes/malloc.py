"""Configure the C library's memory allocator for large tensors. This module imports no large library."""

from __future__ import annotations

import ctypes
import platform
from typing import Final

# Parameter numbers of mallopt, from glibc's malloc.h.
_M_TRIM_THRESHOLD: Final = -1
_M_TOP_PAD: Final = -2
_M_MMAP_MAX: Final = -4
_TOP_PAD_BYTES: Final = 256 << 20


def keep_memory() -> bool:
    """Make glibc's malloc keep freed memory instead of returning it to the kernel; return whether the call succeeded.

    Without this setting, large tensors are mapped and unmapped for every layer, and each batch causes page faults for
    all its memory. With the setting, eager torch was 1.6 times as fast on ResNet50. The setting is permanent for the
    whole process. So commands may call this function at their start, but libraries should not. For other allocators the
    function changes nothing and returns False.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, _TOP_PAD_BYTES))
    return all(mallopt(option, value) == 1 for option, value in settings)
