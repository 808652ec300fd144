"""Decide whether the activations of the frozen layers are cached on disk or computed live in every epoch.

Making the cache runs the frozen layers once for each view; afterwards an epoch needs only the other layers. The cache
pays if all epochs together save more time than it takes to make the cache.

Cached activations are rounded to float16, and a faster engine may compute them, so they give slightly other weights
than live activations. The decision therefore depends on counts and sizes only: measured times differ from run to run,
and two runs of one command must give the same weights. The times are measured and shown all the same.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from featstore import defaults
from featstore.finetuning.inputs import LiveExamples, Rows
from featstore.text import counted

_TRIAL_SECONDS: Final = 4.0
"""Intended duration in seconds of each of the three measurements of a trial. The number of batches is chosen for it from
the time of one batch; slow batches take longer, because at least _FEWEST_BATCHES are measured.
"""
_FEWEST_BATCHES: Final = 3
_TRIAL_BATCHES: Final = 8
"""Smallest and largest number of batches of a measurement; the activations of all these batches are in memory at the
same time.
"""
Step = Callable[[Tensor, Rows], None]
"""Function that trains one step on activations (m, *shape); its second argument is the row numbers (m,)."""
LEAST_WORK: Final = 100
"""Smallest number of multiply-adds of the frozen layers per byte of their activations for a cache by default. A disk of
500 MB/s reads one byte in the time in which a processor of 50e9 multiply-adds per second makes 100 of them.
"""


@dataclass(frozen=True)
class Rates:
    """Rates in pictures per second.

    ``making``: of making the cache. ``live``: of an epoch that runs the frozen layers. ``cached``: of an epoch with the
    cache.
    """

    making: float
    live: float
    cached: float

    def to_dict(self) -> dict[str, float]:
        """Return the rates as JSON."""
        return asdict(self)

    def break_even(self, views: int, train: int, held_out: int) -> float | None:
        """Return the number of epochs after which the cache has paid; None if it never pays.

        ``views``: number of cached views of each of the ``train`` pictures. The ``held_out`` pictures are cached once
        and measured after every epoch. The cache saves the same time for a training and for a held-out picture: that of
        reading the picture and running the frozen layers.
        """
        made = (views * train + held_out) / self.making
        saved = (train + held_out) * (1 / self.live - 1 / self.cached)
        return made / saved if saved > 0 else None


@dataclass(frozen=True)
class Choice:
    """Whether the activations of the frozen layers are cached, with the reason in words.

    ``bytes``: size of the cache; ``limit``: largest allowed size, None if the user wants no cache; ``rates``: the
    measured rates, None if nothing is frozen. ``break_even``: number of epochs after which the cache pays (None:
    never).
    """

    cached: bool
    reason: str
    bytes: int
    limit: int | None
    rates: Rates | None
    break_even: float | None

    def to_dict(self) -> dict[str, Any]:
        """Return the choice as JSON."""
        rates = None if self.rates is None else self.rates.to_dict()
        return {**asdict(self), "rates": rates}

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> Choice:
        """Return the choice from a dict that ``to_dict`` returned."""
        rates = value["rates"]
        return cls(**{**value, "rates": None if rates is None else Rates(**rates)})


def measure(live: LiveExamples, step: Step, rows: Rows, size: int) -> Rates:
    """Measure the rates on the first batches of ``rows``, with training batches of ``size``.

    Three measurements: reading pictures and running the frozen layers; the same with the training ``step`` after each
    batch; and the ``step`` alone on activations in memory. One batch with a step before the measurements is not
    counted, because it includes the time to start threads and allocate memory.
    """
    began = time.perf_counter()
    first = rows[:size]
    _seconds_of_live(live, first, size, step)
    batches = int(_TRIAL_SECONDS / (time.perf_counter() - began))
    some = rows[: size * min(max(batches, _FEWEST_BATCHES), _TRIAL_BATCHES)]
    making, kept = _seconds_of_live(live, some, size, None)
    with_step, _ = _seconds_of_live(live, some, size, step)
    began = time.perf_counter()
    for activations, part in kept:
        step(activations, part)
    _wait_for(kept[-1][0].device)
    alone = max(time.perf_counter() - began, 1e-9) / len(some)
    # Reading overlaps with the steps, so both together take no longer than one after the other; a larger value is noise.
    return Rates(1 / making, 1 / min(with_step, making + alone), 1 / alone)


def _seconds_of_live(
    live: LiveExamples, rows: Rows, size: int, step: Step | None
) -> tuple[float, list[tuple[Tensor, Rows]]]:
    """Return the seconds per picture of a live epoch over ``rows``, and the activations.

    ``step``: the training step after each batch; None measures without training. The duration is that from the first to
    the last picture: threads decode the next batches in advance, so a measurement that began after the first batch
    would leave out pictures that were decoded before its begin.
    """
    kept: list[tuple[Tensor, Rows]] = []
    began = time.perf_counter()
    for activations, part in live.batches(rows, 1, size):
        if step is not None:
            step(activations, part)
        kept.append((activations, part))
    _wait_for(kept[-1][0].device)
    return max(time.perf_counter() - began, 1e-9) / len(rows), kept


def _wait_for(device: torch.device) -> None:
    """Wait until a GPU has done the work that was started: PyTorch returns before a GPU has finished."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def cache_limit(cache: Path, asked: int | None) -> int:
    """Return the largest size of the folder ``cache`` in bytes: ``asked``, or a share of the free disk space.

    What an earlier run left in the folder counts as free space, so that the same command gets about the same limit
    again.
    """
    if asked is not None:
        return asked
    existing = sum(each.stat().st_size for each in cache.rglob("*") if each.is_file()) if cache.is_dir() else 0
    return int((shutil.disk_usage(cache.absolute().parent).free + existing) * defaults.CACHE_SHARE)


