"""An attacker who writes right checksums: seeded, consistent but false stores, heads and indexes, with every verb on
them.

Each verb runs in a fork of this process, on a copy, beside a user's folder that inotify watches.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import random
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from featstore import cli
from featstore.errors import FeatstoreError
from featstore.files import atomic, sealed
from featstore.indexes.files import pair
from featstore.indexes.rows import IndexRows
from featstore.indexes.tuning.trials import create
from featstore.stages.index import index
from featstore.stages.train import train
from tests.faults import faiss_kinds
from tests.faults.building import small_store
from tests.faults.sandbox import Ground, run_verb, watched

ATTACK = "\x1b]52;c;Y3VybA==\x07\x1b[2J\u202e\r\nfeatstore: whole"
WRITTEN = ("HNSW4", "HNSW4_SQ8", "IVF4,PQ4x4fs,Refine(SQfp16)", "PCAR8,IVF4,PQ4x4fsr,Refine(SQ8)")
NUMBERS = (0, 1, -1, 2, 255, 1 << 15, (1 << 31) - 1, -(1 << 31), 1 << 40, (1 << 63) - 1, -(1 << 63))
FACTORIES = (*faiss_kinds.FACTORIES, *faiss_kinds.MADE_BY_HAND)


def prepare(folder: Path) -> Ground:
    """Make the user's folder and an intact store, head and index."""
    ground = Ground(folder)
    (ground.home / "documents").mkdir(parents=True)
    for name in ("letter.txt", "documents/work.h5", "documents/epoch-0001.json", "labels.csv"):
        (ground.home / name).write_bytes(b"mine " * 2000)
    (ground.home / "labels.csv").write_text("path,label\ncat/00.png,lion\ndog/01.png,wolf\n")
    store = small_store(folder)
    ground.theirs.mkdir()
    store.rename(ground.theirs / "store")
    train(ground.theirs / "store", out=ground.theirs / "a.head", C=1.0, folds=2)
    index(ground.theirs / "store", out=ground.theirs / "an.index")
    shutil.move(folder / "pictures", ground.home / "pictures")
    ground.out.mkdir()
    # Import once what every fork needs.
    for verb in cli.VERBS:
        importlib.import_module(f"featstore.stages.{cli.module_of(verb)}")
        importlib.import_module(f"featstore.cli.{cli.module_of(verb)}")
    importlib.import_module("featstore.store.compaction")
    return ground


