"""Repair single flipped bits, the most common silent damage.

Each bit is flipped in turn until the 128-bit checksum matches. Headers, manifests and small arrays are short enough for
this search. The result is certain: no other content that differs in one bit has the same checksum.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import xxhash

from featstore.errors import DamagedError
from featstore.files import atomic, sealed

_LARGEST = 64 << 10
"""Size in bytes of the largest array in which a flipped bit is searched for; the search takes some seconds."""


def correct_bit(data: bytes, good: Callable[[bytes | bytearray], bool]) -> bytes | None:
    """Flip one bit of ``data`` so that ``good`` returns true for the result. Return the result, or None if no bit
    works.
    """
    if len(data) > _LARGEST:
        return None
    trial = bytearray(data)
    for at in range(len(trial)):
        for bit in range(8):
            trial[at] ^= 1 << bit
            if good(trial):
                return bytes(trial)
            trial[at] ^= 1 << bit
    return None


def correct_json(path: Path, aside: Callable[[Path], object]) -> bool:
    """Repair a JSON file with a checksum; return whether the file is intact now. Raises OSError if reading or writing
    fails.

    ``aside`` is called with the path before the file is replaced.
    """

    def good(data: bytes | bytearray) -> bool:
        try:
            atomic.parse_json(path, data)
        except DamagedError:
            return False
        return True

    try:
        fixed = correct_bit(atomic.read_small(path, atomic.LARGEST_JSON, follow=False), good)
    except DamagedError:
        return False
    if fixed is None:
        return False
    aside(path)
    atomic.write_bytes(path, fixed)
    return True


class _Unrepairable(Exception):
    """Raised if a file has more than one damaged bit."""


def correct_sealed(path: Path, kind: str, aside: Callable[[Path], object]) -> bool:
    """Repair the header and small arrays of a sealed (checksummed) file; return whether the file is intact now.

    ``aside`` is called with the path before the file is replaced. Raises OSError if reading or writing fails.
    """
    try:
        with atomic.new_file(path) as temporary:
            shutil.copyfile(path, temporary)
            if not _correct_header(temporary, kind) or not _correct_arrays(temporary):
                raise _Unrepairable
            aside(path)
    except _Unrepairable:
        return False
    return True


def _correct_header(path: Path, kind: str) -> bool:
    try:
        sealed.read_header(path, kind)
        return True
    except DamagedError:
        pass
    size = path.stat().st_size
    with open(path, "r+b") as file:
        for header_bytes in (1 << k for k in range(10, 17)):
            file.seek(0)
            block = file.read(header_bytes)
            fixed = (
                correct_bit(block, lambda data: sealed.is_header(data, size)) if len(block) == header_bytes else None
            )
            if fixed is not None:
                file.seek(0)
                file.write(fixed)
                return True
    return False


def _correct_arrays(path: Path) -> bool:
    found = sealed.SealedFile(path)
    names = found.damaged()
    if "" in names:
        return False
    with open(path, "r+b") as file:
        for name in names:
            entry = found.header["arrays"][name]
            checksum = entry["xxh3"]
            file.seek(entry["offset"])
            fixed = correct_bit(file.read(found[name].nbytes), lambda data: xxhash.xxh3_128_hexdigest(data) == checksum)  # noqa: B023
            if fixed is None:
                return False
            file.seek(entry["offset"])
            file.write(fixed)
    return not sealed.SealedFile(path).damaged()
