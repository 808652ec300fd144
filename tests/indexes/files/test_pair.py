"""A saved index is a pair of files: a FAISS file, and a side file with keys, ids and checksums."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest import mock

import faiss
import numpy as np
import pytest

from featstore.errors import DamagedError, UsageError
from featstore.files import atomic, sealed
from featstore.indexes import About, FeatureIndex, build_index
from featstore.indexes.files import pair
from tests.indexes.made import clusters

CONTRACT = {"recall": 0.9, "at": 5, "memory": None, "latency": 1.0, "holds": True, "rows_tried": 3, "sampled": False}


def saved(path: Path, seed: int = 0, rows: int = 60, kind: str = "flat") -> FeatureIndex:
    index = build_index(
        clusters(rows, 8, seed),
        np.arange(rows) * 7,
        [f"{seed}/{row}" for row in range(rows)],
        kind=kind,
        about=About(["a"] * rows),
    )
    index.save(path)
    return index


def test_saved_index_is_a_plain_faiss_file_and_a_sealed_side_file(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "x.faiss"
    saved(path)
    assert sorted(os.listdir(path.parent)) == ["x.faiss", "x.faiss.featstore"]
    plain = faiss.read_index(str(path))
    assert faiss.vector_to_array(plain.id_map).tolist() == [7 * row for row in range(60)]
    side = sealed.SealedFile(pair.side_path(path), "index")
    assert side.summary["faiss_xxh3"] == atomic.checksum_file(path)
    assert side["ids"].tolist() == [7 * row for row in range(60)]
    assert pair.verify(path) == []


def test_every_flipped_bit_of_an_index_is_detected(tmp_path: Path) -> None:
    path = tmp_path / "x"
    saved(path, kind="hnsw")
    random = np.random.default_rng(0)
    for name in (path, pair.side_path(path)):
        whole = name.read_bytes()
        for place in random.integers(0, 8 * len(whole), 80):
            changed = bytearray(whole)
            changed[place // 8] ^= 1 << (place % 8)
            name.write_bytes(changed)
            assert pair.verify(path), (name, place)
            with pytest.raises(DamagedError) as caught:
                FeatureIndex.open(path)
            assert "\n" not in str(caught.value)
        name.write_bytes(whole)
    assert pair.verify(path) == []


def test_truncated_index_file_is_refused_even_if_checksums_are_not_checked(tmp_path: Path) -> None:
    path = tmp_path / "x"
    saved(path)
    for name in (path, pair.side_path(path)):
        whole = name.read_bytes()
        for size in [0, 1, 50, len(whole) // 2, len(whole) - 1]:
            name.write_bytes(whole[:size])
            with pytest.raises(DamagedError):
                FeatureIndex.open(path, check=False)
        name.write_bytes(whole)


def test_side_file_of_another_index_is_refused(tmp_path: Path) -> None:
    saved(tmp_path / "a", seed=1)
    saved(tmp_path / "b", seed=2)
    shutil.copy(tmp_path / "a", tmp_path / "b")
    with pytest.raises(DamagedError, match=r"is not the file that b\.featstore describes"):
        FeatureIndex.open(tmp_path / "b")


def test_missing_index_files_are_reported(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such index"):
        FeatureIndex.open(tmp_path / "x")
    saved(tmp_path / "x")
    pair.side_path(tmp_path / "x").unlink()
    with pytest.raises(UsageError, match=r"x\.featstore is missing"):
        FeatureIndex.open(tmp_path / "x")
    assert len(pair.verify(tmp_path / "x")) == 1
    with pytest.raises(UsageError, match="is a directory"):
        saved(tmp_path)


@pytest.mark.parametrize("first", [True, False])
def test_kill_during_save_leaves_the_old_or_the_new_index(tmp_path: Path, first: bool) -> None:
    class Killed(BaseException):
        pass

    seen = set()
    for count in range(40):
        path = tmp_path / str(count) / "x"
        if not first:
            saved(path, seed=1)
        steps = iter(range(count))

        def step(real, steps=steps):
            def call(*arguments, **options):
                if next(steps, None) is None:
                    raise Killed
                return real(*arguments, **options)

            return call

        new = build_index(clusters(60, 8, 2), np.arange(60), [f"2/{row}" for row in range(60)])
        names = ("replace", "fsync", "open")
        with mock.patch.multiple(os, **{name: step(getattr(os, name)) for name in names}):
            try:
                new.save(path)
                outcome = "finished"
            except Killed:
                outcome = "killed"
        if outcome == "killed" and first and not path.exists():
            seen.add("none")
            continue
        opened = FeatureIndex.open(path)
        seen.add(opened.keys_of(opened.ids[:1])[0][:1])
        assert outcome == "killed" or seen >= {b"2"}
        new.save(path)
        assert FeatureIndex.open(path).keys_of([1]) == [b"2/1"]
        if outcome == "finished":
            break
    else:
        pytest.fail("saving takes more steps than were tried")
    assert seen == {b"2", "none" if first else b"1"}


def test_open_index_stays_usable_after_its_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "x"
    saved(path, seed=1)
    old = FeatureIndex.open(path)
    query = clusters(1, 8, 1)
    before = old.search(query, 3)
    saved(path, seed=2)
    after = old.search(query, 3)
    np.testing.assert_array_equal(before[1], after[1])
    assert old.keys_of([7]) == [b"1/1"]


@pytest.mark.parametrize("step", ["vetting.vet", "faiss_io.VectorIndex.read"])
def test_opening_an_index_is_retried_if_the_index_is_replaced_meanwhile(tmp_path: Path, step: str) -> None:
    path = tmp_path / "x"
    saved(path, seed=1)
    where = pair.vetting if step == "vetting.vet" else pair.faiss_io.VectorIndex
    original = getattr(where, name := step.rpartition(".")[2])

    def replace_then_read(*arguments: object, **options: object) -> object:
        if not replaced:
            replaced.append(saved(path, seed=2, rows=70))
        return original(*arguments, **options)

    replaced: list[FeatureIndex] = []
    with mock.patch.object(where, name, replace_then_read):
        assert len(FeatureIndex.open(path)) == 70
    assert len(replaced) == 1


def sealed_again(path: Path, arrays: dict[str, np.ndarray], meta: dict[str, object]) -> None:
    side = sealed.SealedFile(pair.side_path(path))
    kept = {name: side[name].copy() for name in side.names if name != "meta"}
    sealed.write(pair.side_path(path), "index", {**kept, **arrays}, {**side.meta, **meta}, side.summary)


@pytest.mark.parametrize(
    ("arrays", "meta"),
    [
        ({"ids": np.arange(60)}, {}),
        ({"ids": np.arange(59) * 7}, {}),
        ({"ids": np.arange(60, dtype=np.int32)}, {}),
        ({"labels": np.full(60, 1, np.int32)}, {}),
        ({"labels": np.full(60, -2, np.int32)}, {}),
        ({"keys/offsets": np.arange(61) * 1000}, {}),
        ({"removed": np.zeros(3, bool)}, {}),
        ({}, {"metric": "l2"}),
        ({}, {"metric": 3}),
        ({}, {"recall": {"value": 2}}),
        ({}, {"classes": [1]}),
        ({}, {"identity": None}),
        ({}, {"contract": []}),
        ({}, {"contract": {"recall": "0.9"}}),
        ({}, {"contract": {"recall": 0.9}}),
        ({}, {"contract": {**CONTRACT, "latency_seconds": "fast"}}),
        ({}, {"trials": [{"name": "flat"}]}),
        ({}, {"recall": {"value": "1", "low": 1, "high": 1, "k": 10, "queries": 0, "method": "exact"}}),
        ({}, {"measured_rows": None}),
    ],
)
def test_index_with_invalid_content_and_valid_checksums_is_refused(
    tmp_path: Path, arrays: dict[str, np.ndarray], meta: dict[str, object]
) -> None:
    path = tmp_path / "x"
    saved(path)
    sealed_again(path, arrays, meta)
    with pytest.raises((DamagedError, UsageError)) as caught:
        FeatureIndex.open(path)
    assert "\n" not in str(caught.value)


def test_index_of_a_newer_format_is_refused(tmp_path: Path) -> None:
    saved(tmp_path / "x")
    sealed_again(tmp_path / "x", {}, {"format": 2})
    with pytest.raises(UsageError, match="upgrade"):
        FeatureIndex.open(tmp_path / "x")


def write_many(path: str, seed: int, rounds: int) -> dict[str, int]:
    """Save an index again and again until ``rounds`` saves succeeded; return the numbers of successful and refused
    saves.
    """
    index = build_index(clusters(60, 8, seed), np.arange(60) * 7, [f"{seed}/{row}" for row in range(60)], kind="flat")
    told = {"saved": 0, "refused": 0}
    while told["saved"] < rounds:
        try:
            index.save(path)
            told["saved"] += 1
        except UsageError as error:
            told["refused"] += "is writing this index; wait until it is done" in str(error)
            time.sleep(0.005)
    return told


@pytest.mark.slow
def test_concurrent_saves_either_succeed_or_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x"
    saved(path)
    code = "import sys, json; from tests.indexes.files.test_pair import write_many; print(json.dumps(write_many(sys.argv[1], int(sys.argv[2]), 30)))"
    writers = [
        subprocess.Popen([sys.executable, "-c", code, str(path), str(seed)], stdout=subprocess.PIPE, text=True)
        for seed in (1, 2)
    ]
    told = [json.loads(writer.communicate()[0]) for writer in writers]
    assert [writer.returncode for writer in writers] == [0, 0]
    assert [one["saved"] for one in told] == [30, 30]
    assert pair.verify(path) == []
    assert sorted(os.listdir(tmp_path)) == ["x", "x.featstore"]


def test_save_during_another_save_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "x"
    saved(path)
    index, before = (
        build_index(clusters(60, 8, 1), np.arange(60), list(map(str, range(60))), kind="flat"),
        path.read_bytes(),
    )
    refused = pytest.raises(UsageError, match=r"process \d+ on .* is writing this index")
    with atomic.only_writer(path, "index"), ThreadPoolExecutor(1) as other, refused:
        other.submit(index.save, path).result()
    assert path.read_bytes() == before
    assert pair.verify(path) == []


def test_index_names_are_limited_to_240_bytes(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 240)
    saved(path)
    assert pair.verify(path) == []
    with pytest.raises(UsageError, match=r"has 241 bytes, where 240 fit; choose a shorter one"):
        saved(tmp_path / ("x" * 241))
