"""Qdrant: the vectors of a store as a collection, in a folder or on a server.

pip install qdrant-client
python pipelines/into_qdrant.py my.store vectors.qdrant --like ant/00.jpg
python pipelines/into_qdrant.py my.store http://localhost:6333
"""

from __future__ import annotations

import click
from qdrant_client import QdrantClient, models

import featstore
from featstore.cli import run


@click.command()
@click.argument("store", type=click.Path(exists=True))
@click.argument("place")
@click.option("--collection", default="pictures", show_default=True, help="Replaced if it is there.")
@click.option(
    "--batch", type=click.IntRange(1), default=256, show_default=True, help="Rows a request; 64 to 256 are usual."
)
@click.option("--like", help="Show the pictures nearest to this key.")
def main(store: str, place: str, collection: str, batch: int, like: str | None) -> None:
    """Write STORE into a collection at PLACE, a folder or the address of a server."""
    client = QdrantClient(url=place) if "://" in place else QdrantClient(path=place)
    with featstore.FeatureStore.open(store) as opened:
        if client.collection_exists(collection):
            client.delete_collection(collection)
        size, half = opened.dimension, models.Datatype.FLOAT16
        config = models.VectorParams(size=size, distance=models.Distance.COSINE, datatype=half)
        client.create_collection(collection, vectors_config=config)
        rows = opened.to_arrow().select(["id", "key", "label", "split", "vector"])
        for part in rows.to_batches(max_chunksize=batch):
            vectors = part["vector"].flatten().to_numpy().reshape(-1, size)
            payloads = part.select(["key", "label", "split"]).to_pylist()
            points = models.Batch(ids=part["id"].to_pylist(), vectors=vectors.tolist(), payloads=payloads)
            client.upsert(collection, points)
        click.echo(f"{place}: {client.count(collection).count:,} points in {collection}")
        if like is not None:
            query = opened.features(rows=opened.index_of([like]))[0]
            found = client.query_points(collection, query.tolist(), limit=5).points
            click.echo(f"{like}: " + ", ".join(f"{one.payload['key']} ({one.score:.3f})" for one in found))
    client.close()


if __name__ == "__main__":
    run(main)