def multiply_adds(layers: nn.Module, side: int) -> int:
    """Return the number of multiply-adds of ``layers`` for one picture of ``side`` x ``side`` pixels."""
    from torch.utils.flop_counter import FlopCounterMode

    device = next((each.device for each in layers.parameters()), torch.device("cpu"))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        layers(torch.zeros(1, 3, side, side, device=device))
    return int(counter.get_total_flops()) // 2


def cache_bytes(shape: tuple[int, ...], train: int, held_out: int, views: int, dtype: str) -> int:
    """Return the size of the cache in bytes: ``views`` views of ``train`` activations, and one float32 view of
    ``held_out`` activations.
    """
    numbers = math.prod(shape)
    return numbers * (views * train * np.dtype(dtype).itemsize + 4 * held_out)


def choose(
    rates: Rates, pays: float | None, epochs: int, views: int, needed: int, limit: int, work: float, *, asked: bool
) -> Choice:
    """Return whether to make a cache of ``needed`` bytes with ``views`` views for ``epochs`` epochs.

    A cache that fits is made if every view serves more than one epoch and the frozen layers make at least LEAST_WORK
    multiply-adds per byte of their activations (``work``), or if the user set the ``limit`` (``asked``). ``rates`` and
    ``pays``, the number of epochs after which the cache pays (None: never), are measured; they are shown to the user
    and do not change the decision.
    """
    shown = f"{size_text(needed)} for {counted(views, 'view')}"
    allowed = f"{size_text(limit)}" if asked else f"{defaults.CACHE_SHARE:.0%} of the free disk = {size_text(limit)}"
    measured = "never pays" if pays is None else f"pays after {pays:.1f} of {counted(epochs, 'epoch')}"
    cached = needed <= limit and (asked or (views < epochs and work >= LEAST_WORK))
    if cached:
        why = "as asked" if asked else f"because each view serves {epochs / views:.2g} epochs"
        reason = f"cached ({shown}; the most is {allowed}), {why}"
    elif needed > limit:
        reason = f"live: a cache would take {shown}, and the most is {allowed}"
    elif views >= epochs:
        reason = f"live: a cache ({shown}) would serve one epoch for each view"
    else:
        reason = f"live: a cache ({shown}) would save only {work:,.0f} multiply-adds for each byte read"
    return Choice(cached, f"{reason}; as measured, a cache {measured}", needed, limit, rates, pays)


def size_text(size: int) -> str:
    """Return a number of bytes as text, such as 1.2 GB."""
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if size >= unit:
            return f"{size / unit:.3g} {name}"
    return f"{size:,} bytes"
