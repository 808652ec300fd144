"""Inputs of fine-tuning: activations of the frozen layers, read from stores or computed live from the pictures.

Both kinds of examples have the same rows, class numbers and augmented views, so a training run may use either. Epoch e
(counted from 1) uses view 1 + (e - 1) modulo V of V augmented views.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Final, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from featstore import defaults
from featstore.decode import Augment, DecodeFailure, Decoder, Fitting, Preprocessing, open_decoder, open_fitting
from featstore.decode.opening import as_failure
from featstore.errors import FeatstoreError
from featstore.finetuning.plan import batch_sizes
from featstore.sources.base import ReadFailure
from featstore.sources.reading import read_picture
from featstore.store import FeatureStore
from featstore.store.cutting import CutPicture
from featstore.store.places import place_of
from featstore.text import quoted

Rows = NDArray[np.intp]
Codes = NDArray[np.intp]
PLAIN: Final = 0
"""Number of the view without augmentation."""
TOO_LARGE: Final = frozenset({"too-many-pixels", "too-large"})
"""Reasons of a failure for pictures above the default limits of extract; a store does not record with which limits it
was made.
"""
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Augmentation:
    """How augmented views are made: a ``policy`` of featstore.decode.augment, the ``seed``, and the number of
    ``views``.

    With 0 views every epoch uses the plain picture.
    """

    policy: str = "none"
    seed: int = defaults.SEED
    views: int = 0

    def view(self, epoch: int) -> int:
        """Return the number of the view on which ``epoch`` (counted from 1) trains; PLAIN if there is no augmentation."""
        return 1 + (epoch - 1) % self.views if self.views else PLAIN


class CachedExamples:
    """Activations of the frozen layers in memory-mapped stores, one store per view.

    ``stores``: the stores by number of the view. For each of ``keys``, a store has a vector of the flattened
    activations, float16 or float32. ``shape``: of one activation; ``codes`` (n,): class numbers. Batches are read one
    at a time, so memory does not grow with the stores. Raises UsageError for a key without a vector.
    """

    def __init__(
        self,
        stores: dict[int, FeatureStore],
        keys: Sequence[bytes],
        codes: Codes,
        shape: tuple[int, ...],
        augmentation: Augmentation,
    ) -> None:
        self.codes, self.shape, self.augmentation = codes, shape, augmentation
        self._stores = stores
        self._places = {view: store.index_of(keys) for view, store in stores.items()}

    def __len__(self) -> int:
        return len(self.codes)

    def batches(self, rows: Rows, epoch: int, size: int) -> Iterator[tuple[Tensor, Rows]]:
        """Yield (activations (m, *shape) float32, row numbers (m,)) for ``rows``, in order, in batches of ``size``
        rows.
        """
        view = self.augmentation.view(epoch)
        store, places = self._stores[view], self._places[view]
        dtype = store.identity.numpy_dtype

        def read(part: Rows) -> tuple[Tensor, Rows]:
            found = store._live.gather("features", places[part], (store.dimension,), dtype)
            return torch.from_numpy(found).to(torch.float32).view(len(part), *self.shape), part

        with ThreadPoolExecutor(1, "featstore-cached") as pool:
            yield from _ahead(lambda part: pool.submit(read, part), _parts(rows, size), Future.result)


class LiveExamples:
    """Activations of the frozen layers, computed from the pictures of a store while the training runs.

    ``trunk``: (n, 3, crop, crop) normalised float32 -> (n, *shape), run under no_grad on ``device``. Meanwhile threads
    read, decode and augment the pictures of the next batches. ``keys``: of the pictures; ``codes`` (n,): class numbers;
    ``root``: the present folder of the pictures, if they were moved. Raises FeatstoreError that names the picture if a
    picture cannot be read any more or its bytes have changed since its extraction.
    """

    def __init__(
        self,
        store: FeatureStore,
        keys: Sequence[bytes],
        codes: Codes,
        trunk: nn.Module,
        preprocessing: Preprocessing,
        augmentation: Augmentation,
        *,
        threads: int,
        device: torch.device | None = None,
        root: Path | None = None,
    ) -> None:
        self.codes, self.augmentation, self.trunk = codes, augmentation, trunk
        self._device = device or torch.device("cpu")
        self._read = _Reader(store, keys, preprocessing, augmentation, root)
        self._mean = torch.tensor(preprocessing.mean, device=self._device).view(1, 3, 1, 1)
        self._std = torch.tensor(preprocessing.std, device=self._device).view(1, 3, 1, 1)
        self._threads = threads

    def __len__(self) -> int:
        return len(self.codes)

    def batches(self, rows: Rows, epoch: int, size: int) -> Iterator[tuple[Tensor, Rows]]:
        """Yield (activations (m, *shape) float32, row numbers (m,)) for ``rows``, in order, ``size`` rows at a time."""
        for pixels, part in self.pixels(rows, self.augmentation.view(epoch), size):
            yield self.activations(pixels), part

    def pixels(self, rows: Rows, view: int, size: int) -> Iterator[tuple[NDArray[np.uint8], Rows]]:
        """Yield (pixels (m, crop, crop, 3) uint8, row numbers (m,)) of ``view``, decoded in advance by threads."""
        with ThreadPoolExecutor(self._threads, "featstore-live") as pool:

            def start(part: Rows) -> tuple[list[Future[NDArray[np.uint8]]], Rows]:
                return [pool.submit(self._read, int(row), view) for row in part], part

            def finish(started: tuple[list[Future[NDArray[np.uint8]]], Rows]) -> tuple[NDArray[np.uint8], Rows]:
                return np.stack([each.result() for each in started[0]]), started[1]

            try:
                yield from _ahead(start, _parts(rows, size), finish)
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    def activations(self, pixels: NDArray[np.uint8]) -> Tensor:
        """Return the trunk's activations (m, *shape) float32 of ``pixels`` (m, crop, crop, 3)."""
        with torch.no_grad():
            inputs = torch.from_numpy(pixels).to(self._device).permute(0, 3, 1, 2).contiguous()
            # The operations and their order are the same as in the engine for extraction, so the inputs are
            # bit-identical.
            found: Tensor = self.trunk(inputs.to(torch.float32).div_(255).sub_(self._mean).div_(self._std))
        return found


