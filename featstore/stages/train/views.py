"""Train a head on all augmented views of the training pictures, in addition to the plain pictures (view 0)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
import xxhash
from numpy.typing import NDArray

from featstore import defaults
from featstore.errors import IdentityError, UsageError
from featstore.store import FeatureStore
from featstore.store.identity import differences
from featstore.store.past import records_in
from featstore.store.stacked import StackedStores
from featstore.store.view_stores import SUFFIX, ViewRows, view_stores
from featstore.text import counted

VIEWS: Final = "views"
"""Key in a head's ``meta`` for the views that it was trained on. In the head's request, the key says whether views were
used.
"""


def open_views(stack: StackedStores) -> list[FeatureStore]:
    """Open the augmented views of the store in ``stack``, in the order of their numbers.

    Raises UsageError if there are several stores, no views, or views with pictures that are still to be extracted.
    """
    first = _only(stack)
    views = [FeatureStore.open(path) for path in view_stores(first.path).values()]
    if not views:
        raise UsageError(
            f"{first.path}: has no augmented views ({first.path}{SUFFIX} has none); make them with featstore extract "
            f"SOURCE {first.path} --views 4, or leave out --views"
        )
    for view in views:
        _require_same_features(first, view)
        if view.counts.pending:
            raise UsageError(
                f"{view.path}: {counted(view.counts.pending, 'picture is', 'pictures are')} not extracted yet; run "
                "featstore extract with --views again"
            )
    return views


def _require_same_features(plain: FeatureStore, view: FeatureStore) -> None:
    """Raise IdentityError unless the features of ``view`` differ from those of ``plain`` by the augmentation alone."""
    identity = replace(view.identity, augment={})
    if identity != plain.identity:
        told = "; ".join(differences(plain.identity.to_dict(), identity.to_dict()))
        raise IdentityError(
            f"{view.path}: is no view of the features in {plain.path} ({told}); remove {plain.path}{SUFFIX}, and make "
            "the views again with featstore extract --views"
        )


def views_as_then(stack: StackedStores, meta: Mapping[str, Any], past: Any) -> list[FeatureStore]:
    """Open the views on which a head was trained, in their state at that time. ``meta``: of the head; ``past``: past
    states.

    Raises UsageError if one of the views is not beside the store any more.
    """
    first, recorded = _only(stack), meta.get(VIEWS)
    ids = [str(each.get("store_id")) for each in records_in(recorded)]
    known = {each.get("store_id") for each in records_in(past)}
    there = {FeatureStore.open(path).store_id: path for path in view_stores(first.path).values()}
    if not ids or not set(ids) <= known & set(there):
        raise UsageError(f"{first.path}: not all views that the head was trained on are in {first.path}{SUFFIX}")
    return [FeatureStore.open(there[store_id], at=meta, missing="skip") for store_id in ids]


def training_rows(
    stack: StackedStores, rows: NDArray[np.int64], views: Sequence[FeatureStore]
) -> tuple[Any, NDArray[np.int64]]:
    """Return the features of ``rows`` (m,) in view 0 and in each of ``views``; and, for each feature row, its place in
    ``rows``.

    The features are an (n, d) array if that fits into a quarter of defaults.HEAD_MEMORY, otherwise a stream.
    """
    if views:
        viewed = ViewRows([stack.first, *views], rows)
        small = viewed.shape[0] * viewed.shape[1] * 4 <= defaults.HEAD_MEMORY // 4
        return viewed.features() if small else viewed, viewed.order
    small = len(rows) * stack.dimension * 4 <= defaults.HEAD_MEMORY // 4
    return stack.features(rows) if small else stack.stream(rows), np.arange(len(rows))


def digest_with_views(
    stack: StackedStores, rows: NDArray[np.int64], views: Sequence[FeatureStore], targets: Sequence[str] | None = None
) -> str:
    """Return the XXH3-128 of the ids, labels and vectors of ``rows``; if ``views`` are given, of their vectors too.

    ``targets``: texts (m,) in place of the labels.
    """
    plain = stack.digest(rows, targets)
    if not views:
        return plain
    digest, viewed = xxhash.xxh3_128(plain.encode()), ViewRows([stack.first, *views], rows)
    digest.update(np.ascontiguousarray(viewed.order, "<i8").data)
    for block in viewed.blocks():
        digest.update(np.ascontiguousarray(block).data)
    return digest.hexdigest()


def record_of_views(views: Sequence[FeatureStore]) -> dict[str, Any]:
    """Return the record in a head's ``meta`` of the views on which it was trained (JSON); {} without views."""
    return {VIEWS: [{"store_id": view.store_id, **view.identity.augment} for view in views]} if views else {}


def notes_on_views(stack: StackedStores, rows: NDArray[np.int64], views: Sequence[FeatureStore]) -> list[str]:
    """Return two notes: on the number of training rows, and on rows that are missing in views."""
    if not views:
        return []
    viewed = ViewRows([stack.first, *views], rows)
    notes = [f"learnt from {len(views) + 1} views: {viewed.shape[0]:,} rows; judged on the pictures as they are"]
    if viewed.absent:
        notes.append(
            f"left out: {counted(viewed.absent, 'row')} of views that lack a training picture (extract --views)"
        )
    return notes


def _only(stack: StackedStores) -> FeatureStore:
    if len(stack.stores) > 1:
        raise UsageError("views: a head on views is trained on one store; name one, or leave out --views")
    return stack.first
