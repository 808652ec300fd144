"""featstore label."""

from __future__ import annotations

import click

from featstore.cli.output import json_option, printable, show
from featstore.text import counted


@click.command()
@click.argument("store", type=click.Path())
@click.argument("table", type=click.Path())
@click.option("--key-column", help="The column with the pictures' keys (default: id, key, path, file, ...).")
@click.option("--label-column", help="The column with the labels (default: label, class, ...).")
@click.option("--split-column", help="The column with the splits (default: split, subset, ...).")
@json_option
def label(
    store: str, table: str, as_json: bool, key_column: str | None, label_column: str | None, split_column: str | None
) -> None:
    """Set labels, splits and metadata of the pictures of STORE from TABLE (CSV, TSV or Parquet); no vector is touched.

    \b
    Examples:
      featstore label my.store labels.csv
      featstore label my.store labels.parquet --key-column file --label-column species
    """
    from featstore.stages.label import label as run

    report = run(store, table, key_column=key_column, label_column=label_column, split_column=split_column)
    text = f"{store}: {report.matched:,} of {counted(report.rows, 'row')} matched; columns {', '.join(map(printable, report.columns))} (version {report.version})"
    if report.unknown:
        text += f"\n{counted(report.unknown, 'key is', 'keys are')} not in the store: {', '.join(map(printable, report.examples))}{', ...' if report.unknown > len(report.examples) else ''}"
    show(report.to_dict(), text, as_json)
