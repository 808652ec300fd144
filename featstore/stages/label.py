"""The stage that labels a store from a table file."""

from __future__ import annotations

import os
from pathlib import Path

from featstore.errors import UsageError
from featstore.sources.base import label_text, without_dot
from featstore.sources.table import find_columns
from featstore.sources.tabular import CsvTable, open_table, scalar
from featstore.store import tables
from featstore.store.labels import LabelReport, set_columns


def label(
    store: str | os.PathLike[str],
    table: str | os.PathLike[str],
    *,
    key_column: str | None = None,
    label_column: str | None = None,
    split_column: str | None = None,
) -> LabelReport:
    """Set labels, splits and metadata of a store's pictures from a CSV, TSV or Parquet ``table``.

    The key column is the one named, else the first that is called id or key, else path, file, ... (see
    featstore.sources.table); label and split columns likewise; every other column becomes metadata. Empty labels
    and splits mean "none". Raises UsageError where there is no key column, a key is doubled or none is known.
    """
    opened = open_table(Path(table))
    columns = find_columns(opened, id_column=key_column, label_column=label_column, split_column=split_column)
    key = columns.id or columns.path
    if key is None:
        raise UsageError(
            f"{table}: has no column of keys; name it with --key-column: the columns are {', '.join(opened.columns)}"
        )
    at = {name: position for position, name in enumerate(opened.columns)}
    names = {name: name for name in opened.columns if name not in (key, columns.label, columns.split)}
    values: dict[str, list[tables.Value]] = {name: [] for name in names}
    for name in (tables.LABEL, tables.SPLIT):
        if getattr(columns, name) is not None:
            values[name] = []
    keys: list[bytes] = []
    for place, record in opened.records():
        value = record[at[key]]
        if value is None or value == "":
            raise UsageError(f"{table}: {place} has no key; fill it in or drop the row")
        keys.append(without_dot(value if isinstance(value, bytes) else os.fsencode(str(value))))
        for name in names:
            values[name].append(scalar(record[at[name]]))
        for name in (tables.LABEL, tables.SPLIT):
            column = getattr(columns, name)
            if column is not None:
                values[name].append(label_text(record[at[column]]))
    if not values:
        raise UsageError(f"{table}: has keys and nothing else; add a column such as label or split")
    return set_columns(store, keys, values, from_text=isinstance(opened, CsvTable))
