"""Build stores of synthetic pictures with the real writer.

A vector depends only on the key and content of its picture.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from featstore.sources.base import Chunk
from featstore.store import FeatureStore, Identity, shards
from featstore.store.claims import Claim, Claims
from featstore.store.journal import Block
from featstore.store.manifest import Manifest
from featstore.store.plan import Plan
from featstore.store.planner import Change, Planner
from featstore.store.writer import UnitWriter, open_for_writing

D = 4
UNIT_ROWS = 5


def identity(**changes) -> Identity:
    values = {
        "backbone": "made-up",
        "layer": "input of fc",
        "dimension": D,
        "weights": "0" * 64,
        "preprocessing": {"resize": 8, "crop": 8},
        "decoder": "pillow",
        "precision": "fp32",
        "dtype": "float32",
    }
    return Identity(**{**values, **changes})


@dataclass
class Pictures:
    """A source whose pictures are numbers; a negative number is a picture that cannot be decoded.

    ``content``: the number of each key. ``regions``: for each key the box x, y, w, h, and the number of bytes at the
    start of the key that name the picture.
    """

    content: dict[bytes, int]
    labels: dict[bytes, str] = field(default_factory=dict)
    splits: dict[bytes, str] = field(default_factory=dict)
    metadata: dict[str, dict[bytes, object]] = field(default_factory=dict)
    regions: dict[bytes, tuple[int, int, int, int, int]] = field(default_factory=dict)
    location: str = "/made/up"
    kind: str = "folder"
    chunk_rows: int = 3

    def describe(self):
        return {"kind": self.kind, "location": self.location, "root": self.location}

    def chunks(self, rows: int = 0):
        keys = sorted(self.content)
        for start in range(0, len(keys), self.chunk_rows):
            part = keys[start : start + self.chunk_rows]
            boxes = [self.regions.get(key, (0, 0, 0, 0, 0)) for key in part]
            yield Chunk(
                part,
                np.full(len(part), 7),
                np.array([self.content[key] for key in part], np.int64),
                np.full(len(part), -1),
                [key[: box[4] or None] for key, box in zip(part, boxes, strict=True)] if self.regions else None,
                [self.labels.get(key) for key in part],
                [self.splits.get(key) for key in part],
                {name: [column.get(key) for key in part] for name, column in self.metadata.items()},
                np.array(boxes, np.int32) if self.regions else None,
            )


def vector(key: bytes, content: int) -> NDArray[np.float32]:
    seed = int.from_bytes(hashlib.sha256(key + str(content).encode()).digest()[:8], "little")
    return np.random.default_rng(seed).normal(size=D).astype(np.float32)


def sha256(key: bytes, content: int) -> bytes:
    return hashlib.sha256(key + b"/" + str(content).encode()).digest()


def plan(path: Path, source: Pictures, *, retry: bool = False, **options) -> Change:
    manifest = open_for_writing(
        path, options.pop("identity", identity()), "made up", options.pop("unit_rows", UNIT_ROWS)
    )
    failed = FeatureStore(path).failed_ids() if retry else np.empty(0, np.int64)
    planner = Planner(path, manifest.epoch, manifest.unit_rows, **options)
    return planner.update(source, (lambda p: failed[~p.is_retired(failed)]) if len(failed) else None)


def work(path: Path, source: Pictures, *, units: int | None = None, batch: int = 2) -> int:
    """Extract at most ``units`` pending units (pictures of one shard each); return the number of pictures."""
    manifest = Manifest.read(path)
    current = Plan(path, manifest.epoch)
    made = 0
    with Claims(path) as claims:
        pending = [unit for unit in current.units() if not shards.shard_path(path, unit.number).exists()]
        for unit in pending[:units]:
            claim = claims.take(unit.number)
            assert isinstance(claim, Claim)
            writer = UnitWriter(path, manifest, current, unit, claim, {"engine": "made-up"})
            for start in range(writer.next_row, len(unit), batch):
                block = block_of(writer, source, start, min(start + batch, len(unit)))
                writer.append(block)
                made += block.stop - block.start
            writer.commit()
            claims.finish(unit.number)
    return made


def block_of(writer: UnitWriter, source: Pictures, start: int, stop: int) -> Block:
    vectors, sums, failures = [], [], []
    for row in range(start, stop):
        key = writer.rows.keys[row]
        content = source.content.get(key)
        if writer.superseded[row] or content is None or content < 0:
            reason = "superseded" if writer.superseded[row] else "missing" if content is None else "corrupt"
            failures.append((row, reason, f"{reason}: {key!r}"))
            sums.append(bytes(32) if content is None else sha256(key, content))
        else:
            vectors.append(vector(key, content))
            sums.append(sha256(key, content))
    array = np.array(vectors, np.float32).reshape(-1, D)
    return Block(start, stop, array, np.frombuffer(b"".join(sums), np.uint8).reshape(-1, 32), failures)


def build(path: Path, source: Pictures, **options) -> FeatureStore:
    """Plan and extract all pictures of ``source``; return the opened store."""
    plan(path, source, **options)
    work(path, source)
    return FeatureStore.open(path)
