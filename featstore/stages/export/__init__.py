"""Export a store to file formats of other programs, or a head or model to ONNX or scikit-learn."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from featstore.artifacts import kind_of, open_head
from featstore.embed.progress import Progress
from featstore.errors import UsageError
from featstore.store import FeatureStore
from featstore.store.exporting import FORMATS, StoreExport, export_store
from featstore.store.targets import ALL_TASKS
from featstore.text import did_you_mean

if TYPE_CHECKING:
    from featstore.backbones import Backbone
    from featstore.stages.export.head import HeadExport


def export(
    path: str | os.PathLike[str],
    *,
    to: str | None = None,
    out: str | os.PathLike[str] | None = None,
    features_only: bool = False,
    weights: str | None = None,
    backbone: str | Backbone | None = None,
    trust: Sequence[str] = (),
    progress: Callable[[Progress], None] | None = None,
) -> StoreExport | HeadExport:
    """Write the store, head or model at ``path`` in the format ``to``.

    A store becomes a folder of "parquet" (default), "npy" or "csv" files (see featstore.store.exporting). If an export
    was killed, the same call continues it.

    A head becomes a file. "onnx" (default): one model of preprocessing, network and head, from the pixels of a decoded
    picture to ``label`` and ``probabilities``; with ``features_only`` the model is the head alone. The file gets its
    final name after a test on synthetic pictures. "sklearn": an estimator that joblib loads. ``weights``, ``backbone``:
    your own weights file or network, if the head's features were made with it. ``trust``: types that may be created
    when a head of another package's class is loaded, see featstore.load_head. A model is exported like its head, with
    the model's own network.

    ``out``: output path; by default ``path`` with the name of the format added. Raises UsageError if there is nothing
    to export, the format does not exist, or ``out`` exists and is not an earlier export; FeatstoreError if the model
    gives other probabilities than featstore; OSError if writing fails.
    """
    kind = kind_of(path)
    if kind == "index":
        raise UsageError(
            f"{os.fspath(path)}: is an index, which is a plain FAISS file already: faiss.read_index reads it"
        )
    from featstore.stages.export import head

    formats = FORMATS if kind == "store" else head.FORMATS
    to = to or formats[0]
    if to not in formats:
        raise UsageError(
            f"{os.fspath(path)}: a {kind} has no format {to!r}; choose one of {', '.join(formats)}{did_you_mean(to, formats)}"
        )
    if kind == "model" and weights is None and backbone is None and to == "onnx" and not features_only:
        from featstore.backbones.model_folder import load_model_backbone

        backbone = load_model_backbone(path)
    if kind in ("head", "model"):
        opened = open_head(path, trust, ALL_TASKS)
        return head.export_head(opened, path, to, out, features_only=features_only, weights=weights, backbone=backbone)
    if features_only or weights is not None:
        raise UsageError(f"{os.fspath(path)}: is a store; features-only and weights are for heads: leave them out")
    place = Path(f"{os.path.abspath(path)}.{to}") if out is None else Path(out)

    def on_rows(done: int, total: int) -> None:
        if progress is not None:
            progress(Progress(done, total, 0))

    with FeatureStore.open(Path(path)) as store:
        return export_store(store, place, to, on_rows)
