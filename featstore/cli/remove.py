"""The command ``featstore remove``: its options and its output."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from featstore.cli.output import json_option, show
from featstore.text import counted, printable

if TYPE_CHECKING:
    from featstore.stages.remove import PurgeReport
    from featstore.store.removal import Removal


@click.command()
@click.argument("store", type=click.Path())
@click.argument("keys", nargs=-1)
@click.option(
    "--where", metavar="EXPR", help="Also the pictures with a vector that meet a condition, as in featstore search."
)
@click.option("--from", "listed", type=click.Path(), metavar="FILE", help="Also the keys in FILE, one a line.")
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
@click.option("--restore", is_flag=True, help="Let the next featstore extract add these removed pictures again.")
@click.option(
    "--purge", is_flag=True, help="Also erase these and all removed pictures from the files, indexes and heads."
)
@click.option(
    "--also", multiple=True, type=click.Path(), metavar="PATH", help="With --purge: a head or index elsewhere."
)
@json_option
def remove(
    store: str,
    keys: tuple[str, ...],
    where: str | None,
    listed: str | None,
    dry_run: bool,
    restore: bool,
    purge: bool,
    also: tuple[str, ...],
    as_json: bool,
) -> int:
    """Remove the pictures KEYS from STORE: no later result contains them, and extract does not add them again.

    If a key is unknown, nothing is removed. Augmented views of STORE lose the pictures too.

    --purge erases the vectors, keys and labels of all removed pictures from the files of STORE, from its indexes and
    heads in the same folder, and from the indexes and heads given by --also. Files that may still contain removed
    pictures are listed, and the exit code is then 1. If a purge was killed, the same command continues it.

    \b
    Examples:
      featstore remove my.store cat/0001.jpg cat/0002.jpg
      featstore remove my.store --where "label == 'unusable'" --dry-run
      featstore remove my.store --from unwanted.txt
      featstore remove my.store cat/0001.jpg --restore
      featstore remove my.store cat/0001.jpg --purge --also elsewhere/my.faiss
      featstore remove my.store --purge                   erase the pictures removed earlier
    """
    from featstore.stages.remove import keys_in
    from featstore.stages.remove import purge as run_purge
    from featstore.stages.remove import remove as run
    from featstore.stages.remove import restore as run_restore

    named: list[str | bytes] = [*keys, *(keys_in(listed) if listed is not None else [])]
    if not named and where is None and not purge:
        raise click.UsageError("name pictures: by KEYS, --from or --where")
    if also and not purge:
        raise click.UsageError("--also names what --purge writes anew: add --purge, or leave it out")
    if purge and dry_run:
        raise click.UsageError("--dry-run tells what would be removed: leave out --purge")
    if restore:
        if where is not None or dry_run or purge:
            raise click.UsageError("--restore takes KEYS or --from, and no --where, --dry-run or --purge")
        count = run_restore(store, named)
        text = f"{store}: {counted(count, 'picture')} may come back with the next featstore extract"
        show({"store": store, "restored": count}, text, as_json)
        return 0
    if purge:
        done = run_purge(store, named, where=where, also=also)
        show(done.to_dict(), "\n".join(_purge_lines(store, done)), as_json)
        return 1 if done.left else 0
    report = run(store, named, where=where, dry_run=dry_run)
    show(report.to_dict(), "\n".join(_lines(store, report)), as_json)
    return 0


def _purge_lines(store: str, report: PurgeReport) -> list[str]:
    lines = _lines(store, report.removal)[
        : 1 + sum(map(bool, (report.removal.before, report.removal.gone, report.removal.copies)))
    ]
    lines.append(
        f"{store}: {counted(report.purged, 'row')} erased from its files; its denylist has digests of "
        f"{counted(report.denied, 'picture')}, so that extract does not bring them back"
    )
    lines += [f"erased from the view too: {printable(path)}" for path in report.views]
    lines += [f"written anew: {printable(path)}" for path in report.rewritten]
    lines += [
        f"note: {printable(path)} has the same pictures, and keeps them: featstore remove {printable(path)} KEYS --purge"
        for path in report.copies
    ]
    lines += [f"still there: {printable(path)}: {printable(why)}" for path, why in report.left]
    return lines


def _lines(store: str, report: Removal) -> list[str]:
    more = ", ..." if report.removed > len(report.keys) else ""
    named = f" ({', '.join(map(printable, report.keys))}{more})" if report.keys else ""
    would = "would be removed" if report.dry_run else "removed"
    lines = [f"{store}: {counted(report.removed, 'picture')} {would}, {report.vectors:,} with a vector{named}"]
    if report.before:
        lines.append(f"{counted(report.before, 'picture was', 'pictures were')} removed before")
    if report.gone:
        lines.append(
            f"{counted(report.gone, 'picture that had changed or vanished is', 'pictures that had changed or vanished are')} "
            "denied too; --purge erases what the files still have of them"
        )
    if report.copies:
        more = ", ..." if report.copies > len(report.copied) else ""
        lines.append(
            f"note: {counted(report.copies, 'other picture has', 'other pictures have')} the same bytes and "
            f"{'stays' if report.copies == 1 else 'stay'}: {', '.join(map(printable, report.copied))}{more}"
        )
    if (report.removed or report.gone) and not report.dry_run:
        lines.append("featstore extract leaves them out from now on (--restore lifts that)")
    return lines
