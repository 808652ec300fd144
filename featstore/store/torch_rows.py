"""Rows of a store as a PyTorch dataset, for DataLoader in this process and in workers by fork or spawn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, Sampler

from featstore.errors import FeatstoreError, UsageError
from featstore.text import natural

if TYPE_CHECKING:
    from featstore.store.feature_store import FeatureStore

UNLABELLED = -1
"""Label code of a row without a label."""
Item = tuple[torch.Tensor, int]
Batch = tuple[torch.Tensor, torch.Tensor]


class FeatureDataset(Dataset[Any]):
    """Vectors and label codes of rows of a store: a map-style dataset that reads the shards on access.

    ``dataset[i]`` is (vector (d,), code); ``dataset[[i, j, ...]]`` is (vectors (m, d), codes (m,)) and reads all rows at
    once. ``loader`` indexes with a list. A copy in another process, by fork or spawn, reads the same rows.

    Attributes
    ----------
    classes : list of str
        The labels of the whole store in natural order, so that all splits use the same codes.
    codes : (n,) int64 array
        Index of each row's label in ``classes``; -1 without a label (``ignore_index=-1`` of a loss).
    rows : (n,) int64 array
        Rows of the store.
    """

    def __init__(self, store: FeatureStore, rows: NDArray[np.int64], dtype: str | None = None) -> None:
        """Set the ``dtype`` of the vectors: "float32", "float16", or None (as stored). Raises UsageError for any other
        type.
        """
        if dtype not in (None, "float32", "float16"):
            raise UsageError(f"dtype: {dtype!r} is not float32 or float16")
        labels = store.labels
        self.classes: list[str] = sorted({str(label) for label in labels if label is not None}, key=natural)
        code = {name: number for number, name in enumerate(self.classes)}
        wanted = labels[rows]
        self.codes = np.fromiter((code.get(label, UNLABELLED) for label in wanted), np.int64, len(rows))
        self.rows, self.shape = rows, (len(rows), store.dimension)
        self._store, self._dtype = store, store.identity.numpy_dtype if dtype is None else np.dtype(dtype)

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        return f"<FeatureDataset {str(self._store.path)!r}: {len(self):,} x {self.shape[1]} {self._dtype}, {len(self.classes):,} classes>"

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: Sequence[int] | NDArray[Any] | slice) -> Batch: ...
    def __getitem__(self, index: Any) -> Item | Batch:
        """Return vector and code of one row, or of several rows at once. Raises IndexError for a missing row."""
        if isinstance(index, int | np.integer):
            if not -len(self) <= index < len(self):
                raise IndexError(index)
            vectors, codes = self._read(np.array([index % len(self)]))
            return vectors[0], int(codes[0])
        places = np.arange(len(self))[index] if isinstance(index, slice) else np.asarray(index, np.int64)
        return self._read(places)

    def __getitems__(self, indices: Sequence[int]) -> list[Item]:
        """Return a list of (vector, code), for a DataLoader that collates batches itself."""
        vectors, codes = self._read(np.asarray(indices, np.int64))
        return list(zip(vectors, codes.tolist(), strict=True))

    def _read(self, places: NDArray[np.int64]) -> Batch:
        store = self._store
        rows = self.rows[places]
        found = store._live.gather("features", rows, (store.dimension,), store.identity.numpy_dtype)
        vectors = torch.from_numpy(found.astype(self._dtype, copy=False))
        return vectors, torch.from_numpy(self.codes[places])

    def loader(
        self, batch_size: int = 1024, *, shuffle: bool = False, seed: int = 0, drop_last: bool = False, **options: Any
    ) -> DataLoader[Any]:
        """Return a DataLoader of batches (vectors (m, d), codes (m,)); each batch is read in one call.

        ``shuffle``: the order of the rows is new in each epoch, determined by ``seed``. Within a batch, rows are in the
        order of the store, because such a batch is read without a second copy. ``options``: further arguments of
        DataLoader, such as ``num_workers``.
        """
        if batch_size < 1:
            raise UsageError(f"batch_size: {batch_size:,} is less than 1")
        batches = _Batches(len(self), batch_size, seed if shuffle else None, drop_last)
        return DataLoader(self, sampler=batches, batch_size=None, **options)

    def __getstate__(self) -> dict[str, Any]:
        """Return the state to pickle for another process, with the store's path and the ids of the rows."""
        store = self._store
        state = {name: value for name, value in self.__dict__.items() if name != "_store"}
        opened = {"class": type(store), "path": str(store.path), "store_id": store.store_id, "partial": store._partial}
        return {**state, "opened": {**opened, "generation": store.generation, "ids": store.ids[self.rows]}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Open the store again in this process; raise FeatstoreError if it is another store or lacks some rows."""
        opened = state.pop("opened")
        self.__dict__.update(state)
        self._store = store = opened["class"].open(Path(opened["path"]), partial=opened["partial"])
        if store.store_id != opened["store_id"]:
            raise FeatstoreError(f"{store.path}: is another store than the one of this dataset; make the dataset again")
        if store.generation != opened["generation"] or store._partial:
            self.rows = store.rows_of_ids(opened["ids"])
            if (self.rows < 0).any():
                raise FeatstoreError(f"{store.path}: rows of this dataset were removed meanwhile; make it again")


class _Batches(Sampler[NDArray[np.int64]]):
    """Sampler of batches of the indices 0 to n - 1: in order or, with a ``seed``, in a new order in each epoch."""

    def __init__(self, n: int, size: int, seed: int | None, drop_last: bool) -> None:
        self._n, self._size, self._seed, self._drop_last = n, size, seed, drop_last
        self._epoch = 0

    def __len__(self) -> int:
        return self._n // self._size if self._drop_last else -(-self._n // self._size)

    def __iter__(self) -> Iterator[NDArray[np.int64]]:
        order = np.arange(self._n)
        if self._seed is not None:
            np.random.default_rng((self._seed, self._epoch)).shuffle(order)
            self._epoch += 1
        for number in range(len(self)):
            batch = order[number * self._size : (number + 1) * self._size]
            yield np.sort(batch) if self._seed is not None else batch
