"""PostgreSQL with pgvector: the vectors of a store as a table with an HNSW index.

The column is a ``halfvec``: pgvector indexes ``vector`` up to 2,000 dimensions only, ``halfvec`` up to 4,000.

pip install "psycopg[binary]" pgvector
python pipelines/into_pgvector.py my.store postgresql://localhost/pictures --like ant/00.jpg
"""

from __future__ import annotations

import click
import psycopg
from pgvector import HalfVector
from pgvector.psycopg import register_vector
from psycopg import sql

import featstore
from featstore.cli import run


@click.command()
@click.argument("store", type=click.Path(exists=True))
@click.argument("database")
@click.option("--table", default="pictures", show_default=True, help="Replaced if it is there.")
@click.option("--like", help="Show the pictures nearest to this key.")
def main(store: str, database: str, table: str, like: str | None) -> None:
    """Write STORE into a table of DATABASE, the address of a PostgreSQL server with pgvector."""
    name = sql.Identifier(table)
    with featstore.FeatureStore.open(store) as opened, psycopg.connect(database) as connection:
        connection.execute("create extension if not exists vector")
        register_vector(connection)
        connection.execute(sql.SQL("drop table if exists {}").format(name))
        columns = f"id bigint primary key, key text, label text, split text, vector halfvec({opened.dimension:d})"
        connection.execute(sql.SQL("create table {} (" + columns + ")").format(name))
        rows = opened.to_arrow().select(["id", "key", "label", "split", "vector"])
        command = sql.SQL("copy {} from stdin with (format binary)").format(name)
        with connection.cursor().copy(command) as copy:
            copy.set_types(["int8", "text", "text", "text", "halfvec"])
            for part in rows.to_batches(max_chunksize=1024):
                vectors = part["vector"].flatten().to_numpy().reshape(-1, opened.dimension)
                side = zip(*(part[column].to_pylist() for column in ("id", "key", "label", "split")), strict=True)
                for row, vector in zip(side, vectors, strict=True):
                    copy.write_row((*row, HalfVector(vector)))
        connection.execute(sql.SQL("create index on {} using hnsw (vector halfvec_cosine_ops)").format(name))
        click.echo(f"{table}: {len(opened):,} rows")
        if like is not None:
            query = HalfVector(opened.features(rows=opened.index_of([like]))[0])
            nearest = "select key, 1 - (vector <=> %s) from {} order by vector <=> %s limit 5"
            found = connection.execute(sql.SQL(nearest).format(name), (query, query)).fetchall()
            click.echo(f"{like}: " + ", ".join(f"{key} ({score:.3f})" for key, score in found))


if __name__ == "__main__":
    run(main)
