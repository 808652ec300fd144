"""Set labels, splits and metadata of a store's pictures from a table."""

from __future__ import annotations

import os
from dataclasses import replace
from itertools import islice
from pathlib import Path

from featstore.errors import UsageError
from featstore.sources.base import NoLabel, label_text, without_dot
from featstore.sources.table import doubts, find_columns, no_label_message
from featstore.sources.tabular import CsvTable, Table, names_of_columns, open_table, scalar
from featstore.sources.tally import Tally
from featstore.store import tables
from featstore.store.label_history import Version, label_history, undo_label
from featstore.store.labels import LabelReport, NoKeyKnown, known_keys, set_columns
from featstore.text import counted, shown, to_bytes

__all__ = ["LabelReport", "Version", "label", "label_history", "undo_label"]

_TRIED = 1000
"""Number of rows of a table that are searched for a better key column if no key is in the store."""


def label(
    store: str | os.PathLike[str],
    table: str | os.PathLike[str],
    *,
    key_column: str | None = None,
    label_column: str | None = None,
    split_column: str | None = None,
) -> LabelReport:
    """Set labels, splits and metadata of a store's pictures from a CSV, TSV or Parquet ``table``.

    ``key_column``: by default the first column with a usual name: id or key, otherwise path, file, ... (see
    featstore.sources.table). ``label_column`` and ``split_column`` are also found by usual names; "" means none. All
    other columns become metadata. An empty label or split means that the picture has none. Keys are matched as in
    set_columns. Raises UsageError if there is no key column, a key is duplicate or no key is in the store, a label is a
    list or a struct, or a column's name looks misspelt.
    """
    opened = open_table(Path(table))
    columns = find_columns(opened, id_column=key_column, label_column=label_column, split_column=split_column)
    key = columns.id or columns.path
    if key is None:
        raise UsageError(
            f"{table}: has no column of keys; name it with --key-column: the columns are {names_of_columns(opened)}"
        )
    named = {tables.LABEL: columns.label, tables.SPLIT: columns.split}
    names = [name for name in opened.columns if name not in (key, columns.label, columns.split)]
    at = {name: position for position, name in enumerate(opened.columns)}
    values: dict[str, list[tables.Value]] = {name: [] for name in names}
    values |= {name: [] for name, column in named.items() if column is not None}
    keys: list[bytes] = []
    for place, record in opened.records():
        value = record[at[key]]
        if value is None or value == "":
            raise UsageError(f"{table}: {place} has no key; fill it in or drop the row")
        keys.append(without_dot(value if isinstance(value, bytes) else to_bytes(str(value))))
        for name in names:
            values[name].append(scalar(record[at[name]]))
        for name, column in named.items():
            if column is not None:
                try:
                    values[name].append(label_text(record[at[column]]))
                except NoLabel as error:
                    raise UsageError(no_label_message(table, place, name, error)) from None
    if not values:
        raise UsageError(f"{table}: has keys and nothing else; add a column such as label or split")
    try:
        report = set_columns(store, keys, values, from_text=isinstance(opened, CsvTable))
    except NoKeyKnown as error:
        raise UsageError(f"{error}{_other_column(store, opened, key)}") from None
    tally = Tally()
    none = [None] * len(keys)
    tally.add(values.get(tables.LABEL, none), values.get(tables.SPLIT, none), len(keys))  # type: ignore[arg-type]
    rest = f"keys from the column {shown(key)!r}, " + (
        f"columns {', '.join(map(shown, names))}" if names else "no other columns"
    )
    read_as = tally.line(
        f"the column {shown(columns.label or '')!r}", f"the column {shown(columns.split or '')!r}", rest
    )
    notes = [
        *doubts(opened, columns, label_column=label_column, split_column=split_column),
        *tally.notes("--label-column", whole=False),
    ]
    if columns.label is not None and None in values[tables.LABEL]:
        empty = values[tables.LABEL].count(None)
        notes.append(f"{counted(empty, 'row has', 'rows have')} an empty label: their pictures have none now")
    return replace(report, read_as=read_as, notes=[*report.notes, *notes])


def _other_column(store: str | os.PathLike[str], table: Table, key: str) -> str:
    """Return a hint for the error that no key of the table is in the store: the column that has such keys, or ""."""
    rows = [values for _, values in islice(table.records(), _TRIED)]
    for at, name in enumerate(table.columns):
        some = [
            row[at] if isinstance(row[at], bytes) else to_bytes(str(row[at]))
            for row in rows
            if isinstance(row[at], str | int | bytes)
        ]
        if name != key and some and known_keys(store, [without_dot(each) for each in some]):
            return f"; those of the column {shown(name)!r} are: use --key-column {shown(name)}"
    return ""
