"""Plan the runs of ``extract --views``: one for the store of the plain pictures, one for each augmented view."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Final

from featstore import defaults
from featstore.errors import UsageError
from featstore.sources import Source
from featstore.stages.extract.options import ExtractOptions
from featstore.store.as_source import KIND, StoreSource
from featstore.store.manifest import Manifest
from featstore.store.view_stores import require_no_links, view_path, view_stores

_OF_SOURCE: Final = (
    "layout", "path_column", "label_column", "split_column", "id_column", "all_files", "boxes", "box_unit",
    "region_column", "tiles", "overlap",
)  # fmt: skip
"""Options that say how to read a folder or table, which a store as a source does not have."""
Run = tuple[str | os.PathLike[str], ExtractOptions]


def runs_with_views(
    store: str | os.PathLike[str], options: ExtractOptions, views: int, augment: str | None, seed: int | None
) -> list[Run]:
    """Return (store, options) of the plain pictures, followed by those of the views 1 to ``views`` - 1.

    Views that exist already are always included, also beyond ``views``. ``augment`` and ``seed``: policy
    and seed of the views. None means the values of the existing views or, if there is no view yet, defaults.AUGMENT
    and 0. The runs of the views have ``store`` as their source.

    Raises UsageError for an invalid number or policy.
    """
    if not 1 <= views <= defaults.LARGEST_VIEW:
        raise UsageError(f"views: {views!r} is no number of views (1 to {defaults.LARGEST_VIEW:,})")
    if options.follow:
        raise UsageError(
            "views: views use the labels of the store beside them, which must be its own; leave out --follow"
        )
    existing = view_stores(store)
    known = Manifest.read(next(iter(existing.values()))).identity.augment if existing else {}
    plain = {each.name: each.default for each in fields(ExtractOptions) if each.name in _OF_SOURCE}
    shared: dict[str, Any] = {
        **plain,
        "kind": KIND,
        "follow": True,
        "augment": augment or known.get("policy", defaults.AUGMENT),
        "augment_seed": known.get("seed", 0) if seed is None else seed,
    }
    numbers = sorted({*range(1, views), *existing})
    require_no_links(store, numbers)
    return [
        (store, replace(options, view=0)),
        *((view_path(store, number), replace(options, **shared, view=number)) for number in numbers),
    ]


def plain_manifest(source: Source, store: Path, augment: Mapping[str, Any] | None) -> Manifest | None:
    """Return the manifest with which a new augmented view starts: that of the plain pictures, with another ``augment``.

    So a new view has by default the network and the settings of the store of plain pictures. ``augment``: field of the
    view's identity. Returns None if ``store`` is not the path of a view of ``source``.
    """
    if not augment or not isinstance(source, StoreSource):
        return None
    if os.path.abspath(view_path(source.path, augment["view"])) != os.path.abspath(store):
        return None
    manifest = Manifest.read(source.path)
    return replace(manifest, identity=replace(manifest.identity, augment=dict(augment)))
