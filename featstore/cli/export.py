"""The command ``featstore export``: its options and its output."""

from __future__ import annotations

from typing import Any

import click

from featstore.cli.network import own_backbone_option, trust_option
from featstore.cli.output import Bar, apart, json_option, show


@click.command()
@click.argument("path", type=click.Path())
@click.option(
    "--to", metavar="FORMAT", help="Of a store: parquet (default), npy or csv. Of a head or model: onnx or sklearn."
)
@click.option("--onnx", "to", flag_value="onnx", help="The same as --to onnx.")
@click.option("--sklearn", "to", flag_value="sklearn", help="The same as --to sklearn.")
@click.option("--features-only", is_flag=True, help="Of a head: without the network, from features.")
@click.option("--weights", help="The file or model folder of the network's weights, if they are not published ones.")
@trust_option
@own_backbone_option
@click.option("--out", type=click.Path(), help="A folder for a store, a file for a head (default: beside PATH).")
@click.option("--quiet", is_flag=True, help="Show no progress.")
@json_option
def export(path: str, quiet: bool, as_json: bool, **options: Any) -> None:
    """Write the store, head or model at PATH in a format of other programs.

    A store is exported to a folder in one of three formats: Parquet (one file for each unit, a group of pictures), one
    NumPy array with a table of the other columns, or CSV. Keys, labels, splits, metadata, checksums of the pictures and
    the identity of the features go with the vectors. CSV keeps every text unchanged, even a text such as =1+1, which a
    spreadsheet would read as a formula. If an export was stopped, the same command continues it. If a store has changed
    since its last export to Parquet, only the files that change are written.

    A head or a model becomes one ONNX file with its network and preprocessing: decoded pixels in, label and probabilities out. The
    file is checked on synthetic pictures before it is kept. For scikit-learn, a head becomes an estimator that joblib
    loads.

    \b
    Examples:
      featstore export my.store                      my.store.parquet/*.parquet, for DuckDB, Polars, Spark
      featstore export my.store --to npy --out v     v/vectors.npy, memory-mappable, and v/rows.parquet
      featstore export my.store --to csv             my.store.csv/rows.csv
      featstore export my.store.logreg.head --onnx   my.store.logreg.head.onnx: pixels in, label and probabilities out
      featstore export a.head --onnx --features-only
      featstore export a.head --sklearn              a.head.joblib
      featstore export my.model                      my.model.onnx
    """
    from featstore.stages.export import export as run

    with apart() as stream:
        bar = Bar(stream=stream)
        try:
            made = run(path, progress=None if quiet or as_json else bar, **options)
        finally:
            bar.close()
    show(made.to_dict(), made.text(), as_json)
