"""Use every command and the Python API in one process; test_watch.py runs this program in unusual environments.

``python surface.py PLACE all|few``: PLACE is an empty writable folder; "few" runs only the commands in FEW, which load
a network or use the cache, and their processes are fresh interpreters. One line is printed for each step.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from pathlib import Path

BACKBONE = "efficientnet_lite0"


FEW = ("extract", "train", "predict", "index", "search")


def verbs(place: Path, every: bool) -> None:
    """Run all commands of featstore on small data below ``place``; without ``every`` only those in FEW."""
    from featstore.cli import VERBS

    pictures, store = place / "pictures", place / "a.store"
    picture = str(pictures / "train/ant/00.png")
    table = place / "labels.csv"
    write_set(pictures)
    table.write_text("path,label,note\ntrain/ant/00.png,ant,first\n")
    fast = ["--rounds", "1", "--count", "4", "--engine", "torch"]
    small = ["--backbone", BACKBONE, "--size", "64"]
    calls = [
        # With --size, bench does not measure other programs such as torchvision. bench and extract come first, because
        # their processes are forks (see start_forks), and later commands start threads.
        ("bench", pictures, *small, *fast),
        ("extract", pictures, store, *small),
        ("extract", pictures, store, *small, "--in-process"),
        ("label", store, table),
        ("info", store),
        ("failures", store),
        ("export", store, "--to", "npy"),
        ("import", f"{store}.npy", place / "imported.store"),
        ("train", store, "--report", place / "training.html"),
        ("predict", f"{store}.logreg.head", picture, pictures),
        ("finetune", store, "--out", place / "a.model", "--epochs", "1", "--views", "1", "--cache", "none"),
        ("compare", "--transfer", store, "--methods", "mlp", "--seeds", "1", "--html", place / "compared.html"),
        ("index", store),
        ("search", f"{store}.faiss", picture, "--html", place / "search.html"),
        ("search", f"{store}.faiss", "--key", "train/ant/00.png"),
        ("duplicates", store, "--html", place / "duplicates.html"),
        ("units", store, "--head", f"{store}.logreg.head", "--class", "ant", "--html", place / "units.html"),
        ("verify", store),
        ("repair", store),
        ("compact", store),
        ("remove", store, "train/ant/01.png"),
        # Purge (erase all data of) a picture of the imported store. A purge of a.store would exit with code 1, because
        # HTML pages show pictures of a.store.
        ("remove", place / "imported.store", "train/ant/01.png", "--purge"),
        ("sample", "digits", place / "digits"),
        ("backbones",),
        ("demo", place / "demo", "--limit", "40"),
    ]
    assert {call[0] for call in calls} == set(VERBS), set(VERBS) ^ {call[0] for call in calls}
    if every:
        start_forks()
    for call in calls if every else [call for call in calls if call[0] in FEW]:
        run([os.fspath(part) for part in call])


def start_forks() -> None:
    """Import torch, and start the processes of bench and extract as forks, which then need not import torch.

    A fork inherits the audit hook of sitecustomize.py. The program with "few" starts fresh interpreters.
    """
    import torchvision  # noqa: F401  (with torch)

    from featstore.stages.bench import rounds, speed
    from featstore.stages.extract import supervisor
    from tests.warm import ForkedWorkers, call_in_fork

    rounds.apart = speed.apart = lambda function, arguments, what: call_in_fork(function, arguments)
    supervisor.subprocess = ForkedWorkers


def run(arguments: list[str]) -> None:
    """Run the featstore command in this process and print its exit code."""
    from featstore.cli import main

    print("verb", *arguments, file=sys.stderr, flush=True)
    try:
        main(arguments)
    except SystemExit as end:
        print("rc", end.code, *arguments, flush=True)


def surface(place: Path) -> None:
    """Use the Python API: ImageEmbedder in a pipeline, heads, a store, an index and all CPU engines."""
    import numpy as np
    from sklearn.pipeline import make_pipeline

    import featstore
    from featstore.heads import KernelSVMHead, KNNHead, LinearSVMHead, LogisticHead, MLPHead
    from featstore.indexes import FeatureIndex

    paths = sorted(map(os.fspath, (place / "pictures").rglob("*.png")))
    classes = [Path(path).parent.name for path in paths]
    pipeline = make_pipeline(featstore.ImageEmbedder(BACKBONE), LogisticHead())
    print("accuracy", pipeline.fit(paths, classes).score(paths, classes))
    store = featstore.FeatureStore.open(place / "a.store")
    features = np.asarray(store.features())
    for head in (LogisticHead(), LinearSVMHead(), KernelSVMHead(), KNNHead(), MLPHead()):
        print(type(head).__name__, head.fit(features, store.labels).score(features, store.labels))
    index = FeatureIndex.open(place / "a.store.faiss")
    print("neighbours", len(index.search(features[:1], 3)[1][0]))
    for engine in ("torch", "torch-folded", "openvino", "openvino-int8"):
        # A small size, because preparing openvino-int8 sends 64 pictures through the network.
        made = featstore.ImageEmbedder(BACKBONE, engine=engine, size=64, picture_fit="pad").fit_transform(paths[:2])
        print(engine, made.shape)


def write_set(folder: Path) -> None:
    """Write noisy pictures of two classes in two splits below ``folder``."""
    sys.path.insert(0, os.fspath(Path(__file__).resolve().parents[2]))
    from tests.chain import names, write_coloured

    write_coloured(folder, [*names("train", 8), *names("val", 4)])


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    state = (list(logging.getLogger().handlers), logging.getLogger().level, list(warnings.filters))
    verbs(folder, sys.argv[2] == "all")
    if sys.argv[2] == "all":
        surface(folder)
    after = (list(logging.getLogger().handlers), logging.getLogger().level, list(warnings.filters))
    print("root logger", "untouched" if after[:2] == state[:2] else after[:2])
