"""The command ``featstore failures``: its options and its output."""

from __future__ import annotations

from collections import Counter

import click

from featstore.cli.output import CsvRows, columns, json_option, show
from featstore.text import counted, printable

_LISTED = 20


@click.command()
@click.argument("store", type=click.Path())
@click.option(
    "--csv",
    "as_csv",
    is_flag=True,
    help="All failures as CSV: key, reason, message; a text that a spreadsheet would read as a formula gets an apostrophe.",
)
@json_option
def failures(store: str, as_json: bool, as_csv: bool) -> None:
    """List the pictures of STORE that have no vector because they could not be read, grouped by reason.

    \b
    Examples:
      featstore failures my.store
      featstore failures my.store --csv > failures.csv
      featstore extract pictures/ my.store --retry-failures
    """
    from featstore.stages.failures import list_failures

    found = list_failures(store)
    if as_csv:
        rows = CsvRows()
        rows.write("key", "reason", "message")
        for key, failure in found:
            rows.write(key, failure.reason, failure.message)
        return
    reasons = Counter(failure.reason for _, failure in found)
    value = {
        "failures": len(found),
        "reasons": dict(reasons.most_common()),
        "images": [
            {"key": printable(key), "id": failure.id, "reason": failure.reason, "message": failure.message}
            for key, failure in found
        ],
    }
    lines = [f"{store}: {counted(len(found), 'failure')}"]
    if found:
        lines.append(columns([(count, reason) for reason, count in reasons.most_common()], ("images", "reason")))
        lines += [printable(f"{key}: {failure.reason}: {failure.message}") for key, failure in found[:_LISTED]]
        if len(found) > _LISTED:
            lines.append(f"... and {len(found) - _LISTED:,} more (--csv or --json lists all)")
    show(value, "\n".join(lines), as_json)
