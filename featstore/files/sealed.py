"""Sealed files: standard HDF5 files with featstore's own list of arrays and checksums in front.

Every array file of featstore (shards, plan, tables, heads, the side file of an index) has this form:

* bytes 0 to ``U`` (an HDF5 user block, which HDF5 readers skip; ``U`` is 512 * 2**k): one line of ASCII,
  ``featstore-sealed 1 <XXH3-128 of the JSON> <JSON>``, padded with spaces and ended by a newline.
  The JSON names the ``kind``, the file's size, the XXH3-128 of all bytes from ``U`` on, a small ``summary``,
  and for each array its dtype, shape, absolute offset and XXH3-128.
* from ``U`` on: an HDF5 file of contiguous, uncompressed little-endian datasets, each 64-byte aligned.
  The dataset ``meta`` is a JSON text that describes the other datasets.

featstore itself reads through this list and a memory map, never through libhdf5: it opens a file in microseconds,
shares no lock between threads, and a hostile HDF5 structure (external links or storage, virtual datasets, filters) is
never parsed. featstore writes these files with h5py, and any other program can read them as HDF5.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import mmap
import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import DTypeLike, NDArray

from featstore.errors import DamagedError, FeatstoreError
from featstore.files import atomic, hdf5
from featstore.files.hdf5_sink import Device

MAGIC = "featstore-sealed 1"
_ALIGNMENT = 64
_SMALLEST_HEADER = 1024
_LARGEST_HEADER = 1 << 20
_LARGEST_WIDTH = 1 << 24
_LARGEST_META = 128 << 20
_LARGE = 16 << 20
_PARALLEL = 1 << 20
_CACHED = 256 << 10
# The dtypes that featstore writes; any other dtype in a header is refused before memory is allocated.
_DTYPES = {
    name: np.dtype(name)
    for name in ("|u1", "|b1", "|i1", "<u2", "<i2", "<u4", "<i4", "<u8", "<i8", "<f2", "<f4", "<f8")
}


@dataclass(frozen=True)
class Blocks:
    """An array that is written in pieces. Concatenated along axis 0, the ``pieces`` have the shape ``shape``."""

    shape: tuple[int, ...]
    dtype: DTypeLike
    pieces: Iterable[NDArray[Any]]


def write(
    path: Path,
    kind: str,
    arrays: Mapping[str, NDArray[Any] | Blocks],
    meta: Mapping[str, Any],
    summary: Mapping[str, Any] | None = None,
    *,
    exclusive: bool = False,
) -> str:
    """Write a sealed file atomically, verify it by reading it back, and return its checksum.

    ``arrays``: numeric arrays of at least one axis, or Blocks for arrays larger than memory; names may contain ``/``
    (HDF5 groups). ``meta``: JSON of any size. ``summary``: small JSON in the header, readable without opening the rest.
    ``exclusive``: raise FileExistsError if ``path`` exists.
    Raises DamagedError if the file read back differs from the data (faulty disk or memory), OSError if writing fails.
    """
    text = atomic.canonical_json(dict(meta)).encode()
    if len(text) > _LARGEST_META:
        raise FeatstoreError(f"{path}: its description of {len(text):,} bytes is larger than {_LARGEST_META:,}")
    everything: dict[str, NDArray[Any] | Blocks] = {"meta": np.frombuffer(text, np.uint8), **arrays}
    with atomic.new_file(path, exclusive=exclusive) as temporary:
        header_bytes = _header_bytes(everything, summary or {})
        with contextlib.closing(Device(temporary)) as device:
            written = _write_hdf5(device, everything, header_bytes)
            device.check()
            # Start the sync now, so that the disk writes during the read-back; the last sync writes only the header.
            device.settle()
            directory, body = _read_back(temporary, written, header_bytes)
        _write_header(temporary, header_bytes, _header(kind, temporary, body, dict(summary or {}), directory))
    return body


def _header_bytes(arrays: Mapping[str, NDArray[Any] | Blocks], summary: Mapping[str, Any]) -> int:
    """Return an upper bound of the header size: HDF5 needs the size before the offsets in the header are known."""
    need = 400 + len(atomic.canonical_json(dict(summary))) + sum(160 + 2 * len(name.encode()) for name in arrays)
    return max(_SMALLEST_HEADER, 1 << math.ceil(math.log2(need)))


@dataclass(frozen=True)
class _Written:
    dtype: str
    shape: tuple[int, ...]
    offset: int
    checksum: str


def _write_hdf5(device: Device, arrays: Mapping[str, NDArray[Any] | Blocks], header_bytes: int) -> dict[str, _Written]:
    written: dict[str, _Written] = {}
    with (
        ThreadPoolExecutor(1, "featstore-sum") as pool,
        hdf5.Writer(device, user_block=header_bytes, alignment=_ALIGNMENT) as file,
    ):
        for name, array in arrays.items():
            blocks = array if isinstance(array, Blocks) else Blocks(array.shape, array.dtype, [array])
            dtype = np.dtype(blocks.dtype).newbyteorder("<")
            if dtype.str not in _DTYPES:
                raise TypeError(f"{name}: a sealed file cannot hold {dtype}")
            digest = xxhash.xxh3_128()
            offset = file.add(name, blocks.shape, dtype, _summed(blocks.pieces, dtype, digest, pool))
            written[name] = _Written(dtype.str, tuple(blocks.shape), offset, digest.hexdigest())
            if math.prod(blocks.shape) * dtype.itemsize >= _LARGE:
                # Start the sync now, so that the disk writes this array while the next arrays are computed.
                device.settle()
    return written


def _summed(
    pieces: Iterable[NDArray[Any]], dtype: np.dtype[Any], digest: Any, pool: Executor
) -> Iterator[NDArray[Any]]:
    """Yield the pieces as little-endian contiguous arrays; a thread of ``pool`` adds them to the hash ``digest``."""
    for piece in pieces:
        piece = np.ascontiguousarray(piece, dtype)
        if piece.nbytes < _PARALLEL:
            digest.update(piece.tobytes())
            yield piece
        else:
            summing = pool.submit(digest.update, piece.reshape(-1).view(np.uint8).data)
            yield piece
            summing.result()


def _read_back(path: Path, written: Mapping[str, _Written], header_bytes: int) -> tuple[dict[str, Any], str]:
    """Compare the file with the data given; return the list of arrays for the header, and the checksum of the body."""
    with (
        open(path, "rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
        memoryview(mapped) as view,
    ):
        body, at = xxhash.xxh3_128(), header_bytes
        for name, entry in sorted(written.items(), key=lambda item: item[1].offset):
            own, end = xxhash.xxh3_128(), entry.offset + math.prod(entry.shape) * _DTYPES[entry.dtype].itemsize
            if end > entry.offset:  # HDF5 stores no data for an empty array, so it has no offset.
                body.update(view[at : entry.offset])
                # Compute both checksums in one pass, so that the second finds the bytes in the CPU cache.
                for at in range(entry.offset, end, _CACHED):
                    with view[at : min(at + _CACHED, end)] as piece:
                        own.update(piece)
                        body.update(piece)
                at = end
            if own.hexdigest() != entry.checksum:
                raise DamagedError(
                    f"{path.parent}: {name} read back differs from what was written; check the disk and memory"
                )
        body.update(view[at:])
    directory = {
        name: {"dtype": entry.dtype, "shape": list(entry.shape), "offset": entry.offset, "xxh3": entry.checksum}
        for name, entry in written.items()
    }
    return directory, body.hexdigest()


def _header(kind: str, path: Path, body: str, summary: dict[str, Any], directory: dict[str, Any]) -> dict[str, Any]:
    return {"kind": kind, "bytes": path.stat().st_size, "xxh3": body, "summary": summary, "arrays": directory}


def _header_text(value: dict[str, Any], header_bytes: int) -> bytes:
    text = atomic.canonical_json(value)
    line = f"{MAGIC} {xxhash.xxh3_128_hexdigest(text.encode())} {header_bytes:07d} {text}".encode()
    if len(line) >= header_bytes:
        raise ValueError(f"the header needs {len(line) + 1} bytes where {header_bytes} were reserved")
    return line.ljust(header_bytes - 1) + b"\n"


def _write_header(path: Path, header_bytes: int, value: dict[str, Any]) -> None:
    with open(path, "r+b") as file:
        file.write(_header_text(value, header_bytes))


def begins_like_one(path: Path) -> bool:
    """Return whether a file starts with the signature of sealed files. Raises OSError if the file cannot be read."""
    with atomic.open_regular(path) as file:
        return file.read(len(MAGIC)) == MAGIC.encode()


def read_header(path: Path, kind: str | None = None, *, follow: bool = True) -> dict[str, Any]:
    """Read only the header; return its JSON, and its length as ``header_bytes``. ``follow``: as in files.open_regular.

    Raises DamagedError if the file is not a complete sealed file of ``kind``, OSError if it cannot be read.
    """
    with atomic.open_regular(path, follow=follow) as file:
        return _parse_header(path, file, os.fstat(file.fileno()).st_size, kind)


def _parse_header(path: Path, file: Any, size: int, kind: str | None) -> dict[str, Any]:
    start = file.read(_SMALLEST_HEADER)
    prefix = MAGIC.encode() + b" "
    length = start[len(prefix) + 33 : len(prefix) + 40]
    if not start.startswith(prefix) or not length.isdigit():
        raise DamagedError(f"{path}: not a file that featstore wrote, or its first bytes are damaged")
    header_bytes = int(length)
    if not _SMALLEST_HEADER <= header_bytes <= min(size, _LARGEST_HEADER):
        raise DamagedError(f"{path}: its header is damaged")
    block = start + file.read(header_bytes - len(start)) if header_bytes > len(start) else start[:header_bytes]
    try:
        value = json.loads(block[len(prefix) + 41 :])
        intact = _header_text(value, header_bytes) == block
    except (ValueError, RecursionError):
        intact = False
    if not intact:
        raise DamagedError(f"{path}: its header does not match its checksum")
    types = {"kind": str, "bytes": int, "xxh3": str, "summary": dict, "arrays": dict}
    if not isinstance(value, dict) or any(not isinstance(value.get(name), kind) for name, kind in types.items()):
        raise DamagedError(f"{path}: its header lacks what every header has")
    if kind is not None and value.get("kind") != kind:
        raise DamagedError(f"{path}: holds a {value.get('kind')}, where a {kind} is needed")
    if value.get("bytes") != size:
        raise DamagedError(
            f"{path}: has {size:,} bytes where {value.get('bytes'):,} were written; it was cut short or appended to"
        )
    return {**value, "header_bytes": header_bytes}


def is_header(block: bytes | bytearray, size: int) -> bool:
    """Return whether ``block`` is the complete header of a sealed file of ``size`` bytes."""
    start = len(MAGIC) + 1
    text = block[start + 41 :].rstrip(b" \n")
    # Compare the checksum first, because that is cheap: header repair calls this function for every possible bit flip.
    if block[start : start + 32] != xxhash.xxh3_128_hexdigest(text).encode():
        return False
    try:
        value = json.loads(text)
        return _header_text(value, len(block)) == block and bool(value.get("bytes") == size)
    except (ValueError, RecursionError, AttributeError):
        return False


@dataclass(frozen=True)
class Mapped:
    """A memory-mapped sealed file, which stays readable after the file is deleted. ``identity``: device and inode."""

    map: mmap.mmap
    identity: tuple[int, int]
    header_bytes: int

    @classmethod
    def open(cls, path: Path, kind: str | None, *, follow: bool) -> tuple[Mapped, dict[str, Any]]:
        """Open and memory-map a file; return the mapping and the header. ``follow``: as in files.open_regular."""
        with atomic.open_regular(path, follow=follow) as file:
            status = os.fstat(file.fileno())
            header = _parse_header(path, file, status.st_size, kind)
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return cls(mapped, (status.st_dev, status.st_ino), header["header_bytes"]), header


class SealedFile:
    """An open sealed file: one memory map for all arrays, without locks and without libhdf5.

    Attributes: ``path``, ``header``, ``summary`` (dict), ``names`` (the arrays), ``map`` (the memory map).
    Opening checks the header and that every array lies inside the file; ``verify`` checks every byte.
    ``follow=False`` refuses a symbolic link; ``mapped``: the file, if already open. Raises DamagedError and OSError.
    """

    def __init__(
        self, path: Path, kind: str | None = None, *, follow: bool = True, mapped: Mapped | None = None
    ) -> None:
        self.path, self._follow = Path(path), follow
        if mapped is None:
            mapped, self.header = Mapped.open(self.path, kind, follow=follow)
        else:
            self.header = _parse_header(self.path, io.BytesIO(mapped.map[: mapped.header_bytes]), len(mapped.map), kind)
        self._identity, self.map = mapped.identity, mapped.map
        self.summary: dict[str, Any] = self.header["summary"]
        self._arrays: dict[str, NDArray[Any]] = {}
        for name, entry in self.header["arrays"].items():
            self._arrays[name] = self._view(name, entry)

    def _view(self, name: str, entry: Any) -> NDArray[Any]:
        try:
            dtype, shape, offset = _DTYPES[entry["dtype"]], tuple(entry["shape"]), entry["offset"]
            count = math.prod(shape)
            fits = all(isinstance(n, int) and n >= 0 for n in (*shape, offset)) and 0 < len(shape) <= 2
            # An empty array (0, d) takes no bytes for any d, so the size of the file does not limit d.
            fits = fits and (count > 0 or max(shape) <= _LARGEST_WIDTH)
        except (KeyError, TypeError):
            fits = False
        if not fits or offset + count * dtype.itemsize > len(self.map) or offset % min(dtype.itemsize, _ALIGNMENT):
            raise DamagedError(f"{self.path}: the array {name} does not lie inside the file")
        if count == 0:
            return np.frombuffer(b"", dtype).reshape(shape)
        return np.frombuffer(self.map, dtype, count, offset).reshape(shape)

    @property
    def names(self) -> list[str]:
        """Names of the arrays in the file."""
        return list(self._arrays)

    def __contains__(self, name: str) -> bool:
        return name in self._arrays

    def __getitem__(self, name: str) -> NDArray[Any]:
        """Return the array ``name`` as a read-only view of the memory map; it stays valid after the file is deleted."""
        try:
            return self._arrays[name]
        except KeyError:
            raise DamagedError(f"{self.path}: the array {name} is missing") from None

    @property
    def meta(self) -> dict[str, Any]:
        """The file's JSON description."""
        text = self["meta"]
        try:
            value = json.loads(text.tobytes()) if text.nbytes <= _LARGEST_META else None
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            raise DamagedError(f"{self.path}: its description is damaged")
        return value

    def verify(self) -> list[str]:
        """Read every byte; return one text per damaged array, which names the array. Raises OSError if reading fails."""
        what = (name or "the HDF5 structure around the arrays" for name in self.damaged())
        return [f"{self.path}: {each} does not match its checksum" for each in what]

    def damaged(self) -> list[str]:
        """Read every byte; return the names of damaged arrays ("" for bytes outside all arrays), or raise OSError."""
        with atomic.open_regular(self.path, follow=self._follow) as file:
            status = os.fstat(file.fileno())
            if (status.st_dev, status.st_ino) != self._identity:
                raise DamagedError(f"{self.path}: was replaced since it was opened; open it again")
            if atomic.checksum_open(file, self.header["header_bytes"]) == self.header["xxh3"]:
                return []
            return [name for name in self._arrays if not self._matches(file, name)] or [""]

    def _matches(self, file: io.FileIO, name: str) -> bool:
        entry = self.header["arrays"][name]
        stop = entry["offset"] + self._arrays[name].nbytes
        return bool(atomic.checksum_open(file, entry["offset"], stop) == entry.get("xxh3"))
