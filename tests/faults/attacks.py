"""Run every command on forged stores, heads, indexes and files of other programs, and report harm.

A forged file is a file that an attacker changed, with valid checksums.

Each command runs in a fork of this process, on a copy of the forged files. inotify watches a folder of the user's own
files, which no command may change.
"""

from __future__ import annotations

import contextlib
import importlib
import itertools
import os
import shlex
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import faiss
import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from featstore import cli
from featstore.artifacts import open_head
from featstore.artifacts.model import write_model
from featstore.backbones import load_backbone
from featstore.indexes.files import pair
from featstore.store import FeatureStore
from tests.faults.attacked import FOLDER, MADE, NETWORK, REFUSED, VERBS
from tests.faults.building import NAMES
from tests.faults.changes import MODULE
from tests.faults.forging import Forger
from tests.faults.sandbox import Ground, run_in_fork, run_verb, states, watched
from tests.made import write_pictures


def prepare(folder: Path, kinds: Sequence[str] = tuple(VERBS)) -> Ground:
    """Make the files to attack: a user's folder, and an intact store, head, index and files of other programs.

    Stores record absolute paths, so all files are made at ``folder``, where each attack will run, and then moved to the
    returned folder. Only forks run torch: after torch has started threads in this process, forks of it could not use
    torch. This process only imports the modules that commands need, so that each fork starts fast.
    """
    ground, master = Ground(folder), Ground(folder.with_name(f"{folder.name}-master"))
    run_in_fork(lambda: _make(ground, kinds))
    shutil.copytree(ground.folder, master.folder)
    modules = run_in_fork(lambda: _try(ground, kinds))
    shutil.rmtree(ground.folder)
    for name in modules:
        with contextlib.suppress(Exception):
            importlib.import_module(name)
    return master


def _run(ground: Ground, verb: str) -> None:
    """Run the command ``verb`` on intact files in this process; raise AssertionError if it fails."""
    try:
        cli.main(shlex.split(verb))
    except SystemExit as error:
        # Exit code 1 is expected: one picture in the folder cannot be read.
        if error.code not in (None, 0, 1) and verb not in REFUSED:
            raise AssertionError(f"{verb} on intact files: exit code {error.code}") from None


def _try(ground: Ground, kinds: Sequence[str]) -> None:
    os.chdir(ground.theirs)
    torch.set_num_threads(1)
    # Run commands that change nothing first, and commands that remove rows last, because the others need these rows.
    order = [
        (bool(changes), verb.startswith("remove"), kind, verb)
        for kind in kinds
        for verb, changes in VERBS[kind].items()
    ]
    for _, verbs in itertools.groupby(sorted(order, key=lambda one: one[:3]), key=lambda one: one[:3]):
        shutil.rmtree(ground.out)
        ground.out.mkdir()
        for *_, verb in verbs:
            _run(ground, verb)


def _make(ground: Ground, kinds: Sequence[str]) -> None:
    (ground.home / "documents").mkdir(parents=True)
    for name in ("letter.txt", "documents/work.h5", "documents/epoch-0001.json"):
        (ground.home / name).write_bytes(b"mine " * 2000)
    (ground.home / "labels.csv").write_text("path,label\ncat/00.png,dog\ndog/01.png,cat\n")
    (write_pictures(ground.home / "pictures", NAMES) / "cat/bad.jpg").write_bytes(b"no picture")
    ground.out.mkdir()
    ground.theirs.mkdir()
    os.chdir(ground.theirs)
    torch.set_num_threads(1)
    for verb in (
        f"extract {FOLDER} store --unit-rows 6 {NETWORK.format(0)}",
        "label store ../home/labels.csv",
        "train store --out a.head --C 1 --folds 2",
        "index store --out an.index",
        "export store --out a.parquet",
        "export store --to npy --out an.export",
    ):
        _run(ground, verb)
    with FeatureStore.open("store") as store:
        vectors, keys = store.features(), [str(key) for key in store.keys]
    (ground.home / "keys.txt").write_text("\n".join(keys))
    _write_vectors(ground.theirs / "vectors", vectors, keys)
    (ground.theirs / "named").mkdir()
    for verb in (verb for kind in kinds for verb in MADE.get(kind, ())):
        _run(ground, verb)
    if "named" in kinds:
        shutil.copy2(ground.theirs / "named/KNeighborsClassifier.head", ground.theirs / "named/x.head")
    if "model" in kinds:
        # The model contains the network unchanged, so that the model's features equal those in the store.
        write_model(
            "a.model", load_backbone("squeezenet1_1", "random:0"), open_head("a.head"), {"epochs": 3, "lr": 0.1}
        )
    shutil.copytree(ground.theirs / "store", ground.home / "store")
    (ground.home / "classes.txt").write_text("cat\ndog\n")
    (ground.home / "modules").mkdir()
    (ground.home / "modules" / f"{MODULE}.py").write_text(
        f"open({os.fspath(ground.home / 'letter.txt')!r}, 'w').close()\n"
    )


