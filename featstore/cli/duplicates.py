"""The command ``featstore duplicates``: its options and its output."""

from __future__ import annotations

from typing import Any

import click

from featstore import defaults
from featstore.cli.output import Bar, apart, json_option, show
from featstore.text import counted, printable

_LISTED = 20


@click.command()
@click.argument("store", type=click.Path())
@click.option(
    "--threshold",
    type=click.FloatRange(0, 1, min_open=True),
    default=defaults.DUPLICATE_COSINE,
    show_default=True,
    help="Centred cosine (of features minus the store's mean) from which two pictures are near-duplicates.",
)
@click.option("--within", is_flag=True, help="Also pair regions of one picture.")
@click.option("--html", type=click.Path(dir_okay=False), metavar="PAGE.html", help="Write a page with the pictures.")
@click.option("--root", type=click.Path(), help="Where the pictures are now, for the page, if they moved.")
@json_option
def duplicates(store: str, threshold: float, within: bool, html: str | None, root: str | None, as_json: bool) -> None:
    """List the pictures that STORE has more than once: equal bytes, and near-duplicates by their features.

    Copies in different splits (leaks, which make held-out figures too good) are listed separately. The time grows
    with the square of the number of pictures.

    Share of copies found, measured with efficientnet_lite0 on two sets of 398 and 2,000 photographs:

    \b
      kind of copy               found at 0.8      at 0.75
      another format, mirrored          100 %        100 %
      30 % brighter                      99 %         99 %
      5 % cut off each side        96 to 99 %  99 to 100 %
      JPEG of quality 50           94 to 99 %  97 to 100 %
      half size                    91 to 98 %   97 to 99 %
      10 % cut off each side       77 to 83 %   93 to 95 %
      JPEG of quality 20           39 to 88 %   68 to 95 %
      half size and quality 50      6 to 62 %   15 to 73 %
      groups that are no copies        0 to 2      0 to 11

    So a threshold of 0.75 suits a few thousand photographs if a person checks the result. Pictures of one narrow kind
    (scans, digits) are all similar and need more than 0.95.

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
            store,
            threshold=threshold,
            within=within,
            progress=None if as_json else lambda done, total: bar(Progress(done, total, 0)),
        )
    finally:
        bar.close()
    if html is not None:
        from featstore.pages.duplicates import write_duplicates_page

        with apart():
            report.notes.extend(write_duplicates_page(report, html, root=root))
    show({**report.to_dict(), "page": html}, "\n".join(_lines(report, html)), as_json)


def _lines(report: Any, html: str | None) -> list[str]:
    lines = [
        f"{report.store.path}: {counted(len(report.store), 'picture')}; {counted(report.equal_sets, 'group')} of equal bytes "
        f"({counted(report.equal_copies, 'picture')}), {counted(report.near_groups, 'group')} of near-duplicates "
        f"(centred cosine of at least {report.threshold:g}); {counted(report.surplus, 'surplus copy', 'surplus copies')}"
    ]
    if report.near_groups or any(not pair.equal for pair in report.leaks):
        lines.append("of each picture and its closest copy: centred cosine; cosine, as featstore search shows it")
    if report.leaks:
        counts = ", ".join(f"{counted(count, 'picture')} of {name}" for name, count in report.leaking.items())
        lines.append(f"leaks: {counts} have a copy in another split")
    for pair in report.leaks[:_LISTED]:
        how = _EQUAL if pair.equal else _figures(pair)
        lines.append(f"  {how}  {pair.one.key} ({pair.one.split})  {pair.other.key} ({pair.other.split})")
    lines += _more(len(report.leaks), "pairs")
    for number, group in enumerate(report.groups[:_LISTED], 1):
        lines.append(f"group {number}: {group.kind}")
        lines += [f"  {_how(copy, group)}  {copy.key}{_about(copy)}" for copy in group.copies[:_LISTED]]
        lines += _more(len(group.copies), "pictures")
    lines += _more(len(report.groups), "groups")
    lines += [f"note: {note}" for note in report.notes]
    if html is not None:
        lines.append(f"page: {html}")
    return [printable(line) for line in lines]


_EQUAL = "equal bytes   "
"""Text shown instead of the two cosines if a picture has the same bytes as another picture; padded to the width of two
cosines."""


def _figures(one: Any) -> str:
    return f"{one.centred_cosine:.4f}; {one.cosine:.4f}"


def _how(copy: Any, group: Any) -> str:
    if copy.equal_bytes is None:
        return _figures(copy)
    return _EQUAL if group.equal_sets == 1 else f"equal bytes {copy.equal_bytes:<2}"


def _more(count: int, what: str) -> list[str]:
    return [f"  ... and {count - _LISTED:,} more {what} (--json lists all)"] if count > _LISTED else []


def _about(copy: Any) -> str:
    told = ", ".join(value for value in (copy.label, copy.split) if value is not None)
    return f"  ({told})" if told else ""
