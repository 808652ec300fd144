"""Charts as inline SVG; colours are the page's own, so that they follow light and dark."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup, escape

_WIDTH, _HEIGHT = 460, 270
_LEFT, _RIGHT, _TOP, _BOTTOM = 66, 14, 14, 44


@dataclass(frozen=True)
class _Axes:
    """Maps values of x in [x0, x1] and y in [y0, y1] to the picture."""

    x0: float
    x1: float
    y0: float
    y1: float

    def x(self, value: float) -> float:
        return _LEFT + (value - self.x0) / ((self.x1 - self.x0) or 1) * (_WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        return _HEIGHT - _BOTTOM - (value - self.y0) / ((self.y1 - self.y0) or 1) * (_HEIGHT - _TOP - _BOTTOM)


def selection_curve(table: Mapping[str, Any] | None, chosen: Mapping[str, float]) -> Markup | None:
    """Draw cross-validated accuracy against C (or the number of neighbours), one standard deviation over folds as bars.

    ``table``: a head's ``cross_validation``; where two parameters were tried, of each C the best is drawn. None
    where nothing was tried.
    """
    name, label = ("C", "C") if table and "param_C" in table else ("n_neighbors", "neighbours")
    if not table or f"param_{name}" not in table or "mean_accuracy" not in table:
        return None
    columns = (table[f"param_{name}"], table["mean_accuracy"], table["std_accuracy"])
    best: dict[float, tuple[float, float]] = {}
    for value, mean, deviation in zip(*columns, strict=True):
        if value not in best or mean > best[value][0]:
            best[value] = (mean, deviation)
    points = [(math.log10(value), *best[value], value) for value in sorted(best)]
    low = min(mean - deviation for _, mean, deviation, _ in points)
    high = max(mean + deviation for _, mean, deviation, _ in points)
    margin = max(0.005, 0.08 * (high - low))
    span = (points[0][0], points[-1][0]) if len(points) > 1 else (points[0][0] - 1, points[0][0] + 1)
    axes = _Axes(*span, max(0.0, low - margin), min(1.0, high + margin))
    parts = _grid(axes, [(x, f"{value:g}") for x, _, _, value in points], label, "accuracy in cross-validation")
    line = " ".join(f"{axes.x(x):.1f},{axes.y(mean):.1f}" for x, mean, _, _ in points)
    parts.append(f'<polyline class="line" points="{line}"/>')
    for x, mean, deviation, value in points:
        at, is_chosen = axes.x(x), math.isclose(value, chosen.get(name, math.nan), rel_tol=1e-9)
        top, bottom = axes.y(min(axes.y1, mean + deviation)), axes.y(max(axes.y0, mean - deviation))
        parts.append(f'<line class="bar" x1="{at:.1f}" x2="{at:.1f}" y1="{top:.1f}" y2="{bottom:.1f}"/>')
        title = f"<title>{label} = {value:g}: {mean:.4f} ± {deviation:.4f}</title>"
        kind = "dot chosen" if is_chosen else "dot"
        parts.append(
            f'<circle class="{kind}" cx="{at:.1f}" cy="{axes.y(mean):.1f}" r="{5 if is_chosen else 3.5}">{title}</circle>'
        )
    return _svg(parts, f"Accuracy in cross-validation against {label}")


def reliability_diagram(bins: Sequence[Mapping[str, Any]]) -> Markup | None:
    """Draw accuracy against confidence (Guo et al. 2017); ``bins`` as in the report's ``calibration``."""
    filled = [b for b in bins if b["rows"]]
    if not filled:
        return None
    axes = _Axes(0.0, 1.0, 0.0, 1.0)
    ticks = [(value, f"{value:g}") for value in (0.0, 0.25, 0.5, 0.75, 1.0)]
    parts = _grid(axes, ticks, "probability given to the predicted class", "share that is right")
    parts.append(
        f'<line class="ideal" x1="{axes.x(0):.1f}" y1="{axes.y(0):.1f}" x2="{axes.x(1):.1f}" y2="{axes.y(1):.1f}"/>'
    )
    most = max(b["rows"] for b in filled)
    for b in filled:
        left, right, top = axes.x(b["low"]) + 1, axes.x(b["high"]) - 1, axes.y(b["accuracy"])
        title = f"<title>{b['low']:.2f} to {b['high']:.2f}: {b['rows']:,} pictures, {b['accuracy']:.1%} right</title>"
        # Bins with few pictures say little: they are fainter.
        weight = 0.25 + 0.6 * math.sqrt(b["rows"] / most)
        parts.append(
            f'<rect class="bin" x="{left:.1f}" y="{top:.1f}" width="{right - left:.1f}" '
            f'height="{max(axes.y(0) - top, 1):.1f}" fill-opacity="{weight:.2f}">{title}</rect>'
        )
    return _svg(parts, "Share of right predictions against their probability")


def heat_map(confusion: Sequence[Sequence[int]], side: int = 800) -> str:
    """Return the confusion matrix (k, k), by row in shares, as a data: URI of a picture for many classes."""
    from PIL import Image

    from featstore.reports.thumbnails import data_uri

    counts = np.asarray(confusion, np.float64)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    # Few confusions are to be seen as well, so the scale is a root.
    alpha = np.round(255 * np.sqrt(shares)).astype(np.uint8)
    pixels = np.empty((*alpha.shape, 4), np.uint8)
    pixels[..., :3] = (214, 72, 60)
    pixels[np.eye(len(alpha), dtype=bool), :3] = (37, 99, 190)
    pixels[..., 3] = alpha
    image = Image.fromarray(pixels)
    scale = max(1, side // len(alpha))
    resampling = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BOX
    size = len(alpha) * scale if scale > 1 else min(side, len(alpha))
    return data_uri(image.resize((size, size), resampling))


def _grid(axes: _Axes, x_ticks: Sequence[tuple[float, str]], x_label: str, y_label: str) -> list[str]:
    parts = []
    for value in _ticks(axes.y0, axes.y1):
        at = axes.y(value)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(f'<text class="tick" x="{_LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{100 * value:g} %</text>')
    for value, text in x_ticks:
        at = axes.x(value)
        parts.append(
            f'<text class="tick" x="{at:.1f}" y="{_HEIGHT - _BOTTOM + 17}" text-anchor="middle">{escape(text)}</text>'
        )
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(f'<text class="axis" x="{middle}" y="{_HEIGHT - 6}" text-anchor="middle">{escape(x_label)}</text>')
    centre = (_TOP + _HEIGHT - _BOTTOM) / 2
    parts.append(
        f'<text class="axis" x="12" y="{centre}" text-anchor="middle" transform="rotate(-90 12 {centre})">{escape(y_label)}</text>'
    )
    return parts


def _ticks(low: float, high: float) -> list[float]:
    """Return three to six round values between ``low`` and ``high``."""
    rough = max(high - low, 1e-6) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(at * step, 10) for at in range(first, math.floor(high / step + 1e-9) + 1)]


def _svg(parts: Sequence[str], title: str) -> Markup:
    body = "".join(parts)
    return Markup(
        f'<svg class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)}">{body}</svg>'
    )
