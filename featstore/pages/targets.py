"""The page that reports on a trained head that predicts something other than one class per picture, such as label sets."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from featstore.artifacts import origins_of_head
from featstore.pages import parts
from featstore.pages.charts import predicted_against_true
from featstore.pages.render import number, percent, seconds, write_page
from featstore.store import FeatureStore
from featstore.store.pictures import Pictures
from featstore.store.targets import NUMBERS
from featstore.store.thumbnails import thumbnail_of
from featstore.text import counted

if TYPE_CHECKING:
    from featstore.heads.evaluation.label_set_report import LabelSetsReport
    from featstore.heads.evaluation.numbers_report import NumbersReport
    from featstore.stages.train import TrainReport

ERRORS = 24


def write_targets_page(
    trained: TrainReport, path: str | os.PathLike[str], *, root: str | os.PathLike[str] | None = None
) -> list[str]:
    """Write the report of ``trained`` as a page to ``path``; parameters and result as in write_training_page."""
    store = FeatureStore.open(Path(trained.store))
    pictures = Pictures(store, root)
    features = parts.features_text(origins_of_head(trained.head, trained.path))
    task = trained.split.targets.task if trained.split.targets is not None else None
    column = task.column if task is not None else ""
    write_page(
        path,
        "targets.html",
        {
            **parts.footer([store], [trained.path]),
            "title": f"{column}, {trained.head.kind} on {store.path.name}",
            "heading": f"{column} on {store.path.name}",
            "notes": [*trained.notes, *pictures.notes()],
            "figures": _figures(trained),
            "made_of": _made_of(trained, store, features),
            **(_numbers if trained.head.task == NUMBERS else _label_sets)(trained, store, pictures, features),
        },
    )
    return pictures.notes()


def _label_sets(trained: TrainReport, store: FeatureStore, pictures: Pictures, features: str) -> dict[str, Any]:
    """Return the template's values for a head that predicts label sets."""
    report = cast("LabelSetsReport", trained.figures)
    rows = report.label_rows()
    if len(rows) > parts.CLASSES_SHOWN:
        key = "average_precision"
        rows = sorted(rows, key=lambda row: (row[key] is None, row[key]))[: parts.CLASSES_SHOWN]
    names = ("average_precision", "precision", "recall", "f1", "threshold")
    average, macro = report.estimates["mean_average_precision"], report.estimates["macro_f1"]
    return {
        "lead": f"label sets of {counted(len(report.classes), 'label')}, {features}",
        "tiles": [
            (percent(average.value), f"mean average precision; 95 % interval {_interval(average)}"),
            (percent(macro.value), f"macro F1; {_interval(macro)}"),
            (f"{len(trained.split.train):,} + {len(trained.split.test):,}", "pictures learnt from + held out"),
            parts.parameters_tile(trained),
        ],
        "table_title": "By label",
        "table_about": f"The {len(rows):,} of {len(report.classes):,} labels with the lowest average precision."
        if len(rows) < len(report.classes)
        else "Precision, recall and F1 at the label's threshold, which was chosen on the training pictures alone.",
        "table_header": ("label", "average precision", "precision", "recall", "F1", "threshold", "pictures"),
        "table": [(row["label"], *(percent(row[name]) for name in names), f"{row['support']:,}") for row in rows],
        "drawings": [],
        "errors_about": "Pictures whose true labels get the lowest probabilities: the predicted and the true set.",
        "errors": _worst_sets(trained, store, pictures),
    }