def _write_vectors(folder: Path, vectors: np.ndarray, keys: list[str]) -> None:
    """Write files of vectors in the formats of other programs."""
    folder.mkdir()
    (folder / "keys.txt").write_text("\n".join(keys))
    np.save(folder / "v.npy", vectors)
    np.savez(folder / "v.npz", vectors=vectors)
    with h5py.File(folder / "v.h5", "w") as file:
        file["vectors"] = vectors
    flat = faiss.IndexFlatIP(vectors.shape[1])
    flat.add(vectors)
    faiss.write_index(flat, os.fspath(folder / "v.faiss"))
    lists = pa.array(list(vectors), pa.list_(pa.float32()))
    pq.write_table(pa.table({"key": keys, "vector": lists}), folder / "v.parquet")
    pq.write_table(pa.table({"key": keys, "label": [key[:3] for key in keys]}), folder / "table.parquet")


def _copy(master: Ground, to: Ground, what: str) -> None:
    """Copy the user's folder, and the files that the commands for ``what`` (a kind of forged file) read."""
    shutil.rmtree(to.folder, ignore_errors=True)
    shutil.copytree(master.home, to.home)
    to.out.mkdir()
    to.theirs.mkdir()
    read = {word.partition("/")[0] for verb in VERBS[what] for word in verb.split()}
    for path in master.theirs.iterdir():
        if path.name in read or (path.stem in read and path.suffix == pair.SIDE_SUFFIX):
            (shutil.copytree if path.is_dir() else shutil.copy2)(path, to.theirs / path.name)


def attack(
    master: Ground, folder: Path, number: int, seed: int, kinds: Sequence[str] = tuple(VERBS)
) -> Iterator[tuple[str, str, str, list[str]]]:
    """Make one forgery and run every command on it; yield (kind of file, description of the change, command,
    violations).

    ``folder``: the same as for ``prepare``. If a command wrote files, the forgery is made again before the next
    command.
    """
    ground, how, verbs, changed = Ground(folder), "", dict[str, str](), True
    what = Forger(ground, seed * 1_000_003 + number).kind(kinds)
    while changed or verbs:
        if changed:
            _copy(master, ground, what)
            forger = Forger(ground, seed * 1_000_003 + number)
            how = forger.forge(forger.kind(kinds))
            verbs = verbs or dict(VERBS[what])
            home = states(ground.home)
        verb, changes = next(iter(verbs.items()))
        del verbs[verb]
        with watched(ground.home, ground.theirs) as events:
            wrong = run_verb(ground, shlex.split(verb), folder.with_name(f"{folder.name}-cache"))
            touched = sorted({path.relative_to(folder) for path in events()})
        outside = [path for path in touched if path.parts[0] == "home" or not _is_named(path.parts[1], changes)]
        if not outside and states(ground.home) != home:
            outside = [path.relative_to(folder) for path, _ in states(ground.home).items() ^ home.items()]
        wrong += [f"outside: {path}" for path in outside[:3]]
        yield what, how, verb, wrong
        changed = bool(touched) and bool(verbs)
    shutil.rmtree(folder, ignore_errors=True)


def _is_named(name: str, changes: str) -> bool:
    """Return whether a command may change the file ``name``: ``changes`` names the files that the command may change;
    their temporary files and side files are allowed too."""
    return any(name.removeprefix(".").startswith(one) for one in changes.split())
