"""Files with the figures of a trained head, written beside its page: charts as PNG, and all numbers as JSON."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featstore.files import atomic
from featstore.pages import charts
from featstore.pages.drawing import Drawing
from featstore.pages.parts import CELLS
from featstore.store import FeatureStore

if TYPE_CHECKING:
    from featstore.stages.train import TrainReport


def charts_of(trained: TrainReport) -> dict[str, Drawing]:
    """Return the charts of ``trained`` by name.

    "selection": accuracy against the tried parameters; "calibration": with calibrated probabilities;
    "calibration-before": with probabilities before calibration; "precision-recall". A chart that does not apply to the
    head is left out.
    """
    from featstore.heads.calibration import rescale
    from featstore.heads.evaluation.report import calibration_bins, codes_of
    from featstore.stages.train import scale_of

    store = FeatureStore.open(Path(trained.store))
    classes = trained.head.classes
    truth = store.labels[trained.split.test].astype(str)
    drawn: dict[str, Drawing | None] = {
        "selection": charts.selection_curve(trained.head.meta.get("cross_validation"), trained.chosen),
        "calibration": charts.reliability_diagram([vars(one) for one in trained.report.calibration]),
        "precision-recall": charts.precision_recall(codes_of(truth, classes), trained.probabilities, classes),
    }
    scale = scale_of(trained.head)
    if scale is not None:
        bins = calibration_bins(truth, rescale(trained.probabilities, 1 / scale), classes)
        drawn["calibration-before"] = charts.reliability_diagram([vars(one) for one in bins])
    return {name: one for name, one in drawn.items() if one is not None}


def write_figures(trained: TrainReport, page: str | os.PathLike[str]) -> list[Path]:
    """Write the charts of ``trained`` and its confusion matrix as PNG files, and its report as JSON, beside ``page``.

    Returns the paths of these files: PAGE.selection.png, PAGE.confusion.png, ..., PAGE.json, where PAGE is the path of
    the page without its extension. Raises OSError if writing fails.
    """
    if trained.head.task != "classes":
        return _write_json(trained, page)
    confusion = trained.report.table.confusion.astype(np.int64).tolist()
    images: dict[str, Any] = {name: one.image() for name, one in charts_of(trained).items()}
    few = len(confusion) <= CELLS
    images["confusion"] = (
        charts.confusion_drawing(trained.head.classes, confusion).image() if few else charts.heat_pixels(confusion)
    )
    base = Path(page).with_suffix("")
    atomic.make_directory(Path(os.path.abspath(base.parent)))
    written = []
    for name, image in sorted(images.items()):
        path = base.with_name(f"{base.name}.{name}.png")
        buffer = io.BytesIO()
        image.save(buffer, format="png", optimize=True)
        atomic.write_bytes(path, buffer.getvalue())
        written.append(path)
    return [*written, *_write_json(trained, page)]


def _write_json(trained: TrainReport, page: str | os.PathLike[str]) -> list[Path]:
    """Write the report of ``trained`` as JSON beside ``page``. The report is also written for heads that do not predict
    classes.
    """
    base = Path(page).with_suffix("")
    path = base.with_name(f"{base.name}.json")
    atomic.write_bytes(path, json.dumps(trained.to_dict(), indent=2, allow_nan=False).encode() + b"\n")
    return [path]
