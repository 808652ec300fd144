from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from featstore import pages
from featstore.pages.charts import (
    CURVES,
    confusion_drawing,
    heat_map,
    precision_recall,
    reliability_diagram,
    selection_curve,
)
from featstore.pages.drawing import CURVE_COLOURS
from featstore.pages.parts import CELLS, chosen_text, class_rows, confusion_matrix, footer
from featstore.pages.render import balanced, breakable, number, percent, seconds, write_page
from featstore.store.pictures import NoPicture
from featstore.store.thumbnails import SIDE, thumbnail
from tests.page_reading import read


def test_confusion_matrix_of_few_classes_is_shown_as_a_table():
    told = confusion_matrix(["a", "b", "c"], [[5, 1, 0], [0, 0, 0], [3, 0, 7]])
    cells = [[cell["count"] for cell in row["cells"]] for row in told["rows"]]
    assert cells == [[5, 1, 0], [0, 0, 0], [3, 0, 7]]
    assert told["pairs"][0] == {"truth": "c", "label": "a", "count": 3}
    assert [cell["kind"].split()[0] for cell in told["rows"][0]["cells"]] == ["right", "wrong", "zero"]
    assert told["heat"] is None


def test_confusion_matrix_of_many_classes_is_shown_as_a_heat_map():
    k = CELLS + 1
    told = confusion_matrix([f"c{n}" for n in range(k)], np.eye(k, dtype=int).tolist())
    assert told["rows"] == []
    assert told["heat"].startswith("data:image/png;base64,")
    assert heat_map(np.eye(2000, dtype=int).tolist()).startswith("data:image/png")


def test_title_of_a_confusion_cell_names_true_and_predicted_class():
    told = confusion_matrix(["a", "b"], [[999, 1], [0, 4]])
    titles = [cell["title"] for row in told["rows"] for cell in row["cells"]]
    assert titles == [
        "a known as a: 999 (99.9 %)",
        "a taken for b: 1 (0.1 %)",
        "b taken for a: 0 (0.0 %)",
        "b known as b: 4 (100.0 %)",
    ]


def colours(text, name):
    """Return the (r, g, b) values of a colour in the style sheet, for light and for dark mode."""
    found = re.findall(rf"--{name}: (#[0-9a-f]+|[0-9 ]+);", text)
    assert len(found) == 2
    return [
        tuple(map(int, value.split())) if value[0] != "#" else tuple(bytes.fromhex(value[1:].ljust(7, value[1])[:6]))
        for value in found
    ]


def contrast(one, other):
    """Return the contrast ratio of two colours, 1 to 21 (WCAG 2.2)."""

    def luminance(colour):
        linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in (c / 255 for c in colour)]
        return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_counts_in_confusion_cells_have_a_contrast_above_3():
    text = (Path(pages.__file__).parent / "templates" / "base.html").read_text()
    paper, ink = colours(text, "paper"), colours(text, "ink")
    for share in range(101):
        row = confusion_matrix(["a", "b"], [[share, 100 - share], [0, 0]])["rows"][0]["cells"]
        for cell, name in zip(row, ("blue", "red"), strict=True):
            for scheme, colour in enumerate(colours(text, name)):
                shade = float(cell["shade"])
                behind = [shade * c + (1 - shade) * p for c, p in zip(colour, paper[scheme], strict=True)]
                written = (255, 255, 255) if "deep" in cell["kind"] else ink[scheme]
                assert contrast(written, behind) > 3 or cell["count"] == 0


def test_large_confusion_matrix_page_says_which_cells_have_pictures(tmp_path):
    k = CELLS + 1
    shown = {
        (2, 3): {"id": "cell-2-3", "truth": "c2", "label": "c3", "right": False, "count": 1, "examples": []},
        (4, 4): {"id": "cell-4-4", "truth": "c4", "label": "c4", "right": True, "count": 5, "examples": []},
    }
    counts = 5 * np.eye(k, dtype=int)
    counts[2, 3] = 1
    matrix = confusion_matrix([f"c{n}" for n in range(k)], counts.tolist(), shown)
    values = {
        "title": "t",
        "heading": "h",
        "lead": "l",
        "tiles": [],
        "notes": [],
        "rows": 126,
        "samples": [],
        "errors": [],
    }
    values |= {"confusion": matrix, "queries": [], "heads": [], "steps": [], **footer()}
    write_page(tmp_path / "page.html", "demo.html", values)
    page = read(tmp_path / "page.html")
    assert "c2 taken for c3: 1" in page.text
    assert "c4 known as c4: 5" in page.text
    assert f"Of the {k + 1} cells that are not empty 2 have theirs here" in page.text


