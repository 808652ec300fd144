"""Parts that several pages use: examples with thumbnails, confusion matrices, figures, footers."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from featstore import __version__
from featstore.files import atomic
from featstore.pages.charts import heat_map
from featstore.pages.render import number, percent
from featstore.store.origin import origin_of_store
from featstore.store.past import record_of
from featstore.store.pictures import Pictures
from featstore.store.thumbnails import thumbnail_of

if TYPE_CHECKING:
    from featstore.heads import TrainedHead
    from featstore.stages.train import TrainReport
    from featstore.store import FeatureStore
    from featstore.store.origin import Origin
    from featstore.store.splitting import Split

CELLS = 24
"""Largest number of classes for which the confusion matrix is a table; with more classes it is an image."""
PAIRS = 8
CELLS_SHOWN, PICTURES_OF_CELL = 40, 6
"""Number of cells of the confusion matrix that show example pictures, and maximum number of pictures in such a cell."""
CLASSES_SHOWN = 200
DEEP = 0.8
"""Shade of a cell (0 to 1) above which white text is easier to read than black text."""
_TITLES = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro F1",
    "log_loss": "log loss",
    "calibration_error": "calibration error",
    "roc_auc": "ROC AUC, one class against the rest",
    "average_precision": "average precision",
}
_SHARES = ("accuracy", "balanced_accuracy", "macro_f1", "calibration_error")


class Judged(Protocol):
    """A classifier with its predictions: probabilities (n, classes) of the held-out rows ``split.test``."""

    @property
    def split(self) -> Split: ...
    @property
    def head(self) -> TrainedHead: ...
    @property
    def probabilities(self) -> NDArray[np.float64]: ...


def footer(stores: Sequence[FeatureStore] = (), files: Sequence[str | os.PathLike[str]] = ()) -> dict[str, str]:
    """Return the values of a page's footer, and the page's description in JSON, which ``featstore info FOLDER`` reads.

    ``stores`` and ``files`` (indexes, heads): the stores and files from which the page was made.
    """
    made = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    command = ["featstore", *sys.argv[1:]] if os.path.basename(sys.argv[0]) in ("featstore", "__main__.py") else []
    told = {
        "stores": [{**origin_of_store(store).to_dict(), "record": record_of(store)} for store in stores],
        "files": [_stamp(path) for path in files if os.path.isfile(path)],
        "command": command,
        "folder": os.getcwd(),
    }
    return {"version": __version__, "made": made, "description": atomic.canonical_json(told)}


def _stamp(path: str | os.PathLike[str]) -> dict[str, Any]:
    status = os.stat(path)
    return {"path": os.path.abspath(path), "size": status.st_size, "mtime_ns": status.st_mtime_ns}


def examples(store: FeatureStore, pictures: Pictures, trained: Judged, places: Sequence[int]) -> list[dict[str, Any]]:
    """Return the held-out pictures at ``places`` (indices into ``trained.split.test``) with their predictions."""
    rows = trained.split.test[np.asarray(places, np.int64)]
    keys = [key.decode("utf-8", "surrogateescape") for key in store._key_bytes(rows)]
    found = []
    for place, row, key in zip(places, rows.tolist(), keys, strict=True):
        probabilities = trained.probabilities[place]
        code = int(probabilities.argmax())
        found.append(
            {
                "key": key,
                "label": trained.head.classes[code],
                "probability": float(probabilities[code]),
                "truth": store.labels[row],
                "thumb": thumbnail_of(pictures, key),
            }
        )
    return found


def cells(
    store: FeatureStore, pictures: Pictures, trained: Judged, codes: NDArray[np.intp]
) -> dict[tuple[int, int], dict[str, Any]]:
    """Return example pictures for cells of the confusion matrix, by (true, predicted) class number.

    ``codes``: (n,) true class numbers of the held-out pictures. Cells of wrong predictions come first, the cell with
    most pictures first; they show their most confident predictions. Cells of correct predictions follow; they show
    their least confident predictions.
    """
    predicted = trained.probabilities.argmax(axis=1)
    confidence = trained.probabilities.max(axis=1)
    names, k = trained.head.classes, len(trained.head.classes)
    pairs, counts = np.unique(codes * k + predicted, return_counts=True)
    right = pairs // k == pairs % k
    shown = {}
    for at in np.lexsort((-counts, right))[:CELLS_SHOWN].tolist():
        truth, label = divmod(int(pairs[at]), k)
        places = np.flatnonzero((codes == truth) & (predicted == label))
        order = np.argsort(confidence[places] if right[at] else -confidence[places], kind="stable")[:PICTURES_OF_CELL]
        shown[truth, label] = {
            "id": f"cell-{truth}-{label}",
            "truth": names[truth],
            "label": names[label],
            "right": bool(right[at]),
            "count": int(counts[at]),
            "examples": examples(store, pictures, trained, places[order].tolist()),
        }
    return shown


def confusion_matrix(
    classes: Sequence[str],
    counts: Sequence[Sequence[int]],
    shown: Mapping[tuple[int, int], dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """Return the template's values for a confusion matrix.

    ``counts``: (k, k) numbers of pictures by true class (row) and predicted class (column). ``shown``: example pictures
    of some cells, as returned by ``cells``.
    """
    shown = shown or {}
    matrix = np.asarray(counts, np.int64)
    wrong = matrix.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:PAIRS]
    pairs = [
        {"truth": classes[at // len(classes)], "label": classes[at % len(classes)], "count": int(wrong.flat[at])}
        for at in order.tolist()
        if wrong.flat[at]
    ]
    told: dict[str, Any] = {
        "classes": list(classes),
        "pairs": pairs if len(classes) > 2 else [],
        "heat": None,
        "rows": [],
        "cells": list(shown.values()),
        "filled": int(np.count_nonzero(matrix)),
        "spots": [{"x": label, "y": truth, **cell} for (truth, label), cell in shown.items()],
    }
    if len(classes) > CELLS:
        return {**told, "heat": heat_map(counts)}
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    for code, name in enumerate(classes):
        line = []
        for other, count in enumerate(matrix[code].tolist()):
            share = float(shares[code, other])
            # Cells of wrong predictions have a higher minimum shade, so that cells with few pictures are visible too.
            shade = 0.12 + 0.78 * share if code == other else 0.16 + 0.84 * share
            kinds = ["right" if code == other else "wrong"] if count else ["zero"]
            verb = "known as" if code == other else "taken for"
            title = f"{name} {verb} {classes[other]}: {count:,} ({percent(share)})"
            deep = count and shade > DEEP
            line.append(
                {
                    "count": count,
                    "shade": f"{shade:.2f}",
                    "kind": " ".join(kinds + ["deep"] * bool(deep)),
                    "title": title,
                    "id": shown[code, other]["id"] if (code, other) in shown else None,
                }
            )
        told["rows"].append({"name": name, "cells": line})
    return told


def class_rows(report: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of the per-class table; if there are more than CLASSES_SHOWN classes, only the rows of the
    classes with the lowest F1.
    """
    rows: list[dict[str, Any]] = report["classes"]
    if len(rows) <= CLASSES_SHOWN:
        return rows
    return sorted(rows, key=lambda row: (row["f1"] is None, row["f1"]))[:CLASSES_SHOWN]


