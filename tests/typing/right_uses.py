"""Correct uses of the public API, in which a user's ``mypy --strict`` finds no error. This program is not run."""

from __future__ import annotations

from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
from numpy.typing import NDArray

import featstore


def extract(folder: Path) -> int:
    report = featstore.extract(folder, "s", backbone="resnet50", batch=16, units=(0, 2), root=None, stop=Event())
    report = featstore.extract("t.csv", "s", supervised=False, label_column="species", max_memory=1 << 30)
    return report.vectors + report.failures


def read(path: str) -> list[str]:
    with featstore.FeatureStore.open(path) as store:
        rows, dimension = store.shape
        assert (rows, dimension) == (len(store), store.dimension)
        features: NDArray[Any] = store.features("train")
        centred = features - features.mean(axis=0)
        first: str = store.keys[0]
        cats: list[str] = store.keys[store.labels == "cat"]
        some: list[str] = store.keys[np.array([3, 1])]
        found: NDArray[np.int64] = store.index_of([first, b"a.jpg"], missing="mark")
        place: Path = store.path_of(first, root="/mnt/pictures")
        print(centred.shape, found, place, store.identity.backbone, store.weights_name, store.columns)
        for block in store.blocks(rows=found):
            print(block.shape)
        return [*cats, *some, *store.keys[1:3]]


def learn(folder: str) -> dict[str, str]:
    trained = featstore.train("s", head="linear-svm", folds=3, class_weight="balanced")
    head: featstore.TrainedHead = featstore.load_head(Path(trained.path))
    embedder = featstore.ImageEmbedder("efficientnet_lite0")
    labels: NDArray[np.str_] = head.predict(embedder.transform([f"{folder}/a.jpg"]))
    print(labels, trained.report.accuracy)
    return {one.key: one.label or one.reason for one in featstore.predict(head, folder, batch=8)}


def look_up(path: Path) -> list[str]:
    built = featstore.index("s", recall=0.95, at=10, latency=0.02)
    index = featstore.FeatureIndex.open(built.path)
    scores, ids = index.search(np.zeros((1, index.dimension), np.float32), 5)
    print(scores, index.keys_of(ids), None if index.identity is None else index.identity.dtype)
    report = featstore.search(
        built.path, path, like=featstore.Query(keys=["a.jpg"]), where="label == 'cat'", k=3, engine="torch", workers=2
    )
    return [neighbour.key for query in report.queries for neighbour in query.neighbours]


def care(path: str) -> str:
    try:
        groups = featstore.find_duplicates(path, threshold=0.9).groups
        first: str = featstore.units(path, [121, 7], n=5, least=True, where="label == 'cat'").units[0].most[0].key
        featstore.units(path, head=Path("a.head"), class_name="cat", count=3).to_dict()
        featstore.label(path, "labels.csv", key_column="file")
        problems = featstore.verify(path).problems or featstore.repair(path, set_aside=True).notes
        purged = featstore.compact(path).purged
    except (featstore.UsageError, featstore.DamagedError, featstore.IdentityError) as error:
        return str(error)
    except featstore.FeatstoreError:
        raise
    return f"{featstore.__version__} {len(groups)} {first} {problems} {purged} {featstore.info(path)['vectors']}"
