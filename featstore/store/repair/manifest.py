"""featstore.json made anew from what repeats it: the shards' descriptions, and the plan's folder."""

from __future__ import annotations

import os
from pathlib import Path

from featstore.errors import DamagedError
from featstore.files import sealed
from featstore.store import manifest as manifests
from featstore.store import shards
from featstore.store.identity import Identity
from featstore.store.manifest import Manifest
from featstore.store.plan import Plan
from featstore.store.writer import unit_rows_for

UNKNOWN_WEIGHTS = "unknown (featstore.json was restored)"


def rebuilt_manifest(store: Path) -> Manifest:
    """Return featstore.json's content as the shards and the plan repeat it; raise DamagedError where they do not."""
    refusal = f"{store / manifests.NAME}: is damaged and cannot be made anew"
    remedy = "restore it from a copy, or extract into a new store; the shards are untouched"
    epochs = sorted(os.listdir(store / "plan")) if (store / "plan").is_dir() else []
    if len(epochs) != 1 or not epochs[0].isdigit():
        raise DamagedError(f"{refusal}: the plan's folder does not tell which plan is in force; {remedy}")
    metas = []
    for file in sorted(shards.folder(store).glob("[0-9]*.h5")):
        try:
            found = sealed.SealedFile(file, shards.KIND)
            if not found.damaged():
                metas.append(found.meta)
        except (DamagedError, OSError):
            continue
    if not metas:
        raise DamagedError(f"{refusal}: no shard is whole that repeats what it says; {remedy}")
    identity = Identity.from_dict(metas[0]["identity"])
    plan = Plan(store, int(epochs[0]))
    made = [entry for meta in metas for entry in meta.get("provenance", [])]
    name = next((str(entry["weights_name"]) for entry in made if "weights_name" in entry), UNKNOWN_WEIGHTS)
    longest = max((len(unit) for unit in plan.units()), default=0)
    return Manifest(
        str(metas[0]["store_id"]),
        identity,
        name,
        int(epochs[0]),
        longest if len(plan.units()) > 1 else max(longest, unit_rows_for(identity)),
        (),
        str(plan.segments[0].meta.get("created", "")) if plan.segments else "",
    )
