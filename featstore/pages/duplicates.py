"""The page of a store's duplicates, copies side by side; pairs of copies in different splits come first."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from featstore import defaults
from featstore.pages import parts
from featstore.pages.render import write_page
from featstore.store.pictures import Pictures
from featstore.store.thumbnails import thumbnail_of
from featstore.text import counted

if TYPE_CHECKING:
    from featstore.stages.duplicates import Copy, DuplicateReport, Group, SharedPicture

SHOWN = 200
"""Largest number of pairs, and also of groups, on a page; more would make the page too large to open."""
_MEASURED = (
    "Of photographs, with efficientnet_lite0, this threshold found 91 to 98 % of the copies at half size, 94 to 99 % of "
    "those recompressed as JPEG of quality 50, 96 to 99 % of those with 5 % cut off each side, but only 6 to 62 % of those "
    "at half size and quality 50: there may be more copies than are shown."
)
"""Text for the page: the share of copies that the default threshold finds, measured for each kind of copy."""
COPIES = 12
"""Largest number of pictures to show for a group of copies."""


def write_duplicates_page(
    report: DuplicateReport, path: str | os.PathLike[str], *, root: str | os.PathLike[str] | None = None
) -> list[str]:
    """Write the page of ``report``: pairs of copies in different splits, then groups of copies.

    ``root``: the present folder of the pictures, if they were moved. Returns the warnings of Pictures.notes() on
    pictures that were not found. Raises OSError if writing fails.
    """
    pictures = Pictures(report.store, root)
    leaks = [
        {
            "how": "equal bytes" if pair.equal else _figures(pair),
            "copies": [_shown(copy, pictures) for copy in (pair.one, pair.other)],
            "hidden": 0,
        }
        for pair in report.leaks[:SHOWN]
    ]
    groups = [
        {
            "how": group.kind,
            "copies": [_shown(copy, pictures, group) for copy in group.copies[:COPIES]],
            "hidden": max(0, len(group.copies) - COPIES),
        }
        for group in report.groups[:SHOWN]
    ]
    notes = [*report.notes, *pictures.notes()]
    for what, count in (("pairs between splits", len(report.leaks)), ("groups", len(report.groups))):
        if count > SHOWN:
            notes.append(f"the first {SHOWN:,} of {count:,} {what} are shown")
    write_page(
        path,
        "duplicates.html",
        {
            **parts.footer([report.store]),
            "title": f"Duplicates in {os.path.basename(os.path.abspath(report.store.path))}",
            "lead": f"Among the {counted(len(report.store), 'picture')} of {report.store.path}; near-duplicates have a centred "
            f"cosine (of features minus the store's mean) of at least {report.threshold:g}.",
            "notes": notes,
            "tiles": [
                (f"{report.equal_sets:,}", f"groups of equal bytes: {counted(report.equal_copies, 'picture')}"),
                (f"{report.near_groups:,}", "groups of near-duplicates"),
                (f"{report.surplus:,}", "surplus copies"),
                (f"{len(report.leaks):,}", "pairs between splits"),
            ],
            "leaking": [f"{counted(count, 'picture')} of {name}" for name, count in report.leaking.items()],
            "measured": _MEASURED if report.threshold == defaults.DUPLICATE_COSINE else "",
            "leaks": leaks,
            "groups": groups,
        },
    )
    return pictures.notes()


def _shown(copy: Copy, pictures: Pictures, group: Group | None = None) -> dict[str, Any]:
    """Return the values of one picture for the HTML template.

    ``group``: the picture's group of duplicates. None: the picture is one of a pair, whose cosines the page shows once,
    above both pictures.
    """
    figures = ""
    if group is not None:
        number = f" {copy.equal_bytes}" if group.equal_sets > 1 else ""
        figures = _figures(copy) if copy.equal_bytes is None else f"equal bytes{number}"
    return {
        "key": copy.key,
        "about": [value for value in (copy.label, copy.split) if value is not None],
        "figures": figures,
        "thumb": thumbnail_of(pictures, copy.key),
    }


def _figures(one: Copy | SharedPicture) -> str:
    return f"centred cosine {one.centred_cosine:.3f}, cosine {one.cosine:.3f}"
