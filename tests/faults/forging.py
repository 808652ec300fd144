"""Make forgeries with valid checksums: false but consistent stores, heads, indexes and files of other programs."""

from __future__ import annotations

import functools
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from featstore.files import atomic, sealed
from featstore.indexes.files import pair
from featstore.indexes.rows import IndexRows
from featstore.indexes.tuning.trials import create
from tests.faults import faiss_kinds
from tests.faults.changes import ATTACK
from tests.faults.forging_records import RecordsForger
from tests.faults.sandbox import Ground

WRITTEN = ("HNSW4", "HNSW4_SQ8", "IVF4,PQ4x4fs,Refine(SQfp16)", "PCAR8,IVF4,PQ4x4fsr,Refine(SQ8)")
FACTORIES = (*faiss_kinds.FACTORIES, *faiss_kinds.MADE_BY_HAND)
KINDS = {"store": 10, "head": 4, "index": 8, "export": 2, "vectors": 3, "demo": 1} | {
    **{"regions": 4, "follower": 3, "lineage": 4, "removed": 4, "named": 4, "identity": 4, "imported": 2},
    **{"perceptron": 3, "model": 4},
}
"""Kinds of forged files, and the weight of each kind in a random draw."""


@functools.cache
def _index_file(factory: str, ids: tuple[int, ...], dimension: int) -> bytes:
    """Return the bytes of a FAISS file of a small index with random vectors for ``ids``."""
    index, random_ = create(factory, dimension, "ip", seed=0), np.random.default_rng(0)
    index.train(random_.standard_normal((64, dimension)).astype(np.float32), threads=1)
    index.add(random_.standard_normal((len(ids), dimension)).astype(np.float32), np.array(ids), threads=1)
    with tempfile.TemporaryDirectory() as folder:
        index.write(Path(folder, "an.index"))
        return Path(folder, "an.index").read_bytes()


class Forger(RecordsForger):
    """Draw random forgeries; the same ``seed`` gives the same forgeries."""

    def kind(self, kinds: Sequence[str]) -> str:
        """Draw one of ``kinds`` at random, with the weights in KINDS."""
        return self.draw.choices(kinds, [KINDS[kind] for kind in kinds])[0]

    def forge(self, what: str) -> str:
        """Make a forgery of the kind ``what`` (one of KINDS); return a description of what was changed."""
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

    def forge_export(self, to: Ground) -> str:
        folder = to.theirs / self.draw.choice(("an.export", "a.parquet"))
        return self._foreign(self.draw.choice(sorted(folder.iterdir())), to)

    def forge_vectors(self, to: Ground) -> str:
        return self._foreign(self.draw.choice(sorted((to.theirs / "vectors").iterdir())), to)

    def _foreign(self, path: Path, to: Ground) -> str:
        """Change a file of another program; return a description of what was changed."""
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

    def _parquet(self, path: Path) -> None:
        """Rewrite a Parquet table with other metadata, values, columns or rows."""
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
