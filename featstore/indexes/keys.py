"""Keys of any bytes as one blob with offsets: compact, memory-mappable, never truncated."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from featstore.errors import DamagedError


@dataclass(frozen=True)
class KeyTable:
    """``n`` keys: key ``i`` is ``blob[offsets[i]:offsets[i + 1]]``.

    ``blob``: uint8 (bytes,). ``offsets``: int64 (n + 1,), the first 0, the last the blob's length.
    """

    blob: NDArray[np.uint8]
    offsets: NDArray[np.int64]

    @classmethod
    def of(cls, keys: KeyTable | Iterable[bytes | str]) -> KeyTable:
        """Return ``keys`` as a table; text is encoded as file names are (os.fsencode)."""
        if isinstance(keys, KeyTable):
            return keys
        parts = [os.fsencode(key) for key in keys]
        offsets = np.zeros(len(parts) + 1, np.int64)
        np.cumsum([len(part) for part in parts], out=offsets[1:])
        return cls(np.frombuffer(b"".join(parts), np.uint8), offsets)

    def check(self, rows: int, where: str) -> None:
        """Raise DamagedError unless this is a table of ``rows`` keys."""
        offsets = self.offsets
        if offsets.shape != (rows + 1,) or self.blob.ndim != 1:
            raise DamagedError(f"{where}: the keys do not fit its {rows:,} rows")
        if offsets[0] != 0 or offsets[-1] != len(self.blob) or bool((offsets[1:] < offsets[:-1]).any()):
            raise DamagedError(f"{where}: the offsets of the keys are damaged")

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> bytes:
        return self.blob[self.offsets[row] : self.offsets[row + 1]].tobytes()

    def take(self, rows: NDArray[np.int64]) -> KeyTable:
        """Return the keys at ``rows``, in that order, as a new table."""
        lengths = (self.offsets[1:] - self.offsets[:-1])[rows]
        offsets = np.zeros(len(rows) + 1, np.int64)
        np.cumsum(lengths, out=offsets[1:])
        sources = np.repeat(self.offsets[rows] - offsets[:-1], lengths) + np.arange(offsets[-1])
        return KeyTable(self.blob[sources], offsets)

    def then(self, other: KeyTable) -> KeyTable:
        """Return this table followed by ``other``."""
        return KeyTable(
            np.concatenate([self.blob, other.blob]),
            np.concatenate([self.offsets, other.offsets[1:] + self.offsets[-1]]),
        )
