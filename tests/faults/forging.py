"""Forgeries with valid checksums: seeded, consistent but false stores, heads, indexes and files of other programs."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import random
import shutil
import struct
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from featstore.errors import FeatstoreError
from featstore.files import atomic, sealed
from featstore.indexes.files import pair
from featstore.indexes.rows import IndexRows
from featstore.indexes.tuning.trials import create
from tests.faults import faiss_kinds
from tests.faults.sandbox import Ground

ATTACK = "\x1b]52;c;Y3VybA==\x07\x1b[2J\u202e\r\nfeatstore: whole"
WRITTEN = ("HNSW4", "HNSW4_SQ8", "IVF4,PQ4x4fs,Refine(SQfp16)", "PCAR8,IVF4,PQ4x4fsr,Refine(SQ8)")
NUMBERS = (0, 1, -1, 2, 255, 1 << 15, (1 << 31) - 1, -(1 << 31), 1 << 40, (1 << 63) - 1, -(1 << 63))
FACTORIES = (*faiss_kinds.FACTORIES, *faiss_kinds.MADE_BY_HAND)
KINDS = {"store": 10, "head": 4, "index": 8, "export": 2, "vectors": 3, "demo": 1}
"""What can be forged, with the weights of the draw."""


@functools.cache
def _index_file(factory: str, ids: tuple[int, ...], dimension: int) -> bytes:
    """Return the FAISS file of a small index of ``ids``."""
    index, random_ = create(factory, dimension, "ip", seed=0), np.random.default_rng(0)
    index.train(random_.standard_normal((64, dimension)).astype(np.float32), threads=1)
    index.add(random_.standard_normal((len(ids), dimension)).astype(np.float32), np.array(ids), threads=1)
    with tempfile.TemporaryDirectory() as folder:
        index.write(Path(folder, "an.index"))
        return Path(folder, "an.index").read_bytes()


class Forger:
    """Draw forgeries, reproducible by ``seed``."""

    def __init__(self, ground: Ground, seed: int) -> None:
        self.ground, self.draw = ground, random.Random(seed)

    def kind(self, kinds: Sequence[str]) -> str:
        """Draw one of ``kinds``, names in KINDS."""
        return self.draw.choices(kinds, [KINDS[kind] for kind in kinds])[0]

    def forge(self, what: str) -> str:
        """Forge one of KINDS in the folder; return the change."""
        change: str = getattr(self, f"forge_{what}")(self.ground)
        return change

    def forge_store(self, to: Ground) -> str:
        return self._folder(to.theirs / "store", to)

    def forge_demo(self, to: Ground) -> str:
        return self._folder(to.theirs / "demo", to)

    def _folder(self, store: Path, to: Ground) -> str:
        found = sorted(path for path in store.rglob("*"))
        path = self.draw.choice(found)
        name = str(path.relative_to(store))
        kind = self.draw.choice(("link", "odd type", "stranger", "seal", "seal", "seal", "manifest"))
        if kind == "manifest":
            manifest = self.draw.choice([one for one in found if one.suffix == ".json"])
            name = str(manifest.relative_to(store))
            atomic.write_json(manifest, self._json(atomic.read_json(manifest)))
        elif kind == "stranger":
            names = (".DS_Store", "@eaDir", f"x{ATTACK.replace('/', '')}", ".x.tmp", "000000.h5")
            (path if path.is_dir() else path.parent).joinpath(self.draw.choice(names)).write_bytes(b"x")
        elif kind == "seal":
            path = self.draw.choice([one for one in found if one.is_file() and sealed.begins_like_one(one)])
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

    def forge_head(self, to: Ground) -> str:
        return self._seal(to.theirs / "a.head")

    def forge_index(self, to: Ground) -> str:
        path = to.theirs / "an.index"
        kind = self.draw.choice(("side", "foreign", "foreign", "numbers", "numbers"))
        if kind == "side":
            return f"side: {self._seal(pair.side_path(path))}"
        side = sealed.SealedFile(pair.side_path(path))
        tables, record = pair._read_tables(side, side.meta), pair._read_record(side, side.meta)
        dimension = side.summary["dimension"]
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
        data = self._numbers(_index_file(factory, tuple(tables.ids.tolist()), dimension))
        path.write_bytes(data)
        faiss_kinds.seal(path, tables, record, dimension)
        return f"{factory}, numbers"

    def _numbers(self, file: bytes) -> bytes:
        """Return a file with some numbers in it replaced, most of them near its start."""
        data = bytearray(file)
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
        return bytes(data)

    def forge_export(self, to: Ground) -> str:
        folder = to.theirs / self.draw.choice(("an.export", "a.parquet"))
        return self._foreign(self.draw.choice(sorted(folder.iterdir())), to)

    def forge_vectors(self, to: Ground) -> str:
        return self._foreign(self.draw.choice(sorted((to.theirs / "vectors").iterdir())), to)

    def _foreign(self, path: Path, to: Ground) -> str:
        """Change a file that is not a sealed file."""
        kind, data = (
            self.draw.choice(("numbers", "numbers", "inside", "inside", "inside", "cut", "replaced")),
            path.read_bytes(),
        )
        if kind == "replaced":
            self._replace(path, self.draw.choice(("link", "odd type")), to.home)
        elif kind == "cut":
            path.write_bytes(data[: self.draw.randrange(len(data))])
        elif kind == "numbers" or path.suffix in (".npz", ".h5"):
            path.write_bytes(self._numbers(data))
        elif path.suffix == ".parquet":
            self._parquet(path)
        elif path.suffix == ".json":
            path.write_text(json.dumps(self._json(json.loads(data))))
        elif path.suffix == ".npy":
            path.write_bytes(self._npy(data, to.home))
        elif path.suffix == ".faiss":
            path.write_bytes(
                faiss_kinds.file(
                    self.draw.choice(FACTORIES), self.draw.choice(list(faiss_kinds.PLACES)), to.home / "lists"
                )[0]
            )
        else:
            lines = data.split(b"\n")
            lines[self.draw.randrange(len(lines))] = self.draw.choice(
                (b"", b"../../x", b"/etc/passwd", b"\xff", ATTACK.encode(), lines[0])
            )
            path.write_bytes(b"\n".join(lines))
        return f"{kind} {path.name}"

    def _npy(self, data: bytes, home: Path) -> bytes:
        """Return an array of NumPy with another header, or a pickle that writes to a file."""
        end = 10 + struct.unpack_from("<H", data, 8)[0]
        kind, shape = (
            self.draw.choice(("<f4", "|O", "<f8", "<M8[s]", "|V16", "[('a', '<f4')]", "<c8")),
            self.draw.choice(
                ("(1 << 60, 8)", "(-1, 8)", "()", "(16,)", "(16, 512)", f"({1 << 40}, 512)", "(True, 512)", "(0, 0)")
            ),
        )
        quoted = kind if kind.startswith("[") else repr(kind)
        header = (
            f"{{'descr': {quoted}, 'fortran_order': {self.draw.choice((True, False))}, 'shape': {shape}, }}".encode()
        )
        pickle = b"cbuiltins\nopen\n(V%s\nVw\ntR." % os.fsencode(home / "letter.txt")
        body = pickle if kind == "|O" else data[end:]
        return data[:8] + struct.pack("<H", len(header) + 1) + header + b"\n" + body

    def _parquet(self, path: Path) -> None:
        """Write a table with other metadata, other values or other columns."""
        table = pq.read_table(path)
        name = self.draw.choice(table.column_names)
        at, column = table.column_names.index(name), table[name]
        texts = pa.array([self.draw.choice(("", ATTACK, "../../x", "x" * 5000, "=1+1")) for _ in range(len(column))])
        big = pa.array(["x" * (20 << 20)]).dictionary_encode().take(pa.array([0] * 400))
        change = self.draw.randrange(7)
        if change == 0:
            about = {
                key: json.dumps(self._json({"x": value.decode()})).encode()
                for key, value in (table.schema.metadata or {b"featstore": b"1"}).items()
            }
            table = table.replace_schema_metadata(about)
        elif change == 1:
            table = table.set_column(at, name, pa.nulls(len(column), column.type))
        elif change == 2:
            table = table.set_column(at, name, texts)
        elif change == 3:
            table = table.drop_columns([name])
        elif change == 4:
            table = table.append_column(ATTACK, texts)
        elif change == 5:
            table = pa.table({**{other: pa.nulls(400, table[other].type) for other in table.column_names}, name: big})
        else:
            table = pa.concat_tables([table, table.slice(0, 3)])
        pq.write_table(table, path, row_group_size=self.draw.choice((1, 5, 1000)))

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
