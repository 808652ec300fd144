"""Import vectors that other programs wrote, and check that they are searched and classified like featstore's own.

    python -m tests.slow.foreign PICTURES

PICTURES is a folder with a folder of pictures for each class. Writes files in the layouts of five programs: img2vec,
clip-retrieval, FAISS, hloc and numpy. If the program is installed, its own code writes the files (img2vec-pytorch;
clip-retrieval with fsspec; hloc with pycolmap and opencv-python); otherwise this script writes the same layout. img2vec
and hloc compute vectors with untrained networks; the other files hold vectors that featstore extracted.

Imports the files of each layout. Required: every key has the vector that was written; a search finds the pictures with
the largest cosines; and a head trained on the imported store gives the same labels and probabilities as a head trained
on these vectors in memory. The exit code is 1 if a requirement is missed.
"""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import sys
import tempfile
import types
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import faiss
import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from featstore.heads import load_head, train_head
from featstore.stages.extract import extract
from featstore.stages.import_ import import_vectors
from featstore.stages.index import index
from featstore.stages.label import label
from featstore.stages.queries import Query
from featstore.stages.search import search
from featstore.stages.train import train
from featstore.store import FeatureStore

K, QUERIES, C = 5, 20, 1.0
_TINY = """
import torch
from hloc.utils.base_model import BaseModel

class Tiny(BaseModel):
    default_conf = {}
    required_inputs = ["image"]

    def _init(self, conf):
        pass

    def _forward(self, data):
        small = torch.nn.functional.adaptive_avg_pool2d(data["image"], 8).flatten(1)
        return {"global_descriptor": torch.nn.functional.normalize(small, dim=1)}
"""


@dataclass
class Native:
    """A folder of n pictures, and what featstore extracted: ``keys`` (n), ``labels`` (n), ``vectors`` (n, d).

    ``table``: a CSV file with keys and labels.
    """

    pictures: Path
    keys: list[str]
    labels: list[str]
    vectors: NDArray[np.float32]
    table: Path


@dataclass
class Written:
    """The files of one layout. ``vectors`` (n, d): in the order of the pictures; ``by``: the program that wrote the
    files; ``options``: the options with which to import the files."""

    paths: list[Path]
    vectors: NDArray[Any]
    by: str
    options: dict[str, Any] = field(default_factory=dict)
    labelled: bool = True


def is_installed(*names: str) -> bool:
    return all(importlib.util.find_spec(name) is not None for name in names)


def img2vec(native: Native, place: Path) -> Written:
    """Write the array of vectors that img2vec returns by ``np.save``, as shown in the README of img2vec."""
    pictures = [Image.open(native.pictures / key).convert("RGB") for key in native.keys]
    by = "numpy, vectors made up"
    vectors = np.random.default_rng(0).standard_normal((len(pictures), 512)).astype(np.float32)
    if is_installed("img2vec_pytorch"):
        from torchvision.models import ResNet18_Weights, resnet18

        # Save untrained weights under the file name that img2vec would download, so that img2vec downloads nothing.
        hub = place / "hub"
        (hub / "checkpoints").mkdir(parents=True)
        torch.manual_seed(0)
        torch.save(resnet18().state_dict(), hub / "checkpoints" / os.path.basename(ResNet18_Weights.DEFAULT.url))
        torch.hub.set_dir(str(hub))
        from img2vec_pytorch import Img2Vec

        made = Img2Vec(model="resnet18")
        parts = [made.get_vec(pictures[start : start + 32]) for start in range(0, len(pictures), 32)]
        vectors, by = np.concatenate(parts), "img2vec-pytorch"
    np.save(place / "vectors.npy", vectors)
    return Written([place / "vectors.npy"], vectors, by, {"keys": native.table})


def clip_retrieval(native: Native, place: Path) -> Written:
    """Write img_emb/*.npy and metadata/*.parquet, the layout of clip-retrieval."""
    by = "pandas, as clip-retrieval does"
    metadata = [json.dumps({"label": name}) for name in native.labels]
    if is_installed("clip_retrieval", "fsspec"):
        # Import only the writer module of clip-retrieval: other modules need a CLIP model, a server and more.
        found = importlib.util.find_spec("clip_retrieval")
        file = Path(str(found and found.origin)).with_name("clip_inference") / "writer.py"
        spec = importlib.util.spec_from_file_location("clip_retrieval_writer", file)
        assert spec is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        writer = module.NumpyWriter(0, str(place), False, True, True, 1)
        for start in range(0, len(native.keys), 32):
            part = slice(start, start + 32)
            writer(
                {
                    "image_embs": native.vectors[part],
                    "image_filename": native.keys[part],
                    "metadata": metadata[part],
                }
            )
        writer.flush()
        by = "clip-retrieval"
    else:
        import pandas as pd

        (place / "img_emb").mkdir(parents=True)
        (place / "metadata").mkdir()
        np.save(place / "img_emb/img_emb_0.npy", native.vectors)
        rows = pd.DataFrame({"image_path": native.keys, "label": native.labels})
        rows.to_parquet(place / "metadata/metadata_0.parquet")
    (table,) = (place / "metadata").iterdir()
    return Written([place / "img_emb"], native.vectors, by, {"keys": table})


