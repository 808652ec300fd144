"""Plan regions (boxes or tiles) of pictures: order the rows by picture, and check the user's options."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featstore.errors import UsageError
from featstore.store.plan import Plan, source_name
from featstore.store.requires import require
from featstore.store.rows import COLUMNS, REGIONS, parents
from featstore.text import shown


def picture_order(keys: Sequence[bytes], regions: NDArray[np.int32]) -> NDArray[np.int64] | None:
    """Return indices that sort rows so that the regions of a picture are adjacent; None if they already are.

    In this order, each picture is decoded only once.
    """
    if not regions[:, 4].any():
        return None
    numbers: dict[bytes, int] = {}
    of = np.array([numbers.setdefault(key, len(numbers)) for key in parents(keys, regions)], np.int64)
    return None if (of[1:] >= of[:-1]).all() else np.argsort(of, kind="stable").astype(np.int64)


def require_regions(store: Path) -> None:
    """Add "regions" to the manifest's ``requires``, so that versions of featstore without regions refuse ``store``."""
    require(store, REGIONS)


def require_same_cut(store: Path, plan: Plan, source: Mapping[str, Any]) -> None:
    """Raise UsageError if an earlier run used other boxes or tiles for ``source``: this run would replace all rows."""
    before = plan.sources().get(source_name(dict(source)))
    if before is not None and before.get("cut") != source.get("cut"):
        raise UsageError(
            f"{store}: has {_text(before)} of {source.get('location')}, and this run asks for {_text(source)}; use the "
            "same options as before, or another store"
        )


def for_doubled_key(source: Mapping[str, Any]) -> str:
    """Return the end of an error message about a duplicate key in ``source``: how the user can avoid the duplicate."""
    if source.get("kind") == "coco":
        return "give each annotation an id of its own, or remove the doubled one"
    cut, others = source.get("cut"), {str(name).strip().lower(): str(name) for name in source.get("metadata", [])}
    if isinstance(cut, dict) and "boxes" in cut:
        return "name boxes that are equal by a column of their own (--region-column), or remove the doubled line"
    if all(name in others for name in COLUMNS[1:]):
        boxes = ",".join(shown(others[name]) for name in COLUMNS[1:])
        without = ", and leave --tiles out" if cut is not None else ""
        return f"if its lines are boxes of pictures, add --boxes {boxes}{without}; otherwise keep one line a picture"
    return "each picture needs a key of its own (give a table an id column, or remove the doubled line)"


def _text(source: Mapping[str, Any]) -> str:
    cut = source.get("cut")
    if not isinstance(cut, dict):
        return "whole pictures"
    if "boxes" in cut:
        return "boxes"
    return f"tiles of {cut.get('tiles')} pixels (overlap {cut.get('overlap')})"


def regions_of(plan: Plan, pictures: Collection[bytes]) -> dict[bytes, list[int]]:
    """Return the ids of the live regions of each picture in ``pictures`` (keys), as a dict by key of the picture.

    Pictures without regions are left out.
    """
    found = defaultdict[bytes, list[int]](list)
    for segment in plan.segments:
        if segment.regions is not None:
            live = np.flatnonzero((segment.regions[:, 4] > 0) & ~plan.is_retired(segment.ids))
            names = parents(list(segment.keys.take(live)), segment.regions[live])
            for name, number in zip(names, segment.ids[live].tolist(), strict=True):
                if name in pictures:
                    found[name].append(number)
    return dict(found)
