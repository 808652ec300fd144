"""featstore label."""

from __future__ import annotations

import click

from featstore.cli.output import json_option, show
from featstore.text import counted, printable


@click.command()
@click.argument("store", type=click.Path())
@click.argument("table", type=click.Path())
@click.option("--key-column", help="The column with the pictures' keys (default: id, key, path, file, ...).")
@click.option("--label-column", help="The column with the labels (default: label, class, ...); '' for none.")
@click.option("--split-column", help="The column with the splits (default: split, subset, ...); '' for none.")
@json_option
def label(
    store: str, table: str, as_json: bool, key_column: str | None, label_column: str | None, split_column: str | None
) -> int:
    """Set labels, splits and metadata of the pictures of STORE from TABLE (CSV, TSV or Parquet); no vector is touched.

    Keys of TABLE that are not in STORE are listed, and the exit code is then 1; the other pictures are labelled.

    \b
    Examples:
      featstore label my.store labels.csv
      featstore label my.store labels.parquet --key-column file --label-column species
    """
    from featstore.stages.label import label as run

    report = run(store, table, key_column=key_column, label_column=label_column, split_column=split_column)
    lines = [
        f"{store}: {report.matched:,} of {counted(report.rows, 'row')} matched; columns {', '.join(map(printable, report.columns))} (version {report.version})",
        f"read: {printable(report.read_as)}",
        *(f"note: {printable(note)}" for note in report.notes),
    ]
    if report.unknown:
        more = ", ..." if report.unknown > len(report.examples) else ""
        lines.append(
            f"{counted(report.unknown, 'key is', 'keys are')} not in the store: {', '.join(map(printable, report.examples))}{more}"
        )
    show(report.to_dict(), "\n".join(lines), as_json)
    return 1 if report.unknown else 0