def flat_index(native: Native, place: Path) -> Written:
    made = faiss.IndexFlatIP(native.vectors.shape[1])
    made.add(native.vectors)
    faiss.write_index(made, str(place / "flat.index"))
    return Written([place / "flat.index"], native.vectors, "FAISS", {"keys": native.table})


def hloc(native: Native, place: Path) -> Written:
    """Write an HDF5 file with a group for each picture, the layout of hloc."""
    file = place / "global-feats-tiny.h5"
    by = "h5py, as hloc does"
    if is_installed("hloc", "cv2", "pycolmap"):
        from hloc import extract_features

        name = "hloc.extractors.tiny"
        sys.modules[name] = types.ModuleType(name)
        exec(_TINY, sys.modules[name].__dict__)
        conf = {"output": file.stem, "model": {"name": "tiny"}, "preprocessing": {"resize_max": 64}}
        extract_features.main(conf, native.pictures, place, image_list=native.keys)
        by = "hloc"
    else:
        with h5py.File(file, "w", libver="latest") as made:
            for key, vector in zip(native.keys, native.vectors, strict=True):
                group = made.create_group(key)
                group.create_dataset("global_descriptor", data=vector.astype(np.float16))
                group.create_dataset("image_size", data=np.array([4, 3]))
    with h5py.File(file, "r") as made:
        vectors = np.stack([made[key]["global_descriptor"][()] for key in native.keys])
    return Written([file], vectors, by, labelled=False)


def npz(native: Native, place: Path) -> Written:
    """Write vectors, paths and labels into one .npz file."""
    np.savez_compressed(place / "all.npz", embeddings=native.vectors, paths=native.keys, labels=native.labels)
    return Written([place / "all.npz"], native.vectors, "numpy")


def check(native: Native, written: Written, place: Path) -> list[str]:
    """Import the files of one layout; return which results (vectors, neighbours, labels, ...) are wrong."""
    store = place / "store"
    import_vectors(written.paths, store, identity="foreign", **written.options)
    if not written.labelled:
        label(store, native.table)
    opened = FeatureStore.open(store)
    rows = opened.index_of(native.keys)
    wrong = []
    if opened.features(rows=rows).tobytes() != written.vectors.tobytes():
        wrong.append("vectors")
    unit = written.vectors.astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    chosen = np.linspace(0, len(unit) - 1, QUERIES).astype(int).tolist()
    built = index(store)
    asked = search(built.path, like=Query(keys=[native.keys[at] for at in chosen]), k=K).queries
    for at, query in zip(chosen, asked, strict=True):
        scores = unit @ unit[at]
        scores[at] = -np.inf
        best = np.sort(scores)[::-1][:K]
        # Compare scores instead of keys, because pictures with equal scores may come in any order.
        found = [scores[native.keys.index(one.key)] for one in query.neighbours]
        if not np.allclose(found, best, atol=1e-5):
            wrong.append(f"neighbours of {native.keys[at]}")
    trained = train(store, C=C, out=place / "a.head")
    head, split = load_head(Path(trained.path)), trained.split
    direct = train_head(opened.features(rows=split.train), opened.labels[split.train].astype(str), C=C)
    held_out = opened.features(rows=split.test)
    if not np.allclose(head.predict_proba(held_out), direct.predict_proba(held_out), atol=1e-6):
        wrong.append("probabilities")
    if head.predict(held_out).tolist() != direct.predict(held_out).tolist():
        wrong.append("labels")
    if opened.labels[rows].tolist() != native.labels:
        wrong.append("classes")
    print(f"  accuracy {trained.report.accuracy.value:.3f} on {trained.report.rows} held-out pictures")
    return wrong


@click.command()
@click.argument("pictures", type=click.Path(exists=True, file_okay=False, path_type=Path))
def main(pictures: Path) -> None:
    """Check the import of the files of five programs and print the result; exit with 1 if a requirement is missed."""
    failed = False
    layouts: list[Callable[[Native, Path], Written]] = [img2vec, clip_retrieval, flat_index, hloc, npz]
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        extract(pictures, place / "native", backbone="efficientnet_lite0")
        opened = FeatureStore.open(place / "native")
        keys, labels = list(opened.keys), opened.labels.tolist()
        with open(place / "rows.csv", "w", newline="") as file:
            csv.writer(file).writerows([("path", "label"), *zip(keys, labels, strict=True)])
        native = Native(pictures, keys, labels, opened.features().astype(np.float32), place / "rows.csv")
        for layout in layouts:
            own = place / layout.__name__
            own.mkdir()
            written = layout(native, own)
            print(
                f"{layout.__name__}: {written.vectors.shape[0]} x {written.vectors.shape[1]}, written by {written.by}"
            )
            wrong = check(native, written, own)
            failed |= bool(wrong)
            print(f"  {'DIFFERENT: ' + ', '.join(wrong) if wrong else 'equal to native ones'}", flush=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
