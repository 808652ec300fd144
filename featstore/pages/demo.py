"""The page that ``featstore demo`` writes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from featstore.artifacts import index_path, open_index, origins_of_head
from featstore.pages import parts
from featstore.pages.render import percent, seconds, write_page
from featstore.pages.search import neighbours_shown
from featstore.store import FeatureStore
from featstore.store.pictures import Pictures
from featstore.store.thumbnails import thumbnail_of
from featstore.text import natural

if TYPE_CHECKING:
    from featstore.stages.demo import DemoReport
    from featstore.stages.train import TrainReport

SAMPLES, ERRORS, QUERIES, NEIGHBOURS = 14, 14, 5, 7


def write_demo_page(report: DemoReport) -> None:
    """Write the page of a finished demo to ``report.page``. Raises OSError if writing fails."""
    from featstore.heads.evaluation.report import worst_errors
    from featstore.heads.trainer import HEADS

    opened = FeatureStore.open(report.store)
    pictures = Pictures(opened)
    first = report.heads[0]
    told = first.report.to_dict()
    truth = opened.labels[first.split.test].astype(str)
    worst = worst_errors(truth, first.probabilities, first.head.classes, ERRORS).tolist()
    samples = _one_of_each(truth, SAMPLES)
    accuracy = first.report.accuracy
    extracted = next(step for step in report.steps if step.name == "extract")
    write_page(
        report.page,
        "demo.html",
        {
            **parts.footer([opened]),
            "title": "featstore demo",
            "heading": f"{report.images:,} handwritten digits, read by a network that has seen photographs only",
            "lead": f"Features: {parts.features_text(origins_of_head(first.head, first.path))}, trained on ImageNet. They were extracted once; "
            "heads and index below are made of the stored vectors alone.",
            "tiles": [
                (
                    percent(accuracy.value),
                    f"of {first.report.rows:,} held-out pictures right; 95 % interval {percent(accuracy.low)} to {percent(accuracy.high)}",
                ),
                (
                    f"{report.vectors:,}",
                    f"vectors of {opened.identity.dimension:,} numbers, {report.failures:,} failures",
                ),
                (seconds(extracted.made_in), "to extract them, once"),
                (seconds(sum(step.made_in for step in report.steps)), "for the whole chain"),
            ],
            "notes": first.notes,
            "samples": parts.examples(opened, pictures, first, samples),
            "errors": parts.examples(opened, pictures, first, worst),
            "rows": first.report.rows,
            "confusion": parts.confusion_matrix(first.head.classes, told["confusion"]),
            "queries": _queries(opened, pictures, first),
            "score": "cosine",
            "heads": [_head(one, HEADS[one.head.kind].title) for one in report.heads],
            "steps": [dict(step.__dict__) for step in report.steps],
        },
    )


def _one_of_each(truth: Any, count: int) -> list[int]:
    """Return the indices of up to ``count`` pictures: one of each class, then a second one of each class, and so on."""
    turns = [np.flatnonzero(truth == name).tolist() for name in sorted(set(truth.tolist()), key=natural)]
    rounds = max(map(len, turns))
    return [places[turn] for turn in range(rounds) for places in turns if turn < len(places)][:count]


def _queries(store: FeatureStore, pictures: Pictures, trained: TrainReport) -> list[dict[str, Any]]:
    """Return held-out pictures of several classes with their nearest training pictures."""
    from featstore.stages.search import neighbours

    truth = store.labels[trained.split.test].astype(str)
    places = _one_of_each(truth, len(set(truth.tolist())))
    # Take classes at even intervals, so that the few queries show different digits.
    rows = trained.split.test[np.asarray(places[:: max(1, len(places) // QUERIES)][:QUERIES])]
    index = open_index(index_path(store.path))
    found = neighbours(index, store.features(rows=rows), NEIGHBOURS, allowed_ids=store.ids[trained.split.train])
    queries = []
    for row, key, near in zip(rows.tolist(), store._key_bytes(rows), found, strict=True):
        name = key.decode("utf-8", "surrogateescape")
        queries.append(
            {
                "name": name,
                "label": store.labels[row],
                "reason": "",
                "message": "",
                "thumb": thumbnail_of(pictures, name),
                "neighbours": neighbours_shown(near, pictures),
            }
        )
    return queries


def _head(trained: TrainReport, title: str) -> dict[str, Any]:
    accuracy = trained.report.accuracy
    return {
        "title": title,
        "accuracy": accuracy.value,
        "low": accuracy.low,
        "high": accuracy.high,
        "macro_f1": trained.report.estimates["macro_f1"].value,
        "chosen": parts.chosen_text(trained.chosen),
        "seconds": trained.seconds["train"],
    }
