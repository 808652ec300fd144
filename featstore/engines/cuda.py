"""Engine for CUDA: runs the network, with folded BatchNorm, as a CUDA graph on blocks of pictures.

While the GPU computes one block, the pixels of the next block are copied to the GPU.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from featstore.backbones import Backbone
from featstore.engines.folded import DTYPES, Normalised, fold
from featstore.engines.memory import is_out_of_memory
from featstore.engines.shared import check_features, check_pictures, exact_float32, in_blocks, versions
from featstore.errors import FeatstoreError


def can_compile() -> bool:
    """Return whether torch.compile can generate code for CUDA, that is, whether Triton can be imported."""
    try:
        import_module("triton")
    except Exception:
        # Triton is missing or fails to import: open_engine then uses another engine.
        return False
    return True


_SLOT_BYTES: Final = 256 << 20
"""Largest size of a block's features in bytes. The output of an early layer for 256 pictures would be gigabytes."""


@dataclass
class _Slot:
    """Page-locked buffers for one block of pictures. ``owner``: the block that uses the buffers, or None."""

    pixels: torch.Tensor
    features: torch.Tensor
    copied: torch.cuda.Event
    done: torch.cuda.Event
    owner: _Block | None = None


@dataclass
class _Block:
    """The features of the ``count`` pictures of one block; the GPU may still be computing these features."""

    slot: _Slot
    count: int
    _features: NDArray[np.float32] | None = None

    def result(self) -> NDArray[np.float32]:
        if self._features is None:
            self.slot.done.synchronize()
            self._features = self.slot.features[: self.count].numpy().copy()
        return self._features

    def done(self) -> bool:
        return self._features is not None or bool(self.slot.done.query())  # type: ignore[no-untyped-call]


@dataclass
class _Batch:
    blocks: list[_Block] = field(default_factory=list)

    def result(self) -> NDArray[np.float32]:
        """Wait until the GPU has computed the features (n, d) of the batch, and return them."""
        return np.concatenate([block.result() for block in self.blocks])

    def done(self) -> bool:
        """Return whether the GPU has computed the features of the batch."""
        return all(block.done() for block in self.blocks)


class CudaEngine:
    """Engine that replays a CUDA graph for each block of ``block`` pictures.

    While the GPU computes one block, the pixels of the next block are copied to the GPU.

    ``precision``: fp32 is exact (TF32 is disabled); bf16 and fp16 are precision classes of their own. ``compiled``:
    compile the network by torch.compile. The block size is halved until a block fits into the device's memory.
    """

    in_flight = 2
    _SLOTS = 3

    def __init__(
        self,
        backbone: Backbone,
        device: torch.device,
        precision: str = "bf16",
        *,
        compiled: bool = True,
        block: int = 256,
    ) -> None:
        self.name = "compile" if compiled else "torch-folded"
        self.dimension = backbone.dimension
        self.precision = precision
        self.device = device
        self._side = backbone.preprocessing.crop
        network = Normalised(fold(backbone.module), backbone.preprocessing, DTYPES[precision]).to(device).eval()
        self._forward: Any = torch.compile(network, dynamic=False) if compiled else network
        self._compute, self._copy = (torch.cuda.Stream(device) for _ in range(2))  # type: ignore[no-untyped-call]
        self._capture(min(block, max(1, _SLOT_BYTES // (4 * self.dimension))))
        self._next = 0

    def _capture(self, block: int) -> None:
        """Record the CUDA graph for ``block`` pictures; halve ``block`` until the graph fits into the GPU's memory."""
        while True:
            try:
                self._record(block)
                break
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            torch.cuda.empty_cache()
            if block == 1:
                raise FeatstoreError("the device's memory does not suffice for one picture; use a smaller backbone")
            block //= 2
        self.block = block
        shape = (block, self._side, self._side, 3)
        self._slots = [
            _Slot(
                torch.empty(shape, dtype=torch.uint8, pin_memory=True),
                torch.empty((block, self.dimension), pin_memory=True),
                torch.cuda.Event(),  # type: ignore[no-untyped-call]
                torch.cuda.Event(),  # type: ignore[no-untyped-call]
            )
            for _ in range(self._SLOTS)
        ]

    def _record(self, block: int) -> None:
        with torch.cuda.device(self.device), torch.no_grad(), exact_float32(self.device):
            self._input = torch.zeros((block, self._side, self._side, 3), dtype=torch.uint8, device=self.device)
            self._staged = torch.empty_like(self._input)
            self._compute.wait_stream(torch.cuda.current_stream(self.device))
            with torch.cuda.stream(self._compute):
                for _ in range(
                    3
                ):  # Warm up before recording: compile, let cuDNN choose algorithms, fill the allocator.
                    self._forward(self._input)
            self._compute.synchronize()
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph, stream=self._compute):
                self._output = self._forward(self._input)
            self._taken = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._taken.record(self._compute)

    def submit(self, pictures: NDArray[np.uint8]) -> _Batch:
        """Start computing the features of the RGB pictures (n, h, w, 3)."""
        check_pictures(pictures)
        batch = _Batch()
        for block, count in in_blocks(pictures, self.block):
            batch.blocks.append(self._start(block, count))
        return batch

    def _start(self, block: NDArray[np.uint8], count: int) -> _Block:
        slot = self._slots[self._next]
        self._next = (self._next + 1) % self._SLOTS
        if slot.owner is not None:
            slot.owner.result()  # Copy the features of the previous block out of the buffer before it is overwritten.
        np.copyto(slot.pixels.numpy(), block)
        with torch.cuda.device(self.device):
            with torch.cuda.stream(self._copy):
                self._copy.wait_event(self._taken)
                self._staged.copy_(slot.pixels, non_blocking=True)
                slot.copied.record(self._copy)
            with torch.cuda.stream(self._compute):
                self._compute.wait_event(slot.copied)
                self._input.copy_(self._staged)
                self._taken.record(self._compute)
                self._graph.replay()
                slot.features.copy_(self._output, non_blocking=True)
                slot.done.record(self._compute)
        slot.owner = _Block(slot, count)
        return slot.owner

    def __call__(self, pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the features (n, d) of the RGB pictures (n, h, w, 3)."""
        return check_features(self.submit(pictures).result(), len(pictures), self.dimension)

    def provenance(self) -> dict[str, Any]:
        """Return the provenance of features: engine, precision, block, device, threads and library versions."""
        own = {"engine": self.name, "precision": self.precision, "block": self.block}
        return {**own, **versions(self.device), "cuda": torch.version.cuda}
