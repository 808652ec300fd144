"""Rebuild featstore.json from its copies in the shards' descriptions and the plan's folder."""

from __future__ import annotations

from pathlib import Path

from featstore.errors import DamagedError
from featstore.files import sealed
from featstore.store import denylist, folders, history, shards
from featstore.store import manifest as manifests
from featstore.store.identity import Identity
from featstore.store.label_history import UNDO
from featstore.store.live_rows import shard_names
from featstore.store.manifest import Manifest
from featstore.store.plan import Plan
from featstore.store.rows import REGIONS
from featstore.store.tables import FOLLOW, Tables
from featstore.store.writer import unit_rows_for

UNKNOWN_WEIGHTS = "unknown (featstore.json was restored)"


def rebuilt_manifest(store: Path) -> Manifest:
    """Rebuild the content of featstore.json from the shards and the plan; raise DamagedError if that is impossible."""
    refusal = f"{store / manifests.NAME}: is damaged and cannot be made anew"
    remedy = "restore it from a copy, or extract into a new store; the shards are untouched"
    epochs = _epochs(store)
    if len(epochs) != 1:
        raise DamagedError(f"{refusal}: the plan's folder does not tell which plan is in force; {remedy}")
    metas = []
    for name in sorted(shard_names(store)):
        try:
            found = sealed.SealedFile(shards.folder(store) / name, shards.KIND, follow=False)
            if not found.damaged():
                metas.append(found.meta)
        except (DamagedError, OSError):
            continue
    if not metas:
        raise DamagedError(f"{refusal}: no shard is whole that repeats what it says; {remedy}")
    identity = Identity.from_dict(metas[0]["identity"])
    plan = Plan(store, int(epochs[0]))
    made = [entry for meta in metas for entry in shards.provenance_of(meta)]
    name = next((str(entry["weights_name"]) for entry in made if "weights_name" in entry), UNKNOWN_WEIGHTS)
    longest = max((len(unit) for unit in plan.units()), default=0)
    return Manifest(
        str(metas[0]["store_id"]),
        identity,
        name,
        int(epochs[0]),
        longest if len(plan.units()) > 1 else max(longest, unit_rows_for(identity)),
        (*identity.requires, *_requires(store, plan)),
        str(plan.segments[0].meta.get("created", "")) if plan.segments else "",
    )


def _requires(store: Path, plan: Plan) -> tuple[str, ...]:
    """Return those entries of the manifest's ``requires`` that the files of the store imply."""
    denied = bool(len(denylist.Denylist.of(plan)))
    try:
        found = Tables(store, plan.epoch)
        undone, follows = any(table.reverts is not None for table in found.own), found.follows is not None
    except DamagedError:
        undone = follows = False
    there = {
        denylist.FEATURE: denied,
        FOLLOW: follows,
        history.FEATURE: bool(history.history_files(store)),
        REGIONS: plan.has_regions,
        UNDO: undone,
    }
    return tuple(name for name, needed in there.items() if needed)


def _epochs(store: Path) -> list[str]:
    """Return the epochs that have a plan."""
    try:
        found = folders.names(store, folders.PLAN, pattern=folders.EPOCH)
        return [name for name in found if folders.names(store, folders.PLAN, name, pattern=folders.NUMBERED)]
    except FileNotFoundError:
        return []
