"""Find the picture that killed a worker: try each picture that the worker had open, alone, in a process with limits."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from featstore import defaults
from featstore.processes import sandbox
from featstore.processes.in_hand import Held

DIED, STALLED, OUT_OF_MEMORY, READ_STALLED = "decoder-died", "decoder-stalled", "out-of-memory", "read-stalled"
"""Reasons of the failures that the supervisor records."""
_TRIAL: Final = "featstore.stages.extract.trial:try_picture"
_TRIAL_WITH_TORCH: Final = "featstore.stages.extract.trial_with_torch:try_picture"
_READ_SECONDS: Final = 30.0


def judge(suspects: Sequence[Held], roots: Sequence[str], job: Mapping[str, Any], seconds: float) -> int:
    """Try the pictures that a dead worker was reading or decoding, one by one; record those that kill a process.

    Returns the number of recorded pictures. ``roots``: root folder of the pictures of each plan segment; ``job``: the
    worker's job description; ``seconds``: time limit per picture.
    """
    from featstore.decode import DECODERS
    from featstore.store import shards
    from featstore.store.culprits import write_culprit
    from featstore.store.manifest import Manifest
    from featstore.store.plan import Plan

    if not suspects:
        return 0
    store = Path(job["store"])
    manifest = Manifest.read(store)
    plan = Plan(store, manifest.epoch)
    units = {unit.number: unit for unit in plan.units()}
    limits = job["options"]
    found = 0
    for held in dict.fromkeys(suspects):
        unit = units.get(held.unit)
        if (
            unit is None
            or held.row >= len(unit)
            or unit.segment >= len(roots)
            or shards.shard_path(store, held.unit).exists()
        ):
            continue
        at = unit.start + held.row
        rows = plan.segments[unit.segment].rows(at, at + 1)
        picture = {
            "root": roots[unit.segment],
            "location": os.fsdecode(rows.location(0)),
            "offset": int(rows.offsets[0]),
            "size": int(rows.sizes[0]),
            "preprocessing": manifest.identity.preprocessing,
            "max_pixels": min(limits["max_pixels"], max(1, limits["max_memory"] // defaults.BYTES_OF_PIXEL)),
            "max_bytes": limits["max_bytes"],
            "decoder": job["decoder"] or DECODERS[manifest.identity.decoder],
            "region": None if rows.regions is None else rows.region(0) or (),
        }
        verdict = verdict_on(picture, seconds, limits["max_memory"])
        if verdict is not None:
            write_culprit(store, held.unit, held.row, *verdict)
            found += 1
    return found


def verdict_on(picture: dict[str, Any], seconds: float, memory: int) -> tuple[str, str] | None:
    """Return (reason, message) if the picture alone makes a process die, stall or run out of memory, else None."""
    from featstore.decode import DECODERS

    try:
        trial = _TRIAL_WITH_TORCH if picture["decoder"] == DECODERS["pillow-torch"] else _TRIAL
        reason = sandbox.call(trial, picture, seconds=seconds, memory=memory)
    except sandbox.Died as death:
        if death.cause == "died":
            return DIED, f"the decoder died of it: {death}"
        if death.cause == "memory":
            return OUT_OF_MEMORY, f"decoding it takes more than {memory:,} bytes of memory, or than there are"
        try:
            sandbox.call(_TRIAL, {**picture, "decoder": ""}, seconds=min(seconds, _READ_SECONDS), memory=memory)
        except sandbox.Died:
            return READ_STALLED, f"reading it did not end after {seconds:g} s"
        return STALLED, f"decoding it did not end after {seconds:g} s"
    if reason == OUT_OF_MEMORY:
        return OUT_OF_MEMORY, f"decoding it takes more than {memory:,} bytes of memory, or than there are"
    # The picture kills no process. If it has another error, the worker will record the picture as an ordinary failure.
    return None
