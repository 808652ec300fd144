"""What surrounds a FAISS file and needs no FAISS: its first bytes, a name that FAISS can open, FAISS's messages in plain words."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Final

from featstore.errors import DamagedError

_INNER: Final = {b"IxFI", b"IxF2", b"IHNf", b"IHNs", b"IxPT", b"IxRF"}
"""What featstore writes, by the four letters that begin the inner index in the file."""
_HEADER: Final = struct.Struct("<4siqqqBi")


def check_header(path: Path, rows: int, dimension: int) -> None:
    """Refuse, before FAISS takes memory, a file of another type or shape: DamagedError."""
    with open(path, "rb") as file:
        start = file.read(2 * _HEADER.size)
    if len(start) < 2 * _HEADER.size:
        raise DamagedError(f"{path}: too short for an index")
    outer, inner = _HEADER.unpack_from(start), _HEADER.unpack_from(start, _HEADER.size)
    if outer[0] != b"IxMp" or inner[0] not in _INNER or any(part[1:3] != (dimension, rows) for part in (outer, inner)):
        raise DamagedError(f"{path}: is not the index of {rows:,} x {dimension} that its side file describes")


def name_for_faiss(path: Path, handle: int) -> str:
    """Return a name for FAISS, whose Python side takes only text: by the open file where ``path`` is none."""
    name = os.fspath(path)
    return name if name.isprintable() else f"/dev/fd/{handle}"


def reason_of(error: BaseException) -> str:
    """Return FAISS's message without the C++ around it, on one line."""
    text = " ".join(str(error).split())
    return text.rpartition("Error: ")[2][:200] or type(error).__name__