def _numbers(trained: TrainReport, store: FeatureStore, pictures: Pictures, features: str) -> dict[str, Any]:
    """Return the template's values for a head that predicts numbers."""
    from featstore.stages.train import numbers_of

    truth, predicted = numbers_of(trained.split), trained.probabilities[:, 0]
    worst = np.argsort(-np.abs(predicted - truth), kind="stable")[:ERRORS]
    keys = [key.decode("utf-8", "surrogateescape") for key in store._key_bytes(trained.split.test[worst])]
    r2, mae = trained.figures.estimates["r2"], trained.figures.estimates["mae"]
    chosen, how = parts.parameters_tile(trained)
    return {
        "lead": f"numbers, {features}",
        "tiles": [
            (number(r2.value), f"R2; 95 % interval {number(r2.low)} to {number(r2.high)}"),
            (f"{mae.value:.4g}", f"mean absolute error; {mae.low:.4g} to {mae.high:.4g}"),
            (f"{len(trained.split.train):,} + {len(trained.split.test):,}", "pictures learnt from + held out"),
            (chosen, how),
        ],
        "table": [],
        "drawings_title": "Predicted and true numbers",
        "drawings": [
            (
                "Held-out pictures",
                predicted_against_true(truth, predicted).svg(),
                "Each dot is a picture; on the dashed line the prediction is right.",
            )
        ],
        "errors_about": "Pictures with the largest errors: the predicted and the true number.",
        "errors": [
            {
                "key": key,
                "label": f"{predicted[at]:.4g}",
                "truth": f"{truth[at]:.4g}",
                "thumb": thumbnail_of(pictures, key),
            }
            for key, at in zip(keys, worst.tolist(), strict=True)
        ],
    }


def _worst_sets(trained: TrainReport, store: FeatureStore, pictures: Pictures) -> list[dict[str, Any]]:
    """Return the wrongly predicted pictures with the largest log loss over all labels."""
    from featstore.heads.headfile import LabelSetsHead
    from featstore.stages.train import truth_of

    head, split = trained.head, trained.split
    assert isinstance(head, LabelSetsHead)
    truth = truth_of(head, split)
    own = np.where(truth, trained.probabilities, 1 - trained.probabilities)
    losses = -np.log(np.maximum(own, 1e-12)).sum(axis=1)
    chosen = head.choose(trained.probabilities)
    wrong = np.flatnonzero((chosen != truth).any(axis=1))
    worst = wrong[np.argsort(-losses[wrong], kind="stable")][:ERRORS]

    def text(row: Any) -> str:
        return f"{head.separator} ".join(head.classes[code] for code in np.flatnonzero(row)) or "no label"

    keys = [key.decode("utf-8", "surrogateescape") for key in store._key_bytes(split.test[worst])]
    return [
        {"key": key, "label": text(chosen[at]), "truth": text(truth[at]), "thumb": thumbnail_of(pictures, key)}
        for key, at in zip(keys, worst.tolist(), strict=True)
    ]


def _interval(estimate: Any) -> str:
    return f"{percent(estimate.low)} to {percent(estimate.high)}"


def _figures(trained: TrainReport) -> list[tuple[str, str, str]]:
    """Return (name, value, 95 % interval) as texts for each figure of the report."""
    figures = cast("LabelSetsReport | NumbersReport", trained.figures)
    return [
        (figures.titles[name], f"{one.value:.4g}", f"{one.low:.4g} to {one.high:.4g}")
        for name, one in figures.estimates.items()
    ]


def _made_of(trained: TrainReport, store: FeatureStore, features: str) -> list[tuple[str, str]]:
    """Return the rows of the table "How it was made"."""
    split = trained.split
    return [
        ("store", f"{' + '.join(trained.stores or [trained.store])}, label version {store._tables.version}"),
        ("features", features),
        ("fingerprint", trained.head.fingerprint),
        ("learnt from", f"{split.names[0]}: {counted(len(split.train), 'picture')}"),
        ("judged by", f"{split.names[1]}: {counted(len(split.test), 'picture')}"),
        ("seed", str(trained.head.meta.get("seed"))),
        (
            "intervals",
            f"{trained.figures.to_dict()['intervals']['method']}, {trained.figures.replicates:,} replicates",
        ),
        ("time", f"{seconds(trained.seconds['train'])} to train, {seconds(trained.seconds['evaluate'])} to judge"),
        ("head", str(trained.path)),
    ]
