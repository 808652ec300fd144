"""Checks of the arrays and numbers of a head's file, which may come from an untrusted source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from featstore.errors import DamagedError

_LARGEST_NUMBER: Final = 1e30


@dataclass(frozen=True)
class Checker:
    """The ``arrays`` and ``numbers`` of a model from an untrusted file, with methods that check them.

    Each method raises DamagedError, whose message starts with ``origin``, if a value has a wrong type, shape or size.
    """

    arrays: Mapping[str, NDArray[Any]]
    numbers: Mapping[str, Any]
    origin: str

    def matrix(self, name: str, dtype: Any, rows: int | None, columns: int | None) -> NDArray[Any]:
        """Return the array ``name``; raise DamagedError unless it has two axes, neither of them empty, and the given
        shape.

        ``rows``, ``columns``: required lengths of the axes; None: any length.
        """
        array = self._array(name, dtype)
        fits = array.ndim == 2 and array.shape[0] > 0 and array.shape[1] > 0
        if not fits or (rows or len(array)) != len(array) or (columns or array.shape[1]) != array.shape[1]:
            raise DamagedError(f"{self.origin}: its array {name} has the wrong shape {array.shape}")
        return array

    def vector(self, name: str, dtype: Any, length: int, *, positive: bool = False) -> NDArray[Any]:
        """Return the array ``name``; raise DamagedError unless its shape is (``length``,) and its type ``dtype``."""
        array = self._array(name, dtype)
        if array.shape != (length,):
            raise DamagedError(f"{self.origin}: its array {name} has the shape {array.shape}, not ({length},)")
        if positive and not (array > 0).all():
            raise DamagedError(f"{self.origin}: its array {name} holds values that are not positive")
        return array

    def _array(self, name: str, dtype: Any) -> NDArray[Any]:
        array = self.arrays.get(name)
        if array is None or array.dtype != dtype:
            raise DamagedError(f"{self.origin}: its array {name} is missing or of the wrong type")
        # Copy into memory: the file may change or vanish while the head is in use.
        array = np.array(array, order="C")
        if not np.isfinite(array).all():
            raise DamagedError(f"{self.origin}: its array {name} holds NaN or infinity")
        return array

    def number(self, name: str) -> float:
        """Return the number ``name``; raise DamagedError unless it is greater than 0 and below 1e30."""
        value = self.numbers.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < _LARGEST_NUMBER:
            raise DamagedError(f"{self.origin}: its number {name} is missing or out of range")
        return value
