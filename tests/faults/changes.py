"""Random changes that an attacker could make to arrays, JSON, sealed files and .npy files, with valid checksums.

A sealed file is featstore's HDF5 file with checksums: arrays, a description "meta" and a short summary (JSON).
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from featstore.errors import FeatstoreError
from featstore.files import sealed
from tests.faults.sandbox import Ground

ATTACK = "\x1b]52;c;Y3VybA==\x07\x1b[2J\u202e\r\nfeatstore: whole"
NUMBERS = (0, 1, -1, 2, 255, 1 << 15, (1 << 31) - 1, -(1 << 31), 1 << 40, (1 << 63) - 1, -(1 << 63))
MODULE = "stranger"
"""Name of a module that forged files name and no command may import; importing it changes a file of the user."""


class Changes:
    """Draw random changes of files; the same ``seed`` gives the same changes."""

    def __init__(self, ground: Ground, seed: int) -> None:
        self.ground, self.draw = ground, random.Random(seed)

    def _replace(self, path: Path, kind: str, home: Path) -> None:
        folder = path.is_dir()
        shutil.rmtree(path) if folder else path.unlink()
        if kind == "link":
            target = home / "documents" if folder else home / "letter.txt"
            if folder or self.draw.random() < 0.7:
                path.symlink_to(target)
            else:
                os.link(target, path)
        elif self.draw.random() < 0.5:
            os.mkfifo(path)
        elif folder:
            path.write_bytes(b"x")
        else:
            path.mkdir()

    def _numbers(self, file: bytes) -> bytes:
        """Return the file content ``file`` with a few binary integers or floats overwritten at random, mostly near the
        start."""
        data = bytearray(file)
        for _ in range(self.draw.choice((1, 1, 2, 5))):
            form = self.draw.choice("bifq")
            at = self.draw.randrange(len(data) - 8)
            if self.draw.random() < 0.6:
                at = self.draw.randrange(min(400, len(data) - 8))
            value: Any = self.draw.choice((0.0, float("nan"), 1e30, -1.0)) if form == "f" else self.draw.choice(NUMBERS)
            if form != "f":
                size = 8 * struct.calcsize(f"<{form}")
                value = (value + (1 << (size - 1))) % (1 << size) - (1 << (size - 1))
            struct.pack_into(f"<{form}", data, at, value)
        return bytes(data)

    def _npy(self, data: bytes, home: Path) -> bytes:
        """Return the .npy file ``data`` with a random header. If its dtype is object, the array data is a pickle that
        writes to a file of the user."""
        end = 10 + struct.unpack_from("<H", data, 8)[0]
        kind, shape = (
            self.draw.choice(("<f4", "|O", "<f8", "<M8[s]", "|V16", "[('a', '<f4')]", "<c8")),
            self.draw.choice(
                ("(1 << 60, 8)", "(-1, 8)", "()", "(16,)", "(16, 512)", f"({1 << 40}, 512)", "(True, 512)", "(0, 0)")
            ),
        )
        quoted = kind if kind.startswith("[") else repr(kind)
        header = (
            f"{{'descr': {quoted}, 'fortran_order': {self.draw.choice((True, False))}, 'shape': {shape}, }}".encode()
        )
        pickle = b"cbuiltins\nopen\n(V%s\nVw\ntR." % os.fsencode(home / "letter.txt")
        body = pickle if kind == "|O" else data[end:]
        return data[:8] + struct.pack("<H", len(header) + 1) + header + b"\n" + body

    def _seal(self, path: Path) -> str:
        """Change one part of a sealed file: an array, the "meta", the summary or the kind of file; return the name of
        the changed part."""
        file = sealed.SealedFile(path)
        arrays = {name: file[name].copy() for name in file.names if name != "meta"}
        kind, meta, summary, told = file.header["kind"], file.meta, file.summary, "meta"
        choice = self.draw.random()
        if choice < 0.5 and arrays:
            told = self.draw.choice(sorted(arrays))
            arrays[told] = self._array(arrays[told])
        elif choice < 0.85:
            meta = self._json(meta)
        elif choice < 0.95:
            told, summary = "summary", self._json(summary)
        else:
            told, kind = "kind", self.draw.choice(("head", "index", "shard", "plan", ATTACK))
        with contextlib.suppress(FeatstoreError):
            path.unlink()
            sealed.write(path, kind, arrays, meta, summary)
        return told

    def _reseal(self, path: Path, change: Callable[[dict[str, np.ndarray], Any], Any]) -> None:
        """Rewrite a sealed file with valid checksums; ``change(arrays, meta)`` edits the arrays and returns the new
        "meta"."""
        file = sealed.SealedFile(path)
        arrays = {name: file[name].copy() for name in file.names if name != "meta"}
        kind, summary, meta = file.header["kind"], file.summary, change(arrays, file.meta)
        with contextlib.suppress(FeatstoreError):
            path.unlink()
            sealed.write(path, kind, arrays, meta, summary)

    def _array(self, array: np.ndarray) -> np.ndarray:
        array = array.copy()
        choice = self.draw.randrange(6)
        if choice == 0:
            return array[: len(array) // 2].copy()
        if choice == 1:
            return np.concatenate([array, array])
        if choice == 2:
            return array.astype(self.draw.choice(["<f4", "<i8", "|u1", "<f8", "<i4"]))
        if choice == 3:
            return array.reshape(1, -1) if array.ndim == 1 else array.reshape(-1)
        if array.size:
            odd = [float("nan"), float("inf"), 1e30] if array.dtype.kind == "f" else list(NUMBERS)
            flat = array.reshape(-1)
            places = [self.draw.randrange(flat.size)] if choice == 4 else range(flat.size)
            for at in places:
                with np.errstate(all="ignore"):
                    flat[at] = np.array(self.draw.choice(odd)).astype(array.dtype)
        return array

    def _json(self, value: Any, depth: int = 0) -> Any:
        """Return a copy of the JSON value ``value`` in which one inner value is removed or replaced by an odd value."""
        if isinstance(value, dict) and value and (depth == 0 or self.draw.random() < 0.8):
            name = self.draw.choice(sorted(value))
            if depth and self.draw.random() < 0.1:
                return {inner: value[inner] for inner in value if inner != name}
            return {**value, name: self._json(value[name], depth + 1)}
        if isinstance(value, list) and value and self.draw.random() < 0.7:
            at = self.draw.randrange(len(value))
            return [*value[:at], self._json(value[at], depth + 1), *value[at + 1 :]]
        odd: list[Any] = [None, True, *NUMBERS, 1 << 70, 1e308, 0.5, "", ATTACK, "../../home/letter.txt", [], {}, ["x"]]
        odd += [f"{MODULE}:Classifier", os.fspath(self.ground.home / "store"), "../home/store"]
        odd += [os.fspath(self.ground.home), {"x": []}, "x" * 5000, "=1+1", [[0]], {"": None}, f"{value}x", "\udcff"]
        return self.draw.choice(odd)
