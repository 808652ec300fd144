"""Describe a store, head, index, model or folder: contents, figures, origin, and the artifacts that are out of date."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from featstore.artifacts import kind_of, origin_of_index, origins_of_head
from featstore.errors import DamagedError, UsageError
from featstore.files import model_folder
from featstore.files.model_folder import is_model
from featstore.store import FeatureStore, folders
from featstore.store.targets import ALL_TASKS
from featstore.store.view_stores import view_stores
from featstore.text import natural

if TYPE_CHECKING:
    from featstore.heads import TrainedHead


def info(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the description of the store, head, index or model at ``path`` as JSON; ``kind`` says which of them it is.

    For any other folder, return featstore's files in it and below it, the artifacts from which each was made, and which
    are stale (see describe_folder). Raises UsageError if ``path`` is none of these, DamagedError if it is damaged.
    """
    if os.path.isdir(path) and not os.path.lexists(os.path.join(path, folders.MANIFEST)) and not is_model(path):
        return describe_folder(path)
    describe = {"store": describe_store, "head": describe_head, "index": describe_index, "model": describe_model}
    return describe[kind_of(path)](path)


def describe_folder(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the stores, heads, indexes, models and pages in a folder and below it as JSON, stores first.

    Each entry names the artifacts from which it was made, says why it is stale (older than those artifacts), and lists
    the commands that refresh it. After all of ``commands`` are run in this order, only models can be stale: they have to
    be fine-tuned again by hand. ``unread``: the artifacts that could not be read. Only headers, ids and labels are read,
    and symbolic links are not followed. Raises UsageError if the folder has no artifact.
    """
    from featstore.artifacts.freshness import all_commands, states_of
    from featstore.artifacts.lineage import find_artifacts

    found = find_artifacts(Path(path))
    if not found.artifacts and not found.unread:
        raise UsageError(
            f"{os.fspath(path)}: no feature store is here ({folders.MANIFEST} is missing), and nothing else that "
            "featstore made; featstore extract makes a store"
        )
    states = states_of(found)
    return {
        "kind": "folder",
        "path": os.fspath(path),
        "artifacts": [state.to_dict() for state in states],
        "stale": sum(bool(state.stale) for state in states),
        "commands": all_commands(states),
        "unread": found.unread,
    }


def describe_head(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return classes, parameters, figures and origin of a head as JSON. Raises UsageError if there is no head,
    DamagedError if it is damaged.
    """
    from featstore.artifacts import open_head

    head = open_head(path, tasks=ALL_TASKS)
    origins, meta = origins_of_head(head, os.fspath(path)), head.meta
    features = [
        {"identity": origin.identity.to_dict(), "fingerprint": origin.identity.fingerprint, **origin.to_dict()}
        for origin in origins
    ]
    told = {name: meta.get(name) for name in ("parameters", "cross_validation", "class_counts", "versions")}
    try:
        return {
            "kind": "head",
            "path": os.fspath(path),
            "head": head.kind,
            "task": head.task,
            "target": meta.get("task"),
            "classes": head.classes,
            "chosen": dict(meta["chosen"]),
            "rows": meta["rows"],
            "seed": meta["seed"],
            "split": {**meta["split"]},
            "label_version": meta["label_version"],
            "held_out": {**meta["report"]["estimates"]},
            "report": meta["report"],
            **features[0],
            "fingerprint": head.fingerprint,
            "identity": head.identity,
            "features": features,
            **told,
            "trust": _to_trust(head),
        }
    except (KeyError, TypeError) as error:
        raise DamagedError(f"{os.fspath(path)}: its description lacks {error}") from None


def describe_model(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return architecture, cut, preprocessing, classes and training record of a model folder as JSON.

    Size and SHA-256 of every file are checked; the network is not loaded. Raises UsageError if there is no model,
    DamagedError if it is damaged.
    """
    from featstore.artifacts.model import head_of

    place = Path(path)
    about, head = model_folder.read_description(place), head_of(path)
    for name in about.files:
        model_folder.check_file(place, name, about)
    (origin,) = origins_of_head(head, os.fspath(path))
    return {
        "kind": "model",
        "path": os.fspath(path),
        "backbone": about.architecture,
        "layer": about.layer,
        "dimension": about.dimension,
        "head": head.kind,
        "classes": head.classes,
        "weights_digest": about.digest,
        "fingerprint": head.fingerprint,
        "identity": head.identity,
        "record": about.record,
        "store": origin.store,
        "store_id": origin.store_id,
        "files": {name: {"bytes": each.bytes, "sha256": each.sha256} for name, each in about.files.items()},
        "bytes": sum(each.bytes for each in about.files.values()),
    }


def _to_trust(head: TrainedHead) -> list[str] | None:
    """Return the types that a user has to trust to load ``head``; None if skops, which lists the types, is missing."""
    from featstore.heads.wrapped import EstimatorModel

    if not isinstance(head.model, EstimatorModel):
        return []
    try:
        return head.model.untrusted()
    except UsageError:
        return None


def describe_index(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return size, measured recall and origin of an index as JSON, and how the index's store has changed since.

    Raises UsageError if there is no index, DamagedError if it is damaged.
    """
    from featstore.artifacts import open_index, staleness
    from featstore.indexes.growth import standing

    index = open_index(path)
    info = index.info()
    stands = standing(info, os.path.getsize(path))
    origin = origin_of_index(index, os.fspath(path))
    store = origin.find_store(Path(os.path.abspath(path)).parent)
    return {
        "kind": "index",
        **info,
        "holds": stands.holds,
        "standing": stands.text,
        "identity": origin.identity.to_dict(),
        **origin.to_dict(),
        "store_found": store is not None,
        "stale": staleness(index, store, path) if store is not None else "",
    }


def describe_store(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return identity, counts, labels, sizes and provenance of a store as JSON. Raises UsageError if there is no store.

    ``journaled``: number of pending pictures whose vectors are already in journals of unfinished units
    (FeatureStore.open(path, partial=True) reads them). ``made_by``: engines, devices and versions that made the
    vectors; ``drift``: largest measured difference between the vectors of these engines and of plain torch, in standard
    deviations of the features, or None. ``views``: path, augmentation and counts of the augmented views.
    """
    store = FeatureStore.open(Path(path))
    counts = store.counts
    provenance = [made for unit in store.provenance().values() for made in unit]
    makers = Counter(_maker(made) for made in provenance)
    drifts: dict[tuple[str, ...], float] = {}
    for made in provenance:
        drift = made.get("drift")
        greatest = drift.get("greatest_difference") if isinstance(drift, dict) else None
        if isinstance(greatest, int | float):
            drifts[_maker(made)] = max(drifts.get(_maker(made), 0.0), float(greatest))
    return {
        "kind": "store",
        "path": str(path),
        "store_id": store.store_id,
        "fingerprint": store.fingerprint,
        "identity": store.identity.to_dict(),
        "weights_name": store.weights_name,
        "created": store._manifest.created,
        "generation": list(store.generation),
        "images": counts.images,
        "vectors": counts.vectors,
        "failures": counts.failures,
        "pending": counts.pending,
        "journaled": store.journaled() if counts.pending else 0,
        "units": len(store.units),
        "unit_rows": store._manifest.unit_rows,
        "retired": len(store._plan.retired),
        "bytes": folders.size(store.path),
        "sources": [dict(source) for source in store._plan.sources().values()],
        "label_version": store._tables.version,
        "columns": store.columns,
        "labels": _counted(store.labels),
        "splits": _counted(store.splits),
        "made_by": [
            {**dict(zip(_MAKER, made, strict=True)), "units": count, "drift": drifts.get(made)}
            for made, count in makers.most_common()
        ],
        "instruction_sets": sorted({made[-1] for made in makers} - {""}),
        "views": [_described_view(view) for view in view_stores(path).values()],
    }


def _described_view(path: Path) -> dict[str, Any]:
    """Return path, augmentation and counts of an augmented view as JSON."""
    store = FeatureStore.open(path)
    return {"path": str(path), "augment": store.identity.augment, **store.counts.__dict__}


_MAKER: Final = ("engine", "device", "version", "instruction_set")


def _maker(made: dict[str, Any]) -> tuple[str, ...]:
    """Return (engine, device, version, instruction set) of a provenance entry, "" for unknown parts."""
    device = str(made.get("device_name", made.get("device")))
    return str(made.get("engine")), device, f"torch {made.get('torch')}", str(made.get("instruction_set", ""))


def _counted(values: Any) -> dict[str, int]:
    counts = Counter(value for value in values if value is not None)
    return {name: counts[name] for name in sorted(counts, key=natural)}
