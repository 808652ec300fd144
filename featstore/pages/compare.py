"""The page that compares methods of transfer learning."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from featstore.errors import UsageError
from featstore.pages import parts
from featstore.pages.drawing import Drawing
from featstore.pages.epochs import epoch_curves
from featstore.pages.render import percent, seconds, write_page
from featstore.store import FeatureStore
from featstore.text import counted

if TYPE_CHECKING:
    from featstore.stages.compare import MethodResult, TransferReport

_WIDTH, _LEFT, _RIGHT, _TOP, _LINE, _BOTTOM = 460, 170, 20, 16, 30, 44
_TITLES: Final = {"accuracy": "Accuracy", "macro_f1": "Macro F1"}


def write_compare_page(report: TransferReport, path: str | os.PathLike[str]) -> None:
    """Write ``report`` as a page to ``path``. Raises UsageError if the comparison was interrupted; OSError if writing
    fails.
    """
    if report.stopped:
        raise UsageError(f"{report.path}: has no page yet, because the comparison was interrupted; run it again first")
    store = FeatureStore.open(Path(report.store))
    write_page(
        path,
        "compare.html",
        {
            **parts.footer([store]),
            "title": f"transfer learning on {store.path.name}",
            "heading": f"Transfer learning on {store.path.name}",
            "lead": f"{report.backbone}, {counted(len(report.classes), 'class', 'classes')}: "
            f"{len(report.results)} methods, {counted(len(report.seeds), 'seed')}, the same held-out pictures",
            "tiles": _tiles(report),
            "notes": report.notes,
            "methods": [_row(one) for one in report.results],
            "interval": report.interval,
            "differences": [
                (title, differences_drawing(title, report.results, measure).svg()) for measure, title in _TITLES.items()
            ],
            "curves": [(title, drawing.svg()) for title, drawing in _curves(report) if drawing is not None],
            "made_of": _made_of(report),
        },
    )


def _tiles(report: TransferReport) -> list[tuple[str, str]]:
    """Return the value and the text of each tile at the top of the page."""
    # If methods are equally good, choose the baseline, because it is the simplest.
    best = max(report.results, key=lambda one: (one.figures["accuracy"], not one.differences))
    return [
        (percent(best.figures["accuracy"]), f"highest accuracy: {best.title}; {_verdict(best)}"),
        (f"{report.learnt:,} + {report.held_out:,}", "pictures learnt from + held out"),
        (seconds(sum(one.seconds for one in report.results) * len(report.seeds)), "of training in all"),
    ]


def _verdict(one: MethodResult) -> str:
    return f"against the baseline: {one.differences['accuracy'].verdict}" if one.differences else "the baseline"


def _row(one: MethodResult) -> dict[str, Any]:
    """Return the texts of one row of the table of methods."""
    lowest, highest = min(one.by_seed.values()), max(one.by_seed.values())
    return {
        "title": one.title,
        "accuracy": percent(one.figures["accuracy"]),
        "range": f"{percent(lowest)} to {percent(highest)}",
        "accuracy_difference": one.against("accuracy"),
        "macro_f1": percent(one.figures["macro_f1"]),
        "f1_difference": one.against("macro_f1"),
        "seconds": seconds(one.seconds),
        "trained": f"{one.trained:,}",
    }


def differences_drawing(title: str, results: list[MethodResult], measure: str) -> Drawing:
    """Draw the difference between each method and the baseline with its interval, one line per method, and a line at 0."""
    shown = [(one.title, one.differences[measure]) for one in results if one.differences]
    low, high = min(0.0, *(each.low for _, each in shown)), max(0.0, *(each.high for _, each in shown))
    margin = 0.06 * ((high - low) or 1.0)
    left, right = low - margin, high + margin
    height = _TOP + _LINE * len(shown) + _BOTTOM

    def x(value: float) -> float:
        return _LEFT + (value - left) / (right - left) * (_WIDTH - _LEFT - _RIGHT)

    drawing = Drawing(_WIDTH, height, f"{title}: difference to the baseline")
    bottom = height - _BOTTOM
    drawing.line("ideal", (x(0), _TOP), (x(0), bottom))
    for value in sorted({low, 0.0, high}):
        drawing.write("tick", (x(value), bottom + 17), f"{100 * value:+.1f}" if value else "0")
    drawing.write(
        "axis", ((_LEFT + _WIDTH - _RIGHT) / 2, height - 6), f"{title[0].lower()}{title[1:]}, difference in points"
    )
    for number, (name, each) in enumerate(shown):
        y = _TOP + _LINE * (number + 0.5)
        drawing.write("tick", (_LEFT - 10, y + 4), name, "end")
        drawing.line("bar", (x(each.low), y), (x(each.high), y))
        drawing.dot("dot chosen", (x(each.difference), y), 4.5, f"{name}: {each.points()}, {each.verdict}")
    return drawing


def _curves(report: TransferReport) -> list[tuple[str, Drawing | None]]:
    """Return the learning curves of the methods that train layers, with the baseline as a dashed line."""
    base = next(one for one in report.results if not one.differences)
    return [
        (
            title,
            epoch_curves(
                title,
                {one.title: one.curves[measure] for one in report.results if one.curves},
                share=True,
                level=base.figures[measure],
            ),
        )
        for measure, title in _TITLES.items()
    ]


def _made_of(report: TransferReport) -> list[tuple[str, str]]:
    """Return (name, value) texts that say how the comparison was made."""
    given = [(name, value) for name, value in report.options.items() if value is not None]
    texts = [(name, ", ".join(value) if isinstance(value, list) else str(value)) for name, value in given]
    return [("store", report.store), *texts, ("runs", report.path)]
