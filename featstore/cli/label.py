"""The command ``featstore label``: its options and its output."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from featstore.cli.output import json_option, show
from featstore.text import counted, printable

if TYPE_CHECKING:
    from featstore.stages.label import Version


@click.command()
@click.argument("store", type=click.Path())
@click.argument("table", type=click.Path(), required=False)
@click.option("--key-column", help="The column with the pictures' keys (default: id, key, path, file, ...).")
@click.option("--label-column", help="The column with the labels (default: label, class, ...); '' for none.")
@click.option("--split-column", help="The column with the splits (default: split, subset, ...); '' for none.")
@click.option("--history", is_flag=True, help="List the versions of the labels instead.")
@click.option("--undo", is_flag=True, help="Undo the last labelling instead, as a new version.")
@json_option
def label(store: str, table: str | None, as_json: bool, history: bool, undo: bool, **columns: str | None) -> int:
    """Set labels, splits and metadata of the pictures of STORE from TABLE (CSV, TSV or Parquet); no vector is touched.

    Keys of TABLE that are not in STORE are listed, and the exit code is then 1; the other pictures are labelled.

    Each labelling makes a new version of the labels. Earlier versions stay readable: FeatureStore.open(STORE,
    at=VERSION) in Python. --undo undoes the newest labelling that is not undone yet; --undo again undoes the labelling
    before that. Labels that came with the pictures stay.

    \b
    Examples:
      featstore label my.store labels.csv
      featstore label my.store labels.parquet --key-column file --label-column species
      featstore label my.store --history
      featstore label my.store --undo
    """
    from featstore.stages.label import label as run
    from featstore.stages.label import label_history, undo_label

    if (table is not None) + history + undo != 1:
        raise click.UsageError("name a TABLE, or one of --history and --undo")
    given = [name for name, value in columns.items() if value is not None]
    if table is None and given:
        raise click.UsageError(f"--{given[0].replace('_', '-')} is of a TABLE, and none is named")
    if history or undo:
        versions = [undo_label(store)] if undo else label_history(store)
        told = [each.to_dict() for each in versions]
        shown = "\n".join(map(_line, versions)) or f"{store}: no labels yet"
        show(told[0] if undo else {"store": store, "versions": told}, shown, as_json)
        return 0
    assert table is not None
    report = run(store, table, **columns)
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


def _line(version: Version) -> str:
    """Return the line that ``--history`` prints for one version of the labels."""
    columns = ", ".join(map(printable, version.columns)) or "no columns"
    what = f"{version.origin}: {columns} of {counted(version.rows, 'picture')}, {version.changed:,} changed"
    if version.reverts is not None:
        what = f"undo of version {version.reverts}: {columns}, {counted(version.changed, 'picture')} changed back"
    undone = f" (undone by version {version.undone_by})" if version.undone_by is not None else ""
    return f"{version.version:>4}  {version.created}  {what}{undone}"
