"""Charts of a training run: curves of loss, accuracy and other figures over the epochs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from featstore.pages.charts import Axes, legend, sheet
from featstore.pages.drawing import Drawing

_TICKS = 6
"""Approximate maximum number of epoch labels below the axis."""


def epoch_curves(
    title: str, curves: Mapping[str, Sequence[tuple[int, float]]], *, share: bool, level: float | None = None
) -> Drawing | None:
    """Draw ``curves``, each a name with (epoch, value) pairs, and a dashed line at ``level``.

    ``share``: whether the values are shares (0 to 1), shown in percent. Values that are not finite are left out. Returns
    None if no curve has two points.
    """
    drawn = {name: [(epoch, value) for epoch, value in curve if math.isfinite(value)] for name, curve in curves.items()}
    drawn = {name: curve for name, curve in drawn.items() if curve}
    if all(len(curve) < 2 for curve in drawn.values()):
        return None
    values = [value for curve in drawn.values() for _, value in curve] + ([] if level is None else [level])
    epochs = [epoch for curve in drawn.values() for epoch, _ in curve]
    margin = max(0.005, 0.08 * (max(values) - min(values)))
    top = min(1.0, max(values) + margin) if share else max(values) + margin
    axes = Axes(min(epochs), max(epochs), max(0.0, min(values) - margin), top)
    step = max(1, round((axes.x1 - axes.x0) / _TICKS))
    ticks = [(float(at), str(at)) for at in range(min(epochs), max(epochs) + 1, step)]
    drawing = sheet(title, axes, ticks, "epoch", title[:1].lower() + title[1:], shares=share)
    if level is not None:
        drawing.line("ideal", axes.at(axes.x0, level), axes.at(axes.x1, level))
    for number, (name, curve) in enumerate(drawn.items()):
        drawing.path(f"curve-{number}", [axes.at(epoch, value) for epoch, value in curve], name)
        for epoch, value in curve:
            shown = f"{100 * value:.2f} %" if share else f"{value:.4g}"
            drawing.dot(f"dot-{number}", axes.at(epoch, value), 3, f"{name}, epoch {epoch}: {shown}")
    legend(drawing, list(drawn))
    return drawing
