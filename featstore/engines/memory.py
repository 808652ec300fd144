"""Run a computation on smaller and smaller parts of a batch until it fits into memory."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from featstore.errors import FeatstoreError


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether ``error`` reports that the device or the machine is out of memory."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)


def halving(
    compute: Callable[[NDArray[np.uint8]], NDArray[np.float32]], pictures: NDArray[np.uint8]
) -> NDArray[np.float32]:
    """Return ``compute(pictures)``; if memory does not suffice, compute each half of the batch, recursively.

    Raises FeatstoreError if memory does not suffice for a single picture.
    """
    try:
        return compute(pictures)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    # Retry outside the except clause: inside, the traceback would keep the tensors of the failed attempt alive.
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if len(pictures) == 1:
        raise FeatstoreError("the memory does not suffice for one picture; use a smaller backbone or another device")
    middle = len(pictures) // 2
    return np.concatenate([halving(compute, pictures[:middle]), halving(compute, pictures[middle:])])
