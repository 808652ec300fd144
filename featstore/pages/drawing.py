"""A drawing of lines, bars, dots and texts, rendered as inline SVG for pages and as PNG for files.

Each element has a kind ("line", "bar", "bin", ...) instead of a colour; the page's style sheet gives each kind a colour
for light mode and one for dark mode.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from markupsafe import Markup, escape

from featstore.text import shown

if TYPE_CHECKING:
    from PIL import Image

Point = tuple[float, float]
Colour = tuple[int, int, int]

_PAPER: Final = (255, 255, 255)
_SOFT: Final = (100, 106, 115)
_INK: Final = (28, 30, 33)
_COLOURS: Final[dict[str, Colour]] = {
    "grid": (228, 229, 231), "ideal": (150, 155, 162), "line": (37, 99, 190),
    "bar": (146, 177, 222), "dot": (37, 99, 190), "bin": (37, 99, 190),
    "right": (37, 99, 190), "wrong": (207, 62, 50),
}  # fmt: skip
"""Colours in PNG files, by kind of element: the same colours as on the page in light mode."""
CURVE_COLOURS: Final[tuple[Colour, ...]] = (
    (37, 99, 190), (224, 123, 0), (22, 140, 80), (207, 62, 50), (140, 92, 220), (142, 96, 62),
    (222, 80, 150), (120, 126, 136), (150, 150, 20), (20, 150, 175), (90, 130, 240), (190, 150, 90),
)  # fmt: skip
"""Colours of the curves "curve-0", "curve-1", ... and of their dots; visible on white and on black."""
_SCALE: Final = 3
"""Number of pixels in a PNG file for one unit of length in a drawing."""
_FONT: Final = 11


@dataclass(frozen=True)
class _Mark:
    shape: str
    kind: str
    at: tuple[float, ...]
    text: str = ""
    title: str = ""
    strength: float = 1.0
    anchor: str = "middle"
    turned: bool = False


@dataclass
class Drawing:
    """Lines, boxes, dots and texts on an area of ``width`` x ``height`` units, y downwards; ``title`` describes it."""

    width: float
    height: float
    title: str
    _marks: list[_Mark] = field(default_factory=list)

    def line(self, kind: str, start: Point, end: Point) -> None:
        """Add a straight line from ``start`` to ``end`` to the drawing."""
        self._marks.append(_Mark("line", kind, (*start, *end)))

    def path(self, kind: str, points: Sequence[Point], title: str = "") -> None:
        """Add a line through ``points`` to the drawing."""
        self._marks.append(_Mark("path", kind, tuple(value for point in points for value in point), title=title))

    def box(self, kind: str, corner: Point, size: Point, title: str = "", strength: float = 1.0) -> None:
        """Add a filled rectangle with its upper left ``corner``; ``strength``: opacity."""
        self._marks.append(_Mark("box", kind, (*corner, *size), title=title, strength=strength))

    def dot(self, kind: str, centre: Point, radius: float, title: str = "") -> None:
        """Add a circle; the circle is filled if ``kind`` contains "chosen"."""
        self._marks.append(_Mark("dot", kind, (*centre, radius), title=title))

    def write(self, kind: str, at: Point, text: str, anchor: str = "middle", *, turned: bool = False) -> None:
        """Add a text whose baseline has its ``anchor`` ("start", "middle" or "end") at the point ``at``.

        ``turned``: the text is written from bottom to top.
        """
        self._marks.append(_Mark("text", kind, at, text, anchor=anchor, turned=turned))

    def svg(self) -> Markup:
        """Return the drawing as inline SVG."""
        body = "".join(map(_svg, self._marks))
        return Markup(
            f'<svg class="chart" viewBox="0 0 {self.width:g} {self.height:g}" role="img" '
            f'aria-label="{escape(self.title)}">{body}</svg>'
        )

    def image(self) -> Image.Image:
        """Return the drawing as a PIL image on white."""
        from PIL import Image, ImageDraw, ImageFont

        sheet = Image.new("RGB", (round(self.width * _SCALE), round(self.height * _SCALE)), _PAPER)
        pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(_FONT * _SCALE)
        for mark in self._marks:
            at = tuple(value * _SCALE for value in mark.at)
            if mark.shape == "text":
                _write(sheet, font, at, mark)
            else:
                _draw(pen, at, mark)
        return sheet


def _svg(mark: _Mark) -> str:
    at, title = mark.at, f"<title>{escape(shown(mark.title))}</title>" if mark.title else ""
    if mark.shape == "line":
        return f'<line class="{mark.kind}" x1="{at[0]:.1f}" y1="{at[1]:.1f}" x2="{at[2]:.1f}" y2="{at[3]:.1f}"/>'
    if mark.shape == "path":
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(at[::2], at[1::2], strict=True))
        return f'<polyline class="{mark.kind}" points="{points}">{title}</polyline>'
    if mark.shape == "box":
        return (
            f'<rect class="{mark.kind}" x="{at[0]:.1f}" y="{at[1]:.1f}" width="{at[2]:.1f}" height="{at[3]:.1f}" '
            f'fill-opacity="{mark.strength:.2f}">{title}</rect>'
        )
    if mark.shape == "dot":
        return f'<circle class="{mark.kind}" cx="{at[0]:.1f}" cy="{at[1]:.1f}" r="{at[2]:g}">{title}</circle>'
    turn = f' transform="rotate(-90 {at[0]:.1f} {at[1]:.1f})"' if mark.turned else ""
    return (
        f'<text class="{mark.kind}" x="{at[0]:.1f}" y="{at[1]:.1f}" text-anchor="{mark.anchor}"{turn}>'
        f"{escape(shown(mark.text))}</text>"
    )


def _colour(kind: str) -> Colour:
    """Return the colour for a kind of element, such as "line", "dot chosen", "curve-3" or "dot-3 chosen"."""
    name, _, number = kind.removesuffix(" chosen").partition("-")
    return CURVE_COLOURS[int(number)] if number else _COLOURS[name]


def _draw(pen: Any, at: tuple[float, ...], mark: _Mark) -> None:
    colour = _colour(mark.kind)
    if mark.shape == "line":
        pen.line(at, fill=colour, width=_SCALE if mark.kind in ("grid", "ideal") else 2 * _SCALE)
    elif mark.shape == "path":
        pen.line(at, fill=colour, width=2 * _SCALE, joint="curve")
    elif mark.shape == "box":
        faint = tuple(round(mark.strength * value + (1 - mark.strength) * 255) for value in colour)
        pen.rectangle((at[0], at[1], at[0] + at[2], at[1] + at[3]), fill=faint)
    else:
        x, y, radius = at
        fill = colour if "chosen" in mark.kind else _PAPER
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill, outline=colour, width=2 * _SCALE)


def _write(sheet: Image.Image, font: Any, at: tuple[float, ...], mark: _Mark) -> None:
    """Draw a text. Pillow can rotate images but not texts, so the text is first drawn as an image."""
    from PIL import Image, ImageDraw

    text = shown(mark.text)
    width, high = max(1, round(font.getlength(text))), 2 * _FONT * _SCALE
    mask = Image.new("L", (width, high), 0)
    base = round(0.7 * high)
    ImageDraw.Draw(mask).text((0, base), text, fill=255, font=font, anchor="ls")
    before = {"start": 0, "middle": width // 2, "end": width}[mark.anchor]
    corner = (round(at[0]) - before, round(at[1]) - base)
    if mark.turned:
        mask = mask.transpose(Image.Transpose.ROTATE_90)
        corner = (round(at[0]) - base, round(at[1]) - (width - before))
    sheet.paste(Image.new("RGB", mask.size, _INK if mark.kind in ("count", "legend") else _SOFT), corner, mask)