def test_class_table_lists_the_200_classes_with_the_lowest_f1():
    rows = [{"class": str(n), "f1": n / 1000} for n in range(500)]
    assert [row["class"] for row in class_rows({"classes": rows[::-1]})][:2] == ["0", "1"]
    assert len(class_rows({"classes": rows})) == 200


def test_plot_of_accuracy_by_C_marks_the_chosen_value():
    table = {"param_C": [0.1, 1.0, 1.0], "mean_accuracy": [0.8, 0.7, 0.9], "std_accuracy": [0.1, 0.1, 0.01]}
    svg = str(selection_curve(table, {"C": 1.0}).svg())
    assert svg.count("dot chosen") == 1
    assert "C = 1: 0.9000" in svg
    assert selection_curve(None, {}) is None
    assert selection_curve({"scoring": "accuracy"}, {}) is None
    # If the user gives C, only this value is tried, so there is no curve of accuracy by C.
    alone = {"param_C": [0.1], "mean_accuracy": [0.8], "std_accuracy": [0.1]}
    assert selection_curve(alone, {"C": 0.1}) is None


def test_plot_of_accuracy_by_C_has_a_curve_per_gamma():
    table = {
        "param_gamma": [0.5, 0.5, 2.0, 2.0],
        "param_C": [0.1, 1.0, 0.1, 1.0],
        "mean_accuracy": [0.5, 0.6, 0.8, 0.9],
        "std_accuracy": [0.01] * 4,
    }
    drawing = selection_curve(table, {"C": 1.0, "gamma": 2.0})
    svg = str(drawing.svg())
    assert svg.count("<polyline") == 2
    assert (svg.count('class="dot-0'), svg.count('class="dot-1"'), svg.count('class="dot-1 chosen"')) == (2, 1, 1)
    assert svg.count('class="bar"') == 2
    assert "gamma = 0.5</text>" in svg
    assert "gamma = 2 (chosen)</text>" in svg
    assert "C = 1, gamma = 2: 0.9000" in svg
    assert drawing.image().height > 3 * 270
    # With one value of C but several values of gamma, there was a choice, so the plot has a point for each.
    one = {name: values[1::2] for name, values in table.items()}
    assert str(selection_curve(one, {"C": 1.0, "gamma": 2.0}).svg()).count("<circle") == 2


def test_precision_recall_curves_have_distinct_colours_and_names():
    codes, names = np.arange(200) % CURVES, [f"class {place}" for place in range(CURVES)]
    drawing = precision_recall(codes, np.random.default_rng(0).dirichlet(np.ones(CURVES), 200), names)
    svg = str(drawing.svg())
    for place, name in enumerate(names):
        assert f'<polyline class="curve-{place}"' in svg
        assert f">{name}</text>" in svg
    assert len(set(CURVE_COLOURS)) == CURVES
    pixels = {colour for _, colour in drawing.image().getcolors(1 << 20)}
    assert set(CURVE_COLOURS) <= pixels


@pytest.mark.parametrize(
    ("name", "markup"),
    [
        ("train/cat/cat.128.jpg", 'train/<wbr>cat/<wbr><span class="ending">cat.128.jpg</span>'),
        (
            "a_long-name-of-a-picture.jpeg",
            'a_<wbr>long-<wbr>name-<wbr>of-<wbr>a-<wbr><span class="ending">picture.jpeg</span>',
        ),
        ("<b>&/x\n.png", '&lt;b&gt;&amp;/<wbr><span class="ending">x\\n.png</span>'),
        ("000000.another-format.png", '000000.another-<wbr><span class="ending">format.png</span>'),
        ("ab", '<span class="ending">ab</span>'),
        ("0123456789abcdef.png", '01234567<span class="ending">89abcdef.png</span>'),
        ("", '<span class="ending"></span>'),
    ],
)
def test_long_names_are_wrapped_after_folders_but_not_in_the_extension(name, markup):
    assert breakable(name) == markup


