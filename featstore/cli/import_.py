"""The command ``featstore import``: its options and its output."""

from __future__ import annotations

from typing import Any

import click

from featstore.cli.output import Bar, apart, json_option, show


@click.command("import")
@click.argument("vectors", nargs=-1, required=True, type=click.Path())
@click.argument("store", type=click.Path())
@click.option(
    "--identity",
    metavar="NAME",
    help="Name of the model that made the vectors; not needed for exports of featstore, which contain it.",
)
@click.option(
    "--keys",
    multiple=True,
    metavar="FILE|COLUMN",
    help="The keys: a list, .npy or table in the order of the vectors, or a column in VECTORS (default: a usual name).",
)
@click.option("--labels", multiple=True, metavar="FILE|COLUMN", help="The labels, given like the keys; '' for none.")
@click.option("--split-column", help="The column with the splits (default: split, subset, ...); '' for none.")
@click.option("--array", help="The name of the vectors inside VECTORS, if there are several.")
@click.option("--unit-rows", type=click.IntRange(1), help="Rows of a shard (default: 512 MiB of vectors).")
@click.option("--quiet", is_flag=True, help="Show no progress.")
@json_option
def import_(vectors: tuple[str, ...], store: str, quiet: bool, as_json: bool, **options: Any) -> int:
    """Write VECTORS that another program made (.npy, .npz, Parquet, HDF5, flat FAISS index) into STORE.

    Heads, indexes, duplicates and searches by key then work as on extracted features. What needs the network that made
    the vectors, such as a search by picture, is refused. Importing the same files again writes what is new or changed.

    \b
    Examples:
      featstore import clip.npy clip.store --keys paths.txt --identity openai/clip-vit-base-patch32
      featstore import img_emb/ clip.store --keys metadata_0.parquet --identity openai/clip-vit-base-patch32
      featstore import vectors.parquet my.store --keys image_path --labels species --identity my-network-v2
      featstore import global-feats-netvlad.h5 places.store --identity netvlad
      featstore import my.store.parquet copy.store           an export of featstore, with its identity
    """
    from featstore.stages.import_ import import_vectors as run

    with apart() as stream:
        bar = Bar(stream=stream)
        try:
            report = run(list(vectors), store, progress=None if quiet or as_json else bar, **options)
        finally:
            bar.close()
    show(report.to_dict(), report.text(), as_json)
    return 1 if report.pending else 0
