"""featstore remove."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from featstore.cli.output import json_option, show
from featstore.text import counted, printable

if TYPE_CHECKING:
    from featstore.store.removal import Removal


@click.command()
@click.argument("store", type=click.Path())
@click.argument("keys", nargs=-1)
@click.option(
    "--where", metavar="EXPR", help="Also the pictures with a vector that meet a condition, as in featstore search."
)
@click.option("--from", "listed", type=click.Path(), metavar="FILE", help="Also the keys in FILE, one a line.")
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
@click.option("--restore", is_flag=True, help="Let the next featstore extract bring these removed pictures back.")
@json_option
def remove(
    store: str,
    keys: tuple[str, ...],
    where: str | None,
    listed: str | None,
    dry_run: bool,
    restore: bool,
    as_json: bool,
) -> None:
    """Remove the pictures KEYS from STORE: no result has them from now on, and extract does not bring them back.

    Unknown keys are refused, and then nothing is removed.

    \b
    Examples:
      featstore remove my.store cat/0001.jpg cat/0002.jpg
      featstore remove my.store --where "label == 'unusable'" --dry-run
      featstore remove my.store --from unwanted.txt
      featstore remove my.store cat/0001.jpg --restore
    """
    from featstore.stages.remove import keys_in
    from featstore.stages.remove import remove as run
    from featstore.stages.remove import restore as run_restore

    named: list[str | bytes] = [*keys, *(keys_in(listed) if listed is not None else [])]
    if not named and where is None:
        raise click.UsageError("name pictures: by KEYS, --from or --where")
    if restore:
        if where is not None or dry_run:
            raise click.UsageError("--restore takes KEYS or --from: removed pictures meet no --where")
        count = run_restore(store, named)
        text = f"{store}: {counted(count, 'picture')} may come back; the next featstore extract brings them"
        show({"store": store, "restored": count}, text, as_json)
        return
    report = run(store, named, where=where, dry_run=dry_run)
    show(report.to_dict(), "\n".join(_lines(store, report)), as_json)


def _lines(store: str, report: Removal) -> list[str]:
    more = ", ..." if report.removed > len(report.keys) else ""
    named = f" ({', '.join(map(printable, report.keys))}{more})" if report.keys else ""
    would = "would be removed" if report.dry_run else "removed"
    lines = [f"{store}: {counted(report.removed, 'picture')} {would}, {report.vectors:,} with a vector{named}"]
    if report.before:
        lines.append(f"{counted(report.before, 'picture was', 'pictures were')} removed before")
    if report.copies:
        more = ", ..." if report.copies > len(report.copied) else ""
        lines.append(
            f"note: {counted(report.copies, 'other picture has', 'other pictures have')} the same bytes and "
            f"{'stays' if report.copies == 1 else 'stay'}: {', '.join(map(printable, report.copied))}{more}"
        )
    if report.removed and not report.dry_run:
        lines.append("featstore extract leaves them out from now on (--restore lifts that)")
    return lines
