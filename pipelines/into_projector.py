"""TensorBoard's Embedding Projector: vectors and labels of a store as files that the projector shows.

python pipelines/into_projector.py my.store projector
tensorboard --logdir projector        or load both .tsv files at https://projector.tensorflow.org
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np

import featstore
from featstore.cli import run
from featstore.text import printable

CONFIG = """embeddings {{
  tensor_path: "vectors.tsv"
  tensor_shape: {rows}
  tensor_shape: {dimension}
  metadata_path: "metadata.tsv"
}}
"""


@click.command()
@click.argument("store", type=click.Path(exists=True))
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--rows",
    "most",
    default=10_000,
    show_default=True,
    help="At most so many, drawn at random: it is for some thousands.",
)
@click.option("--seed", default=0, show_default=True)
def main(store: str, folder: Path, most: int, seed: int) -> None:
    """Write vectors.tsv, metadata.tsv and projector_config.pbtxt of STORE into FOLDER."""
    folder.mkdir(parents=True, exist_ok=True)
    with featstore.FeatureStore.open(store) as opened:
        n = len(opened)
        chosen = np.sort(np.random.default_rng(seed).permutation(n)[:most])
        # Six digits are enough to restore every float16 value, and more than a plot of float32 values can show.
        np.savetxt(folder / "vectors.tsv", opened.features(rows=chosen), fmt="%.6g", delimiter="\t")
        keys, labels, splits = opened.keys, opened.labels[chosen], opened.splits[chosen]
        with open(folder / "metadata.tsv", "w", encoding="utf-8") as file:
            file.write("key\tlabel\tsplit\n")
            for row, label, split in zip(chosen.tolist(), labels, splits, strict=True):
                cells = (keys[row], label or "", split or "")
                # Replace tabs and newlines in names: they would begin another cell or row.
                file.write("\t".join(printable(cell) for cell in cells) + "\n")
        text = CONFIG.format(rows=len(chosen), dimension=opened.dimension)
        (folder / "projector_config.pbtxt").write_text(text)
    click.echo(f"{folder}: {len(chosen):,} of {n:,} rows; show them with: tensorboard --logdir {folder}")


if __name__ == "__main__":
    run(main)