class Forger:
    """Draw forgeries, reproducible by ``seed``."""

    def __init__(self, ground: Ground, seed: int) -> None:
        self.ground, self.draw = ground, random.Random(seed)

    def forge(self, to: Ground) -> tuple[str, str]:
        """Forge something in the copy ``to``; return what it belongs to ("store", "head", "index"), and the change."""
        what = self.draw.choice(("store", "store", "head", "index", "index"))
        how = {"store": self._store, "head": self._head, "index": self.forge_index}[what](to)
        return what, how

    def _store(self, to: Ground) -> str:
        store = to.theirs / "store"
        found = sorted(path for path in store.rglob("*"))
        path = self.draw.choice(found)
        name = str(path.relative_to(store))
        kind = self.draw.choice(("link", "odd type", "stranger", "seal", "seal", "seal", "manifest"))
        if kind == "manifest":
            manifest = store / "featstore.json"
            atomic.write_json(manifest, self._json(atomic.read_json(manifest)))
        elif kind == "stranger":
            names = (".DS_Store", "@eaDir", f"x{ATTACK.replace('/', '')}", ".x.tmp", "000000.h5")
            (path if path.is_dir() else path.parent).joinpath(self.draw.choice(names)).write_bytes(b"x")
        elif kind == "seal":
            path = self.draw.choice([one for one in found if one.suffix == ".h5"])
            return f"{kind} {path.relative_to(store)}: {self._seal(path)}"
        else:
            self._replace(path, kind, to.home)
        return f"{kind} {name}"

    def _replace(self, path: Path, kind: str, home: Path) -> None:
        folder = path.is_dir()
        shutil.rmtree(path) if folder else path.unlink()
        if kind == "link":
            target = home / "documents" if folder else home / "letter.txt"
            if folder or self.draw.random() < 0.7:
                path.symlink_to(target)
            else:
                os.link(target, path)
        elif self.draw.random() < 0.5:
            os.mkfifo(path)
        elif folder:
            path.write_bytes(b"x")
        else:
            path.mkdir()

    def _head(self, to: Ground) -> str:
        return self._seal(to.theirs / "a.head")

    def forge_index(self, to: Ground) -> str:
        path = to.theirs / "an.index"
        kind = self.draw.choice(("side", "foreign", "foreign", "numbers", "numbers"))
        if kind == "side":
            return f"side: {self._seal(pair.side_path(path))}"
        side = sealed.SealedFile(pair.side_path(path))
        tables, record = pair._read_tables(side, side.meta), pair._read_record(side, side.meta)
        del side
        rows, dimension = len(tables.ids), 8
        if kind == "foreign":
            name, place = self.draw.choice(FACTORIES), self.draw.choice(list(faiss_kinds.PLACES))
            path.write_bytes(faiss_kinds.file(name, place, to.home / "lists")[0])
            (to.home / "lists").write_bytes(b"mine " * 20_000)
            # Rows and dimension in the side file must equal those in the FAISS file.
            count = 0 if name.startswith("MinMax") else faiss_kinds.ROWS
            tables = IndexRows.of(np.arange(count), [b"k%d" % row for row in range(count)], None, count)
            faiss_kinds.seal(path, tables, record, faiss_kinds.DIMENSION)
            return f"{name} {place}"
        factory = self.draw.choice(("Flat", *WRITTEN))
        index, random_ = create(factory, dimension, "ip", seed=0), np.random.default_rng(0)
        index.train(random_.standard_normal((64, dimension)).astype(np.float32), threads=1)
        index.add(random_.standard_normal((rows, dimension)).astype(np.float32), tables.ids, threads=1)
        index.write(path)
        data = bytearray(path.read_bytes())
        for _ in range(self.draw.choice((1, 1, 2, 5))):
            form = self.draw.choice("bifq")
            at = self.draw.randrange(len(data) - 8)
            if self.draw.random() < 0.6:
                at = self.draw.randrange(min(400, len(data) - 8))
            value: Any = self.draw.choice((0.0, float("nan"), 1e30, -1.0)) if form == "f" else self.draw.choice(NUMBERS)
            if form != "f":
                size = 8 * struct.calcsize(f"<{form}")
                value = (value + (1 << (size - 1))) % (1 << size) - (1 << (size - 1))
            struct.pack_into(f"<{form}", data, at, value)
        path.write_bytes(data)
        faiss_kinds.seal(path, tables, record, dimension)
        return f"{factory}, numbers"

    def _seal(self, path: Path) -> str:
        """Rewrite a sealed file with one of its arrays, its description or its summary changed."""
        file = sealed.SealedFile(path)
        arrays = {name: file[name].copy() for name in file.names if name != "meta"}
        kind, meta, summary, told = file.header["kind"], file.meta, file.summary, "meta"
        choice = self.draw.random()
        if choice < 0.5 and arrays:
            told = self.draw.choice(sorted(arrays))
            arrays[told] = self._array(arrays[told])
        elif choice < 0.85:
            meta = self._json(meta)
        elif choice < 0.95:
            told, summary = "summary", self._json(summary)
        else:
            told, kind = "kind", self.draw.choice(("head", "index", "shard", "plan", ATTACK))
        with contextlib.suppress(FeatstoreError):
            path.unlink()
            sealed.write(path, kind, arrays, meta, summary)
        return told

    def _array(self, array: np.ndarray) -> np.ndarray:
        array = array.copy()
        choice = self.draw.randrange(6)
        if choice == 0:
            return array[: len(array) // 2].copy()
        if choice == 1:
            return np.concatenate([array, array])
        if choice == 2:
            return array.astype(self.draw.choice(["<f4", "<i8", "|u1", "<f8", "<i4"]))
        if choice == 3:
            return array.reshape(1, -1) if array.ndim == 1 else array.reshape(-1)
        if array.size:
            odd = [float("nan"), float("inf"), 1e30] if array.dtype.kind == "f" else list(NUMBERS)
            flat = array.reshape(-1)
            places = [self.draw.randrange(flat.size)] if choice == 4 else range(flat.size)
            for at in places:
                with np.errstate(all="ignore"):
                    flat[at] = np.array(self.draw.choice(odd)).astype(array.dtype)
        return array

    def _json(self, value: Any, depth: int = 0) -> Any:
        """Return JSON with one value changed."""
        if isinstance(value, dict) and value and (depth == 0 or self.draw.random() < 0.8):
            name = self.draw.choice(sorted(value))
            if depth and self.draw.random() < 0.1:
                return {inner: value[inner] for inner in value if inner != name}
            return {**value, name: self._json(value[name], depth + 1)}
        if isinstance(value, list) and value and self.draw.random() < 0.7:
            at = self.draw.randrange(len(value))
            return [*value[:at], self._json(value[at], depth + 1), *value[at + 1 :]]
        odd: list[Any] = [None, True, *NUMBERS, 1 << 70, 1e308, 0.5, "", ATTACK, "../../home/letter.txt", [], {}, ["x"]]
        odd += [os.fspath(self.ground.home), {"x": []}, "x" * 5000, "=1+1", [[0]], {"": None}, f"{value}x", "\udcff"]
        return self.draw.choice(odd)


READERS = ("info", "verify", "failures", "duplicates", "predict", "search")
"""Verbs that change nothing."""
VERBS: dict[str, list[list[str]]] = {
    "store": [
        ["info", "store"],
        ["verify", "store"],
        ["failures", "store", "--csv"],
        ["duplicates", "store"],
        ["predict", "a.head", "store"],
        ["train", "store", "--out", "../out/h", "--C", "1"],
        ["index", "store", "--out", "../out/i"],
        ["index", "store", "--update", "--out", "an.index"],
        ["label", "store", "../home/labels.csv"],
        ["repair", "store", "--set-aside"],
        ["compact", "store"],
        ["remove", "store", "cat/02.png"],
        ["remove", "store", "--purge"],
        ["EXTRACT", "store"],
    ],
    "head": [
        ["info", "a.head"],
        ["verify", "a.head"],
        ["predict", "a.head", "store"],
        ["predict", "a.head", "store", "--csv"],
    ],
    "index": [
        ["info", "an.index"],
        ["verify", "an.index"],
        ["search", "an.index", "--key", "cat/01.png"],
        ["search", "an.index", "--like-label", "cat", "--k", "5"],
        ["index", "store", "--update", "--out", "an.index"],
    ],
}


def attack(master: Ground, number: int, seed: int, scratch: Path) -> Iterator[tuple[str, str, list[str], list[str]]]:
    """Make one forgery and run every verb on it; yield (what it belongs to, the change, verb, violations)."""
    folder = scratch / "attack"
    ground, what, how, verbs, changed = Ground(folder), "", "", list[list[str]](), True
    while True:
        if changed:
            # Verbs may repair and rewrite, so each verb gets a fresh copy of the forgery.
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(master.folder, folder, symlinks=True)
            what, how = Forger(ground, seed * 1_000_003 + number).forge(ground)
            verbs = verbs or list(VERBS[what])
        verb = verbs.pop(0)
        with watched(ground.home) as events:
            wrong = run_verb(ground, verb, scratch / "cache")
            wrong += [f"outside: {event}" for event in events()[:3]]
        yield what, how, verb, wrong
        changed = verb[0] not in READERS
        if not verbs:
            return
