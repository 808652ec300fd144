"""LanceDB: the vectors of a store as a table of an embedded database, with labels, splits and metadata.

pip install lancedb
python pipelines/into_lancedb.py my.store vectors.lancedb --like ant/00.jpg
"""

from __future__ import annotations

import click
import lancedb
import pyarrow as pa

import featstore
from featstore.cli import run

INDEXED = 10_000
"""Number of rows from which a LanceDB index is built; with fewer rows LanceDB compares the query with every row."""


@click.command()
@click.argument("store", type=click.Path(exists=True))
@click.argument("database", type=click.Path())
@click.option("--table", default="pictures", show_default=True, help="Replaced if it is there.")
@click.option("--like", help="Show the pictures nearest to this key.")
def main(store: str, database: str, table: str, like: str | None) -> None:
    """Write STORE into a table of DATABASE, a folder."""
    with featstore.FeatureStore.open(store) as opened:
        rows = opened.to_arrow()
        batches = pa.RecordBatchReader.from_batches(rows.schema, rows.to_batches(max_chunksize=8192))
        made = lancedb.connect(database).create_table(table, data=batches, mode="overwrite")
        if len(opened) >= INDEXED:
            made.create_index(metric="cosine", vector_column_name="vector")
        click.echo(f"{database}: {made.count_rows():,} rows in {table}")
        if like is not None:
            query = opened.features(rows=opened.index_of([like]))[0]
            found = made.search(query, vector_column_name="vector").distance_type("cosine").limit(5).to_list()
            click.echo(f"{like}: " + ", ".join(f"{one['key']} ({1 - one['_distance']:.3f})" for one in found))


if __name__ == "__main__":
    run(main)
