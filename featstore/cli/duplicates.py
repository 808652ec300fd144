"""featstore duplicates."""

from __future__ import annotations

from typing import Any

import click

from featstore import defaults
from featstore.cli.output import Bar, json_option, printable, show
from featstore.text import counted

_LISTED = 20


@click.command()
@click.argument("store", type=click.Path())
@click.option(
    "--threshold",
    type=click.FloatRange(0, 1, min_open=True),
    default=defaults.DUPLICATE_COSINE,
    show_default=True,
    help="Cosine of features, less their mean, from which two pictures are near-duplicates.",
)
@click.option("--html", type=click.Path(dir_okay=False), metavar="PAGE.html", help="Write a page with the pictures.")
@click.option("--root", type=click.Path(), help="Where the pictures are now, for the page, if they moved.")
@json_option
def duplicates(store: str, threshold: float, html: str | None, root: str | None, as_json: bool) -> None:
    """List the pictures that STORE has more than once: equal bytes, and near-duplicates by their features.

    Pictures that two splits share (leaks, which flatter figures on held-out pictures) are listed by themselves. The
    default threshold finds resized, recompressed and slightly cropped copies of photographs; pictures of one narrow kind
    (scans, digits) are all alike and need a higher one. The time grows with the square of the number of pictures.

    \b
    Examples:
      featstore duplicates my.store
      featstore duplicates my.store --html duplicates.html
      featstore duplicates my.store --threshold 0.95 --json | jq .surplus
    """
    from featstore.embed.progress import Progress
    from featstore.stages.duplicates import find_duplicates

    bar = Bar()
    try:
        report = find_duplicates(
            store, threshold=threshold, progress=None if as_json else lambda done, total: bar(Progress(done, total, 0))
        )
    finally:
        bar.close()
    if html is not None:
        from featstore.pages.duplicates import write_duplicates_page

        report.notes.extend(write_duplicates_page(report, html, root=root))
    show({**report.to_dict(), "page": html}, "\n".join(_lines(report, html)), as_json)


def _lines(report: Any, html: str | None) -> list[str]:
    equal = sum(group.equal for group in report.groups)
    lines = [
        f"{report.store.path}: {counted(len(report.store), 'picture')}; {counted(equal, 'group')} of equal bytes, "
        f"{counted(len(report.groups) - equal, 'group')} of near-duplicates (cosine of at least {report.threshold:g}); "
        f"{counted(report.surplus, 'surplus copy', 'surplus copies')}"
    ]
    if report.leaks:
        counts = ", ".join(f"{counted(count, 'picture')} of {name}" for name, count in report.leaking.items())
        lines.append(f"leaks: {counts} have a copy in another split")
    for pair in report.leaks[:_LISTED]:
        how = "equal bytes" if pair.equal else f"{pair.score:.4f}"
        lines.append(f"  {how}  {pair.one.key} ({pair.one.split})  {pair.other.key} ({pair.other.split})")
    lines += _more(len(report.leaks), "pairs")
    for number, group in enumerate(report.groups[:_LISTED], 1):
        lines.append(f"group {number}: {'equal bytes' if group.equal else 'near-duplicates'}")
        lines += [f"  {copy.score:.4f}  {copy.key}{_about(copy)}" for copy in group.copies[:_LISTED]]
        lines += _more(len(group.copies), "pictures")
    lines += _more(len(report.groups), "groups")
    lines += [f"note: {note}" for note in report.notes]
    if html is not None:
        lines.append(f"page: {html}")
    return [printable(line) for line in lines]


def _more(count: int, what: str) -> list[str]:
    return [f"  ... and {count - _LISTED:,} more {what} (--json lists all)"] if count > _LISTED else []


def _about(copy: Any) -> str:
    told = ", ".join(value for value in (copy.label, copy.split) if value is not None)
    return f"  ({told})" if told else ""