def figures(report: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Return (name, value, 95 % interval) as texts for each figure in a report."""
    shown = []
    for name, estimate in report["estimates"].items():
        written = percent if name in _SHARES else number
        interval = f"{written(estimate['low'])} to {written(estimate['high'])}"
        shown.append((_TITLES.get(name, name), written(estimate["value"]), interval))
    return shown


def parameters_tile(trained: TrainReport) -> tuple[str, str]:
    """Return two texts: a head's parameters, and whether cross-validation chose them or the user gave them."""
    table = trained.head.meta.get("cross_validation") or {}
    chosen = len(table.get("mean_accuracy", table.get("mean_r2", ()))) > 1
    return chosen_text(trained.chosen), "chosen on the training pictures alone" if chosen else "as given"


def chosen_text(chosen: dict[str, float]) -> str:
    """Return the chosen parameters as text, such as C = 0.1."""
    return ", ".join(
        f"{'neighbours' if name == 'n_neighbors' else name} = {value:.4g}" for name, value in chosen.items()
    )


def features_text(origins: Sequence[Origin]) -> str:
    """Return a text that describes the features of each store: dimension, type, backbone, layer and weights."""
    return " + ".join(
        f"{origin.identity.dimension}-d {origin.identity.dtype} of {origin.identity.backbone} "
        f"({origin.identity.layer}), weights {origin.weights_name}"
        for origin in origins
    )
