"""The page of a store's duplicates: copies side by side, those that two splits share first."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from featstore.pages import parts
from featstore.pages.render import write_page
from featstore.pages.thumbnails import thumbnail
from featstore.store.pictures import Pictures
from featstore.text import counted

if TYPE_CHECKING:
    from featstore.stages.duplicates import Copy, DuplicateReport

SHOWN = 200
"""Pairs, and groups, that one page shows; a page of more would be too large to open."""
COPIES = 12
"""Pictures of a group that are shown."""


def write_duplicates_page(
    report: DuplicateReport, path: str | os.PathLike[str], *, root: str | os.PathLike[str] | None = None
) -> list[str]:
    """Write the leaks and groups of ``report`` as a page at ``path``. ``root``: where the pictures are now, if they moved.

    Return Pictures.notes(). Raises OSError.
    """
    pictures = Pictures(report.store, root)
    equal = sum(group.equal for group in report.groups)
    leaks = [
        {
            "how": "equal bytes" if pair.equal else f"cosine {pair.score:.3f}",
            "copies": [_shown(copy, pictures) for copy in (pair.one, pair.other)],
            "hidden": 0,
        }
        for pair in report.leaks[:SHOWN]
    ]
    groups = [
        {
            "how": "equal bytes" if group.equal else "near-duplicates",
            "copies": [_shown(copy, pictures) for copy in group.copies[:COPIES]],
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
            **parts.footer(),
            "title": f"Duplicates in {os.path.basename(os.path.abspath(report.store.path))}",
            "lead": f"Among the {counted(len(report.store), 'picture')} of {report.store.path}; near-duplicates have a cosine of at "
            f"least {report.threshold:g}.",
            "notes": notes,
            "tiles": [
                (f"{equal:,}", "groups of equal bytes"),
                (f"{len(report.groups) - equal:,}", "groups of near-duplicates"),
                (f"{report.surplus:,}", "surplus copies"),
                (f"{len(report.leaks):,}", "pairs between splits"),
            ],
            "leaking": [f"{counted(count, 'picture')} of {name}" for name, count in report.leaking.items()],
            "leaks": leaks,
            "groups": groups,
        },
    )
    return pictures.notes()


def _shown(copy: Copy, pictures: Pictures) -> dict[str, Any]:
    return {
        "key": copy.key,
        "about": ", ".join(value for value in (copy.label, copy.split) if value is not None),
        "score": f"{copy.score:.3f}",
        "thumb": thumbnail(lambda: pictures(copy.key)),
    }