class _Reader:
    """Reads one picture of a store and makes the pixels of one of its views; safe to call from several threads."""

    def __init__(
        self,
        store: FeatureStore,
        keys: Sequence[bytes],
        preprocessing: Preprocessing,
        augmentation: Augmentation,
        root: Path | None,
    ) -> None:
        self._store, self._keys, self._root = store, keys, root
        self._preprocessing = preprocessing
        self._sha256 = np.ascontiguousarray(store.sha256[store.index_of(keys)]).view("V32").reshape(-1)
        # A cache of the class would keep every reader, and so the open files of its store, after the end of its run.
        self._made = lru_cache(maxsize=64)(partial(_functions_of, store.identity.decoder, augmentation))

    def __call__(self, row: int, view: int) -> NDArray[np.uint8]:
        key = self._keys[row]
        try:
            return self._pixels(key, self._sha256[row].tobytes(), view)
        except (ReadFailure, DecodeFailure) as failure:
            if failure.reason in TOO_LARGE:
                raise FeatstoreError(
                    f"{quoted(key)}: is above the limits of fine-tuning ({failure.reason}: {failure.message}), which are the "
                    f"default limits of extract; {self._store.path} was made with larger limits, or the picture has grown: "
                    "remove the picture from the store with featstore remove, or extract a smaller copy of the picture"
                ) from None
            raise FeatstoreError(
                f"{quoted(key)}: cannot be read any more ({failure.reason}: {failure.message}); bring the picture back, or "
                f"extract its source into {self._store.path} again, so that the store knows that it is gone"
            ) from None

    def _pixels(self, key: bytes, expected: bytes, view: int) -> NDArray[np.uint8]:
        place = place_of(self._store._plan, key)
        if place is None:
            raise ReadFailure("unknown-key", "the store has no picture of this key")
        where = self._root or place.root, place.location, place.offset, place.size
        decode, fit = self._made(view)
        changed = ReadFailure("changed", "its bytes are not those that were extracted")
        if place.region is None:
            data = read_picture(*where, limit=defaults.MAX_FILE_BYTES).data
            if hashlib.sha256(data).digest() != expected:
                raise changed
            return decode(data, self._preprocessing)
        picture = CutPicture(*where, max_pixels=defaults.MAX_PIXELS, max_bytes=defaults.MAX_FILE_BYTES)
        if picture.read() != expected:
            raise changed
        with as_failure():
            return fit(picture.region(place.region), self._preprocessing, expected, place.region)


def _functions_of(decoder: str, augmentation: Augmentation, view: int) -> tuple[Decoder, Fitting]:
    """Return two functions that make the pixels of ``view``: the decoder for whole pictures, and the function for
    regions.
    """
    augment = None if view == PLAIN else Augment(augmentation.policy, view, augmentation.seed)
    return open_decoder(decoder, augment), open_fitting(decoder, augment)


def _parts(rows: Rows, size: int) -> Iterator[Rows]:
    """Divide ``rows`` into the batches of an epoch, see batch_sizes."""
    start = 0
    for count in batch_sizes(len(rows), size):
        yield rows[start : start + count]
        start += count


def _ahead(
    start: Callable[[Rows], _Item], parts: Iterable[Rows], finish: Callable[[_Item], _Result]
) -> Iterator[_Result]:
    """Yield ``finish(start(part))`` for each part, in order. At most BATCHES_AHEAD parts are started in advance."""
    waiting: deque[_Item] = deque()
    for part in parts:
        waiting.append(start(part))
        if len(waiting) > defaults.BATCHES_AHEAD:
            yield finish(waiting.popleft())
    while waiting:
        yield finish(waiting.popleft())
