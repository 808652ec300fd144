from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from featstore.engines.memory import halving, is_out_of_memory
from featstore.errors import FeatstoreError


def pictures(count: int) -> NDArray[np.uint8]:
    return np.arange(count, dtype=np.uint8)[:, None, None, None].repeat(3, axis=3)


def limited(limit: int, error: Exception, sizes: list[int]):  # type: ignore[no-untyped-def]
    def compute(batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        sizes.append(len(batch))
        if len(batch) > limit:
            raise error
        return batch[:, 0, 0, :1].astype(np.float32)

    return compute


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_batches_that_do_not_fit_into_memory_are_halved(error: Exception) -> None:
    sizes: list[int] = []
    result = halving(limited(3, error, sizes), pictures(10))
    assert result[:, 0].tolist() == list(range(10))
    assert sizes == [10, 5, 2, 3, 5, 2, 3]


def test_out_of_memory_for_one_picture_is_an_error() -> None:
    with pytest.raises(FeatstoreError, match="one picture"):
        halving(limited(0, MemoryError(), []), pictures(2))


def test_halving_of_batches_reraises_errors_other_than_out_of_memory() -> None:
    with pytest.raises(RuntimeError, match="shape"):
        halving(limited(0, RuntimeError("shape mismatch"), []), pictures(2))
    assert not is_out_of_memory(ValueError("out of memory"))
