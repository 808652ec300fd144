"""Interface of feature matrices that are larger than memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

if TYPE_CHECKING:
    from numpy.typing import NDArray


@runtime_checkable
class RowBlocks(Protocol):
    """Features larger than memory: blocks of rows that can be read repeatedly."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape (n, d) of the whole feature matrix."""
        ...

    def blocks(self) -> Iterator[NDArray[Any]]:
        """Yield (m, d) arrays that concatenate to all rows, in the same order at each call."""
        ...


Features: TypeAlias = "NDArray[Any] | RowBlocks"
"""Features: an array (n, d), or its rows in blocks."""
