"""Charts of a trained head: choice of C, calibration, precision and recall, confusion matrix."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from featstore.pages.drawing import CURVE_COLOURS, Drawing
from featstore.pages.render import percent
from featstore.text import counted, shown

_WIDTH, _HEIGHT = 460, 270
_LEFT, _RIGHT, _TOP, _BOTTOM = 74, 14, 14, 44
_SHARES: Final = tuple((value, f"{value:g}") for value in (0.0, 0.25, 0.5, 0.75, 1.0))
CURVES: Final = len(CURVE_COLOURS)
"""Largest number of classes with one precision-recall curve for each class; for more classes, the mean curve is drawn.
"""
_POINTS: Final = 200
_DOTS: Final = 1000


@dataclass(frozen=True)
class Axes:
    """Maps x in [x0, x1] and y in [y0, y1] to the coordinates of a drawing of the size of this module's charts."""

    x0: float
    x1: float
    y0: float
    y1: float

    def x(self, value: float) -> float:
        """Return the horizontal coordinate of ``value``."""
        return _LEFT + (value - self.x0) / ((self.x1 - self.x0) or 1) * (_WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        """Return the vertical coordinate of ``value``."""
        return _HEIGHT - _BOTTOM - (value - self.y0) / ((self.y1 - self.y0) or 1) * (_HEIGHT - _TOP - _BOTTOM)

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Return the coordinates of the point (``x``, ``y``)."""
        return self.x(x), self.y(y)


def selection_curve(table: Mapping[str, Any] | None, chosen: Mapping[str, float]) -> Drawing | None:
    """Draw cross-validated accuracy against C (or the number of neighbours), with error bars of one standard deviation.

    ``table``: the ``cross_validation`` of a head. If several values of gamma were tried, each value has a curve, and
    only the chosen value has error bars. Returns None if fewer than two settings were tried.
    """
    name, label = ("C", "C") if table and "param_C" in table else ("n_neighbors", "neighbours")
    if not table or f"param_{name}" not in table or "mean_accuracy" not in table:
        return None
    trials = _trials(table, name)
    points = [(math.log10(value), *found, value) for tried in trials.values() for value, found in tried.items()]
    places = sorted({(x, value) for x, _, _, value in points})
    if len(points) < 2:
        return None
    low = min(mean - deviation for _, mean, deviation, _ in points)
    high = max(mean + deviation for _, mean, deviation, _ in points)
    margin = max(0.005, 0.08 * (high - low))
    axes = Axes(places[0][0], places[-1][0], max(0.0, low - margin), min(1.0, high + margin))
    ticks = [(x, f"{value:g}") for x, value in places]
    drawing = sheet(f"Accuracy in cross-validation against {label}", axes, ticks, label, "accuracy in cross-validation")
    several = len(trials) > 1
    names = []
    for number, (gamma, tried) in enumerate(sorted(trials.items())):
        line, dot = (f"curve-{number}", f"dot-{number}") if several else ("line", "dot")
        is_gamma = not several or math.isclose(gamma, chosen.get("gamma", math.nan), rel_tol=1e-9)
        names.append(f"gamma = {gamma:.4g}" + (" (chosen)" if is_gamma else ""))
        drawing.path(line, [axes.at(math.log10(value), tried[value][0]) for value in sorted(tried)])
        for value, (mean, deviation) in sorted(tried.items()):
            x = math.log10(value)
            if is_gamma:
                top, bottom = min(axes.y1, mean + deviation), max(axes.y0, mean - deviation)
                drawing.line("bar", axes.at(x, top), axes.at(x, bottom))
            is_chosen = is_gamma and math.isclose(value, chosen.get(name, math.nan), rel_tol=1e-9)
            title = f"{label} = {value:g}{f', gamma = {gamma:.4g}' if several else ''}: {mean:.4f} ± {deviation:.4f}"
            drawing.dot(f"{dot} chosen" if is_chosen else dot, axes.at(x, mean), 5 if is_chosen else 3.5, title)
    if several:
        legend(drawing, names)
    return drawing


def _trials(table: Mapping[str, Any], name: str) -> dict[float, dict[float, tuple[float, float]]]:
    """Return the mean and standard deviation of the accuracy for each tried setting.

    The result is {gamma: {value of the parameter ``name``: (mean, deviation)}}; gamma is 0 if the head has no gamma.
    """
    values = table[f"param_{name}"]
    gammas = table.get("param_gamma") or [0.0] * len(values)
    found: dict[float, dict[float, tuple[float, float]]] = {}
    for gamma, value, mean, deviation in zip(
        gammas, values, table["mean_accuracy"], table["std_accuracy"], strict=True
    ):
        tried = found.setdefault(gamma, {})
        if value not in tried or mean > tried[value][0]:
            tried[value] = (mean, deviation)
    # If there are more values of gamma than colours, draw one curve: the best accuracy for each value of ``name``.
    if len(found) > len(CURVE_COLOURS):
        best = {value: max(tried[value] for tried in found.values() if value in tried) for value in values}
        return {0.0: best}
    return found


def reliability_diagram(bins: Sequence[Mapping[str, Any]]) -> Drawing | None:
    """Draw the share of right predictions against their probability (reliability diagram, Guo et al. 2017).

    ``bins``: the field ``calibration`` of a report. Returns None if all bins are empty.
    """
    filled = [b for b in bins if b["rows"]]
    if not filled:
        return None
    axes = Axes(0.0, 1.0, 0.0, 1.0)
    title = "Share of right predictions against their probability"
    drawing = sheet(title, axes, _SHARES, "probability given to the predicted class", "share that is right")
    most = max(b["rows"] for b in filled)
    for b in filled:
        left, right, top = axes.x(b["low"]) + 1, axes.x(b["high"]) - 1, axes.y(b["accuracy"])
        text = f"{b['low']:.2f} to {b['high']:.2f}: {counted(b['rows'], 'picture')}, {percent(b['accuracy'])} right"
        # Bins with few pictures are unreliable, so they are drawn fainter.
        strength = 0.25 + 0.6 * math.sqrt(b["rows"] / most)
        drawing.box("bin", (left, top), (right - left, max(axes.y(0) - top, 1)), text, strength)
    drawing.line("ideal", axes.at(0, 0), axes.at(1, 1))
    return drawing


def precision_recall(codes: NDArray[np.intp], probabilities: NDArray[np.float64], classes: Sequence[str]) -> Drawing:
    """Draw precision-recall curves: one for each class against all other classes, or the mean of these curves.

    ``codes``: (n,) true class numbers; ``probabilities``: (n, k). With two classes, only the second class has a curve.
    If more than CURVES classes occur in ``codes``, only the mean curve is drawn.
    """
    from sklearn.metrics import precision_recall_curve

    axes = Axes(0.0, 1.0, 0.0, 1.0)
    there = [code for code in ([1] if len(classes) == 2 else range(len(classes))) if (codes == code).any()]
    of = f" of {_shortened(classes[1], 24)}" if len(classes) == 2 else ""
    drawing = sheet(f"Precision against recall{of}", axes, _SHARES, f"recall{of}", f"precision{of}")
    grid = np.linspace(0, 1, _POINTS)
    total = np.zeros(_POINTS)
    several = 1 < len(there) <= CURVES
    for number, code in enumerate(there):
        precision, recall, _ = precision_recall_curve(codes == code, probabilities[:, code])
        total += np.interp(grid, recall[::-1], precision[::-1])
        if len(there) <= CURVES:
            chosen = np.unique(np.linspace(0, len(recall) - 1, _POINTS).astype(np.intp))
            points = [axes.at(x, y) for x, y in zip(recall[chosen].tolist(), precision[chosen].tolist(), strict=True)]
            drawing.path(f"curve-{number}" if several else "line", points, classes[code])
    if several:
        legend(drawing, [classes[code] for code in there])
    if len(there) > CURVES:
        mean = total / len(there)
        drawing.path("line", [axes.at(x, y) for x, y in zip(grid.tolist(), mean.tolist(), strict=True)])
    return drawing


def legend(drawing: Drawing, names: Sequence[str]) -> None:
    """Add a legend of the curves below the drawing; the drawing becomes higher."""
    # Use the largest of 5, 3 or 2 columns of the legend in which the longest name fits, at about 6.5 units per
    # character.
    columns, fits = next(
        (count, fits) for count, fits in ((5, 8), (3, 15), (2, 25)) if count == 2 or max(map(len, names)) <= fits
    )
    wide = (_WIDTH - _LEFT) / columns
    for number, name in enumerate(names):
        x, y = _LEFT + number % columns * wide, drawing.height + 8 + number // columns * 17
        drawing.line(f"curve-{number}", (x, y), (x + 14, y))
        drawing.write("legend", (x + 19, y + 4), _shortened(name, fits), "start")
    drawing.height += 17 * math.ceil(len(names) / columns) + 2


def confusion_drawing(classes: Sequence[str], counts: Sequence[Sequence[int]]) -> Drawing:
    """Draw the confusion matrix (k, k; rows: true classes) of few classes, with the count in each cell.

    The opacity of a cell grows with its count divided by the sum of its row.
    """
    cell, margin, longest = 46, 120, 16
    side = margin + cell * len(classes)
    drawing = Drawing(side + 10, side + 10, "Confusion matrix: rows are true classes, columns predicted ones")
    names = [_shortened(name, longest) for name in classes]
    for row, line in enumerate(counts):
        total = max(1, sum(line))
        middle = margin + cell * (row + 0.5)
        drawing.write("tick", (margin - 8, middle + 4), names[row], "end")
        drawing.write("tick", (middle + 4, margin - 8), names[row], "start", turned=True)
        for column, count in enumerate(line):
            corner = (margin + cell * column + 1, margin + cell * row + 1)
            # Opacity is the square root of the share, so that cells with few pictures are visible too.
            strength = 0.85 * math.sqrt(count / total)
            drawing.box("right" if row == column else "wrong", corner, (cell - 2, cell - 2), "", strength)
            if count:
                drawing.write("count", (corner[0] + cell / 2 - 1, middle + 4), f"{count:,}")
    return drawing


def heat_pixels(confusion: Sequence[Sequence[int]], side: int = 800) -> Any:
    """Return the confusion matrix (k, k) of many classes as a PIL image (RGBA).

    Rows are true classes. The opacity of a cell grows with its count divided by the sum of its row.
    """
    from PIL import Image

    counts = np.asarray(confusion, np.float64)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    # Opacity is the square root of the share, so that cells with few pictures are visible too.
    alpha = np.round(255 * np.sqrt(shares)).astype(np.uint8)
    pixels = np.empty((*alpha.shape, 4), np.uint8)
    pixels[..., :3] = (214, 72, 60)
    pixels[np.eye(len(alpha), dtype=bool), :3] = (37, 99, 190)
    pixels[..., 3] = alpha
    image = Image.fromarray(pixels)
    scale = max(1, side // len(alpha))
    resampling = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BOX
    size = len(alpha) * scale if scale > 1 else min(side, len(alpha))
    return image.resize((size, size), resampling)


def heat_map(confusion: Sequence[Sequence[int]], side: int = 800) -> str:
    """Return the picture of ``heat_pixels`` as text: a "data:" address for HTML."""
    from featstore.store.thumbnails import data_uri

    return data_uri(heat_pixels(confusion, side))


def predicted_against_true(truth: NDArray[np.float64], predicted: NDArray[np.float64]) -> Drawing:
    """Draw the predicted numbers (n,) against the true numbers (n,); if there are many rows, 1,000 of them at even
    intervals.
    """
    shown_rows = np.unique(np.linspace(0, len(truth) - 1, _DOTS).astype(np.intp))
    low, high = float(min(truth.min(), predicted.min())), float(max(truth.max(), predicted.max()))
    axes = Axes(low, high, low, high)
    drawing = Drawing(_WIDTH, _HEIGHT, "Predicted numbers against true numbers")
    for value in _ticks(low, high):
        drawing.line("grid", (_LEFT, axes.y(value)), (_WIDTH - _RIGHT, axes.y(value)))
        drawing.write("tick", (_LEFT - 8, axes.y(value) + 4), f"{value:g}", "end")
        drawing.write("tick", (axes.x(value), _HEIGHT - _BOTTOM + 17), f"{value:g}")
    drawing.line("ideal", axes.at(low, low), axes.at(high, high))
    for row in shown_rows.tolist():
        text = f"true {truth[row]:.4g}, predicted {predicted[row]:.4g}"
        drawing.dot("dot chosen", axes.at(float(truth[row]), float(predicted[row])), 2, text)
    drawing.write("axis", ((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 6), "true number")
    drawing.write("axis", (16, (_TOP + _HEIGHT - _BOTTOM) / 2), "predicted number", turned=True)
    return drawing


def _shortened(name: str, longest: int) -> str:
    name = shown(name)
    return name if len(name) <= longest else name[: longest - 1] + "…"


def sheet(
    title: str, axes: Axes, x_ticks: Sequence[tuple[float, str]], x_label: str, y_label: str, *, shares: bool = True
) -> Drawing:
    """Return a drawing with axes and no curve yet. The y axis shows shares (0 to 1) in percent, or plain numbers."""
    drawing = Drawing(_WIDTH, _HEIGHT, title)
    for value in _ticks(axes.y0, axes.y1):
        drawing.line("grid", (_LEFT, axes.y(value)), (_WIDTH - _RIGHT, axes.y(value)))
        drawing.write("tick", (_LEFT - 8, axes.y(value) + 4), f"{100 * value:g} %" if shares else f"{value:g}", "end")
    for value, text in x_ticks:
        drawing.write("tick", (axes.x(value), _HEIGHT - _BOTTOM + 17), text)
    drawing.write("axis", ((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 6), x_label)
    drawing.write("axis", (12, (_TOP + _HEIGHT - _BOTTOM) / 2), y_label, turned=True)
    return drawing


def _ticks(low: float, high: float) -> list[float]:
    """Return three to six round values between ``low`` and ``high``, as labels of an axis."""
    rough = max(high - low, 1e-6) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(at * step, 10) for at in range(first, math.floor(high / step + 1e-9) + 1)]
