"""The command ``featstore units``: its options and its output."""

from __future__ import annotations

from typing import Any

import click

from featstore import defaults
from featstore.cli.output import apart, columns, json_option, show
from featstore.text import counted, percentage, printable


@click.command()
@click.argument("store", type=click.Path())
@click.option("--unit", "unit", type=int, multiple=True, metavar="NUMBER", help="A unit, counted from 0; repeatable.")
@click.option("--head", type=click.Path(), help="A linear head that was trained on these features; needs --class.")
@click.option("--class", "class_name", metavar="NAME", help="Show the units that speak most for this class of --head.")
@click.option(
    "--count",
    type=click.IntRange(1),
    default=defaults.UNITS_OF_CLASS,
    show_default=True,
    help="With --class and without --unit: number of units.",
)
@click.option(
    "--n",
    type=click.IntRange(1),
    default=defaults.UNIT_PICTURES,
    show_default=True,
    help="Number of pictures that activate a unit most.",
)
@click.option("--least", is_flag=True, help="Also show as many pictures that activate the unit least.")
@click.option("--where", metavar="CONDITION", help="Show only pictures that meet a condition (see featstore search).")
@click.option(
    "--html", type=click.Path(dir_okay=False), metavar="PAGE.html", help="Write a page that shows the pictures."
)
@click.option("--root", type=click.Path(), help="Where the pictures are now, for the page, if they moved.")
@json_option
def units(store: str, html: str | None, root: str | None, as_json: bool, **options: Any) -> None:
    """Show the pictures that activate units of the network most, from the stored features of STORE.

    A unit is an element of the vectors. In a store of activation maps (extract --pool none) a unit is a channel, its
    value is the maximum over the map, and the page shows the part of the picture at the maximum. The percentile is the
    percentage of all pictures whose value is smaller.

    With --head and --class: the units whose contribution to the class is largest, on average over its pictures:
    weight x (activation - mean activation of all pictures), summed over the cells of a map. A unit of a vector whose
    mean over the class is below the mean of all speaks for the class by being inactive. Only linear heads (logreg,
    linear-svm) have such weights.

    \b
    Examples:
      featstore units my.store --unit 121
      featstore units my.store --unit 121 --unit 7 --least --html units.html
      featstore units my.store --unit 121 --n 50 --where "split == 'test'" --json
      featstore units my.store --head my.store.logreg.head --class cat --html cat.html
    """
    from featstore.stages.units import units as run

    report = run(store, **options)
    notes = list(report.notes)
    if html is not None:
        from featstore.pages.units import write_units_page

        with apart():
            notes += write_units_page(report, html, root=root)
    show({**report.to_dict(), "notes": notes, "page": html}, "\n".join(_lines(report, notes, html)), as_json)


def _lines(report: Any, notes: list[str], html: str | None) -> list[str]:
    what = f"{counted(report.count, 'unit')} of {report.store.identity.layer}"
    lines = [f"{report.store.path}: {counted(len(report.store), 'picture')}, {what}"]
    if report.class_name is not None:
        lines.append(f"contribution: to the decision value of {report.class_name!r}, on average over its pictures")
    if report.where is not None:
        lines.append(f"{report.kept:,} of {len(report.store):,} pictures where {report.where}")
    lines = [printable(line) for line in lines]
    for one in report.units:
        adds = ""
        if one.contribution is not None:
            adds = f", of the class {one.class_mean:.4g}; contribution {one.contribution:+.4g}"
        lines.append(f"unit {one.unit}: {one.lowest:.4g} to {one.highest:.4g}, mean {one.mean:.4g}{adds}")
        for name, pictures in (("most", one.most), ("least", one.least)):
            if pictures:
                lines += [f"  {line}" for line in _table(name, pictures).split("\n")]
    lines += [printable(f"note: {note}") for note in notes]
    if html is not None:
        lines.append(printable(f"page: {html}"))
    return lines


def _table(name: str, pictures: list[Any]) -> str:
    """Return the table of the pictures at one end, ``name``; cells and labels are left out if no picture has one."""
    shown: list[tuple[str, list[str]]] = [
        ("value", [f"{one.value:.4g}" for one in pictures]),
        ("percentile", [percentage(one.percentile) for one in pictures]),
    ]
    if pictures[0].cell is not None:
        shown.append(("cell", [f"{one.cell[0]},{one.cell[1]}" for one in pictures]))
    if any(one.label is not None for one in pictures):
        shown.append(("label", [one.label or "" for one in pictures]))
    shown.append((name, [one.key for one in pictures]))
    return columns(list(zip(*(values for _, values in shown), strict=True)), tuple(title for title, _ in shown))