@pytest.mark.parametrize(("count", "columns"), [(1, 7), (7, 7), (8, 4), (10, 5), (14, 7), (20, 7), (24, 6), (0, 7)])
def test_number_of_columns_distributes_thumbnails_evenly_over_rows(count, columns):
    assert balanced(count) == columns


def test_reliability_diagram_omits_empty_bins():
    bins = [
        {"low": 0.0, "high": 0.5, "rows": 0, "confidence": None, "accuracy": None},
        {"low": 0.5, "high": 1.0, "rows": 9, "confidence": 0.8, "accuracy": 0.7},
    ]
    assert str(reliability_diagram(bins).svg()).count("<rect") == 1
    assert reliability_diagram(bins[:1]) is None


def test_chart_shows_class_names_of_any_bytes_on_one_line():
    name = os.fsdecode(b"two\nlines \xff<b>")
    for drawing in (
        confusion_drawing(["a", name], [[3, 1], [0, 2]]),
        precision_recall(np.array([0, 1, 2]), np.eye(3), ["a", "b", name]),
    ):
        assert drawing.image().size > (300, 300)
        svg = str(drawing.svg())
        svg.encode()
        assert "\n" not in svg
        assert "<b>" not in svg


def test_precision_recall_plot_shows_each_class_or_the_mean_of_many():
    random = np.random.default_rng(0)
    for classes, lines in ((2, 1), (5, 5), (CURVES + 1, 1)):
        codes = np.arange(200) % classes
        probabilities = random.dirichlet(np.ones(classes), 200)
        svg = str(precision_recall(codes, probabilities, [f"c{n}" for n in range(classes)]).svg())
        assert svg.count("<polyline") == lines
        # With two classes, only the second class has a curve; the labels of the axes contain its name.
        assert svg.count(" of c1</text>") == (2 if classes == 2 else 0)
    # A class without rows has no precision-recall curve. Here every prediction is right, so the precision is always 1.
    perfect = str(precision_recall(np.array([0, 1, 0, 1]), np.eye(3)[[0, 1, 0, 1]], ["a", "b", "none"]).svg())
    assert perfect.count("<polyline") == 2
    assert "none" not in perfect


def test_error_cells_of_a_large_confusion_matrix_are_links():
    k = CELLS + 1
    counts = np.eye(k, dtype=int)
    shown = {(2, 3): {"id": "cell-2-3", "truth": "c2", "label": "c3", "right": False, "count": 1, "examples": []}}
    told = confusion_matrix([f"c{n}" for n in range(k)], counts.tolist(), shown)
    assert [(spot["x"], spot["y"], spot["id"]) for spot in told["spots"]] == [(3, 2, "cell-2-3")]


def test_thumbnails_are_small_and_notes_replace_missing_pictures():
    large = thumbnail(lambda: Image.new("RGB", (4000, 100)))
    assert large.uri is not None
    assert large.uri.startswith("data:image/jpeg")
    assert not large.tiny
    assert len(large.uri) < 20 * SIDE
    assert thumbnail(lambda: Image.new("RGB", (8, 8))).tiny

    def gone() -> Image.Image:
        raise NoPicture("missing", "x.jpg: No such file")

    assert thumbnail(gone).note == "missing: x.jpg: No such file"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.98765, "98.8 %"),
        (None, "\u2013"),
        (float("nan"), "\u2013"),
        (1.0, "100.0 %"),
        (0.9998, "99.98 %"),
        (0.00004, "0.004 %"),
        (0.0, "0.0 %"),
        (1e-9, "0.0 %"),
    ],
)
def test_percentages_have_more_digits_near_0_and_100(value, text):
    assert percent(value) == text


def test_numbers_and_durations_are_formatted_for_pages():
    assert number(1234567) == "1,234,567"
    assert number(0.123456) == "0.1235"
    assert seconds(1.26) == "1.3 s"
    assert seconds(125.2) == "2 min 05 s"
    assert chosen_text({"C": 0.1, "n_neighbors": 5.0}) == "C = 0.1, neighbours = 5"
