"""featstore.stages.remove.purge: no file contains data of purged pictures, and an unfinished purge can be finished."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from featstore.errors import FeatstoreError, UsageError
from featstore.heads import load_head
from featstore.heads.models import KernelModel, NeighboursModel
from featstore.heads.rowwise import unit_rows
from featstore.heads.solvers.blocks import Scaler
from featstore.indexes import FeatureIndex
from featstore.stages.compact import compact
from featstore.stages.index import index
from featstore.stages.remove import purge, remove
from featstore.stages.train import train, train_again
from featstore.stages.verify import verify
from featstore.store import FeatureStore
from featstore.store.claims import Claims
from featstore.store.labels import set_columns
from featstore.store.manifest import Manifest
from tests.chain import make_store, write_coloured
from tests.made import tiny_backbone
from tests.store.building import Pictures, build, plan, work

REMOVED = ("ant/secret-one.png", "ant/secret-two.png", "ant/secret-three.png")
LABEL = "only-theirs"


class Traces:
    """Byte sequences that must disappear: keys, labels and vectors of the pictures to purge.

    The vectors are in the forms in which the store, the indexes and the heads hold them.
    """

    def __init__(self, store: Path, artifacts: list[Path]) -> None:
        opened = FeatureStore.open(store)
        rows = opened.index_of(REMOVED)
        self.folder = store.parent
        self.files = [store, *artifacts]
        self.words: set[bytes] = {os.path.basename(key).encode() for key in REMOVED} | {LABEL.encode(), b"also-theirs"}
        self.words |= {row.tobytes() for row in opened.features(rows=rows)}
        for path in artifacts:
            if path.suffix == ".head":
                self.words |= {row.tobytes() for row in as_kept(path, opened.features(rows=rows[:2]))}
            else:
                self.words |= {row.tobytes() for row in FeatureIndex.open(path).vectors_of(opened.ids[rows])}

    def found(self) -> list[tuple[str, bytes]]:
        """Return (file, sequence) for each byte sequence found in a file of the store, an index or a head."""
        files = [file for top in self.files for file in ([top] if top.is_file() else top.rglob("*")) if file.is_file()]
        files += [file for file in self.folder.iterdir() if file.name.endswith((".featstore", ".next"))]
        return [
            (str(file), word)
            for file in files
            for content in [file.read_bytes()]
            for word in self.words
            if word in content
        ]


def as_kept(path: Path, vectors: np.ndarray) -> np.ndarray:
    """Return ``vectors`` (n, d), transformed in the way in which the head at ``path`` stores its training vectors."""
    model = load_head(path).model
    if isinstance(model, NeighboursModel):
        return unit_rows(vectors, model.mean)
    return Scaler(model.mean, model.spread).apply(vectors) if isinstance(model, KernelModel) else vectors


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    kept = [f"{kind}/{number}.png" for kind in ("ant", "bee") for number in range(6)]
    return write_coloured(tmp_path / "pictures", [*kept, *REMOVED])


@pytest.fixture
def store(pictures: Path, tmp_path: Path) -> Path:
    """Return a store in which the pictures to purge have been changed, compacted and labelled several times."""
    store = make_store(pictures, tmp_path / "made" / "s", unit_rows=5)
    write_coloured(pictures, [REMOVED[0]], seed=9)
    make_store(pictures, store)
    compact(store)
    keys = [key.encode() for key in REMOVED]
    set_columns(store, keys, {"label": [LABEL] * 3, "note": ["also-theirs", "x", "x"]})
    kept = [f"{kind}/{number}.png".encode() for kind in ("ant", "bee") for number in range(6)]
    set_columns(store, [*kept, *keys], {"split": [*(["train"] * 4 + ["test"] * 2) * 2, "train", "train", "test"]})
    set_columns(store, [b"ant/1.png", keys[1]], {"note": ["y", "also-theirs"]})
    return store


def made_of(store: Path) -> list[Path]:
    """Return paths of a k-NN, a kernel and a linear head, an exact index and an HNSW index, all made from the store."""
    heads = [
        Path(train(store, head=kind, folds=2, out=store.with_name(f"{kind}.head")).path)
        for kind in ("knn", "rbf-svm", "logreg")
    ]
    indexes = [Path(index(store, out=store.with_name(f"{kind}.faiss"), kind=kind).path) for kind in ("flat", "hnsw")]
    return heads + indexes


@pytest.mark.slow
def test_no_byte_of_purged_pictures_is_in_any_file(store: Path, pictures: Path, tmp_path: Path):
    artifacts = made_of(store)
    copy = make_store(store, tmp_path / "made" / "copy", backbone=tiny_backbone(3))
    traces = Traces(store, artifacts)
    assert {word for _, word in traces.found()} == traces.words
    assert {Path(file).parts[-1] for file, _ in traces.found()} >= {
        "knn.head",
        "rbf-svm.head",
        "logreg.head",
        "flat.faiss",
        "hnsw.faiss",
    }
    report = purge(store, REMOVED)
    assert (report.removal.removed, report.left, report.copies) == (3, [], [str(copy)])
    assert sorted(report.rewritten) == sorted(map(str, artifacts))
    assert traces.found() == []
    assert all(verify(path).problems == [] for path in [store, *artifacts])
    make_store(pictures, store)
    assert traces.found() == []
    assert (
        len(FeatureStore.open(store))
        == 12
        == len(FeatureIndex.open(artifacts[-1]))
        == len(FeatureIndex.open(artifacts[-2]))
    )
    assert all(train_again(head).equal for head in artifacts[:3])
    assert purge(store).rewritten == []


def test_purge_works_without_heads_and_indexes(store: Path, pictures: Path):
    traces = Traces(store, [])
    before = FeatureStore.open(store)
    features = before.features().copy()
    remove(store, REMOVED[:1])
    report = purge(store, REMOVED[1:])
    assert (report.removal.removed, report.purged, report.denied) == (2, 3, 3)
    assert traces.found() == []
    assert (before.features() == features).all()
    assert Manifest.read(store).requires == ("denylist", "history")
    with pytest.raises(UsageError, match="3 pictures of then are gone, 3 of them without a trace"):
        FeatureStore.open(store, at=(0, 1))
    change = make_store(pictures, store) and FeatureStore.open(store).counts
    assert change.images == 12
    assert traces.found() == []


def test_purge_names_the_caches_and_unfinished_runs_of_models(store: Path):
    cache, run = store.parent / "my.model.cache", store.parent / "my.model.run"
    cache.mkdir()
    view = make_store(store, cache / "view-1", backbone=tiny_backbone(3))
    run.mkdir()
    shutil.move(train(store, out=store.parent / "a.head").path, run / "start.head")
    report = purge(store, REMOVED)
    assert report.copies == [str(view)]
    assert [path for path, why in report.left if "unfinished fine-tuning" in why] == [str(run / "start.head")]


def test_purge_erases_pictures_from_the_journal_of_an_unfinished_unit(tmp_path: Path):
    source = Pictures({f"a/{number}".encode(): number for number in range(4)})
    build(tmp_path / "s", source)
    source.content |= {f"b/secret{number}".encode(): number for number in range(4)}
    plan(tmp_path / "s", source)
    from featstore.store.plan import Plan
    from featstore.store.writer import UnitWriter
    from tests.store.building import block_of, vector

    manifest = Manifest.read(tmp_path / "s")
    current = Plan(tmp_path / "s", 0)
    with Claims(tmp_path / "s") as claims:
        claim = claims.take(current.units()[-1].number)
        writer = UnitWriter(tmp_path / "s", manifest, current, current.units()[-1], claim, {"engine": "made-up"})
        writer.append(block_of(writer, source, 0, 3))
        writer.close()
        with pytest.raises(FeatstoreError, match=f"is being written by process {os.getpid()} on"):
            purge(tmp_path / "s", ["b/secret1"])
    gone = [b"b/secret1", vector(b"b/secret1", 1).tobytes()]
    files = [file for file in (tmp_path / "s").rglob("*") if file.is_file()]
    assert any(gone[1] in file.read_bytes() for file in files)
    purge(tmp_path / "s", ["b/secret1"])
    files = [file for file in (tmp_path / "s").rglob("*") if file.is_file()]
    assert not any(word in file.read_bytes() for file in files for word in gone)
    work(tmp_path / "s", source)
    assert len(FeatureStore.open(tmp_path / "s")) == 7


def test_unfinished_purge_blocks_writers(tmp_path: Path):
    source = Pictures({f"a/{number}".encode(): number for number in range(4)})
    store = tmp_path / "s"
    build(store, source)
    remove(store, ["a/1"])
    replace(Manifest.read(store), purging=True).write(store)
    assert len(FeatureStore.open(store)) == 3
    for verb in (
        lambda: remove(store, ["a/2"]),
        lambda: compact(store),
        lambda: set_columns(store, [b"a/0"], {"n": [1]}),
    ):
        with pytest.raises(FeatstoreError, match="finish it with: featstore remove .* --purge"):
            verb()
    assert "a purge was begun and not finished" in str(verify(store).problems[0])
    purge(store)
    assert (verify(store).problems, Manifest.read(store).purging) == ([], False)


def test_purge_without_removed_pictures_or_with_damaged_files_is_refused(tmp_path: Path):
    store = tmp_path / "s"
    build(store, Pictures({b"a/0": 0, b"a/1": 1}))
    with pytest.raises(UsageError, match="no picture was removed from it"):
        purge(store)
    (store / "damaged").mkdir()
    (store / "damaged" / "000000-00000000.h5").write_bytes(b"")
    with pytest.raises(UsageError, match="remove that folder"):
        purge(store, ["a/1"])
    assert len(FeatureStore.open(store)) == 2


def test_verify_finds_a_key_that_a_purge_should_have_erased(tmp_path: Path):
    store = tmp_path / "s"
    build(store, Pictures({f"a/{number}".encode(): number for number in range(4)}, {b"a/1": "x"}))
    remove(store, ["a/1"])
    compact(store)
    kept = shutil.copytree(store / "history", tmp_path / "history")
    assert verify(store).problems == []
    purge(store)
    assert verify(store).problems == []
    shutil.copy(kept / "000000.h5", store / "history" / "000000.h5")
    assert "has 1 key of pictures that were purged" in str(verify(store).problems[0])
