"""The command ``featstore compact``: its argument and its output."""

from __future__ import annotations

import click

from featstore.cli.output import json_option, show, strangers
from featstore.text import counted


@click.command()
@click.argument("store", type=click.Path())
@json_option
def compact(store: str, as_json: bool) -> None:
    """Purge removed and replaced pictures from STORE, and merge its small shards. Ids and keys do not change.

    The history in STORE keeps the keys and dates of purged pictures, so that featstore can name the pictures if an
    earlier head was trained on them.

    \b
    Examples:
      featstore compact my.store
    """
    from featstore.stages.compact import compact as run

    report = run(store)
    text = (
        f"{store}: {counted(report.purged, 'row')} purged; {counted(report.shards_before, 'shard')} ({report.bytes_before / 2**20:,.1f} MiB) became "
        f"{report.shards_after:,} ({report.bytes_after / 2**20:,.1f} MiB), {report.shards_rewritten:,} of them written anew"
    )
    show(report.to_dict(), text + strangers(report.strangers), as_json)
