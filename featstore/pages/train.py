"""The page that reports on a trained head."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from featstore.artifacts import origins_of_head
from featstore.pages import parts
from featstore.pages.figures import charts_of
from featstore.pages.render import percent, seconds, write_page
from featstore.pages.targets import write_targets_page
from featstore.store import FeatureStore
from featstore.store.pictures import Pictures
from featstore.text import counted

if TYPE_CHECKING:
    from featstore.stages.train import TrainReport

ERRORS = 24


def write_training_page(
    trained: TrainReport, path: str | os.PathLike[str], *, root: str | os.PathLike[str] | None = None
) -> list[str]:
    """Write the report of ``trained`` as a page to ``path``.

    ``root``: the present folder of the pictures, if they were moved. The page shows a note in place of a missing
    picture. Returns the warnings of Pictures.notes() on missing pictures. Raises OSError if writing fails.
    """
    if trained.head.task != "classes":
        return write_targets_page(trained, path, root=root)
    from featstore.heads.evaluation.report import codes_of, worst_errors
    from featstore.heads.trainer import head_kind

    store = FeatureStore.open(Path(trained.store))
    pictures = Pictures(store, root)
    told = trained.report.to_dict()
    truth = store.labels[trained.split.test].astype(str)
    worst = worst_errors(truth, trained.probabilities, trained.head.classes, ERRORS).tolist()
    errors = parts.examples(store, pictures, trained, worst)
    shown = parts.cells(store, pictures, trained, codes_of(truth, trained.head.classes))
    drawn = {name: one.svg() for name, one in charts_of(trained).items()}
    accuracy, macro = trained.report.accuracy, trained.report.estimates["macro_f1"]
    split, kind = trained.split, head_kind(trained.head.kind)
    write_page(
        path,
        "training.html",
        {
            **parts.footer([store], [trained.path]),
            "title": f"{trained.head.kind.rpartition(':')[2]} on {store.path.name}",
            "heading": f"{kind.title[:1].upper()}{kind.title[1:]} on {store.path.name}",
            "lead": f"{len(trained.head.classes):,} classes, {parts.features_text(origins_of_head(trained.head, trained.path))}",
            "tiles": [
                (
                    percent(accuracy.value),
                    f"accuracy; 95 % interval {percent(accuracy.low)} to {percent(accuracy.high)}",
                ),
                (percent(macro.value), f"macro F1; {percent(macro.low)} to {percent(macro.high)}"),
                (f"{len(split.train):,} + {len(split.test):,}", "pictures learnt from + held out"),
                parts.parameters_tile(trained),
            ],
            "notes": [*trained.notes, *pictures.notes()],
            "rows": trained.report.rows,
            "confusion": parts.confusion_matrix(trained.head.classes, told["confusion"], shown),
            "errors": errors,
            "classes": parts.class_rows(told),
            "class_count": len(told["classes"]),
            "curve": drawn.get("selection"),
            "ties": kind.ties,
            "gammas": len(set((trained.head.meta.get("cross_validation") or {}).get("param_gamma") or ())) > 1,
            "reliability": drawn.get("calibration"),
            "uncalibrated": drawn.get("calibration-before"),
            "precision_recall": drawn["precision-recall"],
            "figures": parts.figures(told),
            "made_of": [
                ("store", f"{' + '.join(trained.stores or [trained.store])}, label version {store._tables.version}"),
                ("features", parts.features_text(origins_of_head(trained.head, trained.path))),
                ("fingerprint", trained.head.fingerprint),
                ("learnt from", f"{split.names[0]}: {counted(len(split.train), 'picture')}"),
                ("judged by", f"{split.names[1]}: {counted(len(split.test), 'picture')}"),
                ("seed", str(trained.head.meta.get("seed"))),
                *_calibration(trained),
                (
                    "intervals",
                    f"accuracy: Wilson; others: Bayesian bootstrap with one row that was not seen, {trained.report.replicates:,} replicates",
                ),
                (
                    "time",
                    f"{seconds(trained.seconds['train'])} to train, {seconds(trained.seconds['evaluate'])} to judge",
                ),
                ("head", str(trained.path)),
            ],
        },
    )
    return pictures.notes()


def _calibration(trained: TrainReport) -> list[tuple[str, str]]:
    found = trained.calibration
    if found is None:
        return []
    before, after = (found[when]["calibration_error"] for when in ("before", "after"))
    return [("calibration", f"temperature scaling: calibration error {before:.4f} before, {after:.4f} after")]
