"""The page that reports on a fine-tuned model."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featstore.errors import UsageError
from featstore.pages import parts
from featstore.pages.charts import precision_recall, reliability_diagram
from featstore.pages.epochs import epoch_curves
from featstore.pages.render import percent, seconds, write_page
from featstore.store import FeatureStore
from featstore.store.pictures import Pictures
from featstore.text import counted

if TYPE_CHECKING:
    from featstore.pages.drawing import Drawing
    from featstore.stages.finetune import FinetuneReport, Tuned

ERRORS = 24


def write_finetune_page(
    report: FinetuneReport, path: str | os.PathLike[str], *, root: str | os.PathLike[str] | None = None
) -> list[str]:
    """Write ``report`` as a page to ``path``.

    ``root``: the present folder of the pictures, if they were moved. Returns the warnings on missing pictures. Raises
    UsageError if the run was interrupted before its end; OSError if writing fails.
    """
    from featstore.heads.evaluation.report import codes_of, worst_errors

    tuned = report.tuned
    if tuned is None:
        raise UsageError(f"{report.path}: has no page yet, because its training was interrupted; resume it first")
    store = FeatureStore.open(Path(report.store))
    pictures = Pictures(store, root)
    told, classes = tuned.report.to_dict(), tuned.head.classes
    truth = store.labels[tuned.split.test].astype(str)
    codes = codes_of(truth, classes)
    worst = worst_errors(truth, tuned.probabilities, classes, ERRORS).tolist()
    shown = parts.cells(store, pictures, tuned, codes)
    write_page(
        path,
        "finetune.html",
        {
            **parts.footer([store]),
            "title": f"{Path(report.path).name}: {_how(tuned)} on {store.path.name}",
            "heading": f"{tuned.network.backbone} {_how(tuned)} on {store.path.name}",
            "lead": f"{counted(len(classes), 'class', 'classes')}; {tuned.network.text()}",
            "tiles": _tiles(report, tuned),
            "from_scratch": tuned.comparison.from_scratch,
            "verdict": tuned.comparison.text(),
            "notes": [*report.notes, *pictures.notes()],
            "rows": tuned.report.rows,
            "confusion": parts.confusion_matrix(classes, told["confusion"], shown),
            "errors": parts.examples(store, pictures, tuned, worst),
            "classes": parts.class_rows(told),
            "class_count": len(told["classes"]),
            **_curves(report, tuned),
            "reliability": _svg(reliability_diagram([vars(one) for one in tuned.report.calibration])),
            "precision_recall": precision_recall(codes, tuned.probabilities, classes).svg(),
            "figures": _figures(tuned),
            "made_of": _made_of(report, tuned, store),
        },
    )
    return pictures.notes()


def _how(tuned: Tuned) -> str:
    return "trained from scratch" if tuned.comparison.from_scratch else "fine-tuned"


def _tiles(report: FinetuneReport, tuned: Tuned) -> list[tuple[str, str]]:
    """Return the value and the text of each tile at the top of the page."""
    tiles = []
    for name, title in (("accuracy", "accuracy"), ("macro_f1", "macro F1")):
        now, before = tuned.report.estimates[name], tuned.frozen.estimates[name]
        interval = f"95 % interval {percent(now.low)} to {percent(now.high)}"
        tiles.append((percent(now.value), f"{title}; {interval}; frozen head {percent(before.value)}"))
    split, network = tuned.split, tuned.network
    return [
        *tiles,
        (f"{len(split.train):,} + {len(split.test):,}", "pictures learnt from + held out"),
        (f"{network.trained:,}", f"of {network.parameters:,} parameters trained"),
        (seconds(report.seconds.get("train", 0.0)), f"for {counted(report.epochs, 'epoch')}"),
    ]


def _curves(report: FinetuneReport, tuned: Tuned) -> dict[str, Any]:
    """Return the curves of loss, accuracy and macro F1 against the epoch, as SVG, by the template's names."""

    def curve(name: str) -> list[tuple[int, float]]:
        return [(int(row["epoch"]), float(row[name])) for row in report.history if row.get(name) is not None]

    accuracies = {"training": curve("accuracy"), "held out": curve("held_out_accuracy")}
    losses = {"training": curve("loss"), "held out": curve("held_out_loss")}
    scores = {"held out": curve("held_out_macro_f1")}
    frozen = tuned.frozen.estimates
    return {
        "accuracy_curve": _svg(epoch_curves("Accuracy", accuracies, share=True, level=frozen["accuracy"].value)),
        "loss_curve": _svg(epoch_curves("Loss", losses, share=False)),
        "f1_curve": _svg(epoch_curves("Macro F1", scores, share=True, level=frozen["macro_f1"].value)),
    }


def _svg(drawing: Drawing | None) -> Any:
    return None if drawing is None else drawing.svg()


def _figures(tuned: Tuned) -> list[tuple[str, str, str, str]]:
    """Return (name, value, 95 % interval, value of the frozen head) as texts for each figure."""
    now, before = parts.figures(tuned.report.to_dict()), parts.figures(tuned.frozen.to_dict())
    return [(*one, other[1]) for one, other in zip(now, before, strict=True)]


def _made_of(report: FinetuneReport, tuned: Tuned, store: FeatureStore) -> list[tuple[str, str]]:
    """Return (name, value) texts that say how the model was made."""
    split, options = tuned.split, report.options
    told = [
        ("store", f"{report.store}, label version {store._tables.version}"),
        ("network", f"{tuned.network.backbone}, {tuned.network.text()}"),
        ("inputs", tuned.choice.reason),
        ("learnt from", f"{split.names[0]}: {counted(len(split.train), 'picture')}"),
        ("judged by", f"{split.names[1]}: {counted(len(split.test), 'picture')}"),
    ]
    return [
        *told,
        *((name, str(value)) for name, value in options.items() if value is not None),
        ("model", report.path),
    ]
