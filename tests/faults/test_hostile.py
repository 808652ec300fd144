"""Hostile files: each file is refused with a message of one line, and code in the file is not executed."""

from __future__ import annotations

import contextlib
import csv
import io
import os
import pickle
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import joblib
import numpy as np
import pytest
import torch

from featstore.backbones.checkpoints import read_state
from featstore.errors import DamagedError, FeatstoreError
from featstore.files import atomic, sealed
from featstore.heads import load_head
from featstore.indexes import FeatureIndex
from featstore.indexes.files.vetting import vet
from featstore.processes import sandbox
from featstore.stages.repair import repair
from featstore.stages.verify import verify
from featstore.store import FeatureStore, shards
from featstore.store.plan import Plan
from tests.made import extract, picture, tiny_backbone, write_pictures
from tests.store import building


class Payload:
    """An object that makes the folder ``mark`` when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (os.fspath(self.mark),)


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """Return the path of the folder that a Payload makes when it is executed."""
    return tmp_path / "was-executed"


def payloads(mark: Path) -> dict[str, bytes]:
    """Return files (bytes) by kind of file; unsafe readers such as pickle.load execute the Payload in them."""
    made = {"pickle": pickle.dumps(Payload(mark)), "pickle in a list": pickle.dumps([1, {"state_dict": Payload(mark)}])}
    for name, save in (
        ("joblib", lambda stream: joblib.dump({"model": Payload(mark)}, stream)),
        ("npy", lambda stream: np.save(stream, np.array([Payload(mark)], object), allow_pickle=True)),
        ("npz", lambda stream: np.savez(stream, features=np.array([Payload(mark)], object))),
        ("torch", lambda stream: torch.save({"state_dict": Payload(mark)}, stream)),
        ("old torch", lambda stream: torch.save({"a": Payload(mark)}, stream, _use_new_zipfile_serialization=False)),
    ):
        stream = io.BytesIO()
        save(stream)
        made[name] = stream.getvalue()
    return made


def refused(read: Callable[[], object]) -> str:
    """Call ``read``, check that it raises an error with a message of one line, and return the message."""
    with pytest.raises(FeatstoreError) as caught:
        read()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_attack_code_in_test_files_runs_in_unsafe_readers_such_as_pickle(mark: Path) -> None:
    pickle.loads(payloads(mark)["pickle"])
    assert mark.is_dir()


def test_featstore_never_executes_attack_code_in_files(master: Path, tmp_path: Path, mark: Path) -> None:
    folder = tmp_path / "all"
    shutil.copytree(master, folder)
    store = folder / "store"
    plan, table = next((store / "plan").rglob("*.h5")), next((store / "tables").rglob("*.h5"))
    shard = next((store / "shards").glob("*.h5"))
    for name, data in payloads(mark).items():
        for suffix in (".pth", ".safetensors", ".bin"):
            checkpoint = tmp_path / f"weights{suffix}"
            checkpoint.write_bytes(data)
            refused(lambda checkpoint=checkpoint: read_state(checkpoint))
        victims: list[tuple[Path, Callable[[], object]]] = [
            (folder / "a.head", lambda: load_head(folder / "a.head")),
            (folder / "an.index", lambda: FeatureIndex.open(folder / "an.index")),
            (folder / "an.index.featstore", lambda: FeatureIndex.open(folder / "an.index")),
            (store / "featstore.json", lambda: FeatureStore.open(store)),
            (plan, lambda: FeatureStore.open(store)),
            (table, lambda: FeatureStore.open(store)),
            (shard, lambda: FeatureStore.open(store)),
        ]
        for file, read in victims:
            whole = file.read_bytes()
            file.write_bytes(data)
            refused(read)
            assert verify(store if store in file.parents else file).problems, (name, file)
            with contextlib.suppress(DamagedError):
                if store in file.parents and file != shard:
                    repair(store, set_aside=True)
            shutil.rmtree(store / "damaged", ignore_errors=True)
            file.write_bytes(whole)
    assert not mark.exists()
    assert not verify(store).problems


def hdf5_with(path: Path, kind: str, secret: Path) -> None:
    """Write an HDF5 file whose vectors lie in the file ``secret``: ``kind`` is the HDF5 feature that refers to it."""
    with h5py.File(path, "w", userblock_size=1024) as file:
        if kind == "external link":
            file["features"] = h5py.ExternalLink(secret, "/secret")
        elif kind == "external storage":
            file.create_dataset("features", (4, 8), "<f4", external=[(os.fspath(secret), 0, h5py.h5f.UNLIMITED)])
        else:
            layout = h5py.VirtualLayout((4, 8), "<f4")
            layout[:] = h5py.VirtualSource(secret, "secret", (4, 8))
            file.create_virtual_dataset("features", layout)


@pytest.mark.parametrize("kind", ["external link", "external storage", "virtual dataset"])
@pytest.mark.parametrize("with_header", [False, True])
def test_hdf5_files_with_data_in_another_file_are_rejected(
    master: Path, tmp_path: Path, kind: str, with_header: bool
) -> None:
    store = tmp_path / "store"
    shutil.copytree(master / "store", store)
    shard = next((store / "shards").glob("*.h5"))
    header = sealed.read_header(shard)
    secret = tmp_path / "secret.h5"
    with h5py.File(secret, "w") as file:
        file["secret"] = np.full((4, 8), 42, "<f4")
    shard.unlink()
    hdf5_with(shard, kind, secret)
    if with_header:
        # Add a valid featstore header, as an attacker could; the file does not contain the arrays that the header
        # lists.
        size = header.pop("header_bytes")
        data = shard.read_bytes()[1024:]
        header |= {"bytes": size + len(data), "xxh3": ""}
        shard.write_bytes(sealed._header_text(header, size) + data)
    refused(lambda: FeatureStore.open(store).features())
    assert verify(store).problems


def test_extract_reads_only_regular_files_inside_an_archive(tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    picture(9).save(secret)
    outside, archive = tmp_path / "outside.png", tmp_path / "a.tar"
    stream = io.BytesIO()
    picture(1).save(stream, "PNG")
    data = stream.getvalue()
    with tarfile.open(archive, "w") as tar:
        for name in ("good.png", "../outside.png", os.fspath(outside), "a/../../outside.png"):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
        for name, kind, target in (
            ("soft.png", tarfile.SYMTYPE, os.fspath(secret)),
            ("up.png", tarfile.SYMTYPE, "../secret.png"),
            ("hard.png", tarfile.LNKTYPE, os.fspath(secret)),
            ("device.png", tarfile.CHRTYPE, ""),
            ("fifo.png", tarfile.FIFOTYPE, ""),
        ):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, target
            tar.addfile(member)
    report = extract(archive, tmp_path / "store", backbone=tiny_backbone())
    store = FeatureStore.open(tmp_path / "store")
    assert not outside.exists()
    assert [key.rpartition("/")[2] for key in store.keys] == ["good.png"]
    assert report.images == report.vectors + report.failures
    assert {failure.reason for _, failure in store.failures()} <= {"not-a-file"}


def test_tables_and_lists_cannot_name_files_outside_the_root(tmp_path: Path) -> None:
    picture(9).save(tmp_path / "secret.png")
    inside = write_pictures(tmp_path / "inside", ["a.png"])
    os.mkfifo(inside / "fifo.png")
    paths = ["a.png", "../secret.png", "x/../../secret.png", "fifo.png", "/dev/zero"]
    with open(inside / "t.csv", "w", newline="") as file:
        csv.writer(file).writerows([["path"], *[[path] for path in paths]])
    (inside / "list.txt").write_text("\n".join(paths))
    for source in ("t.csv", "list.txt"):
        extract(inside / source, tmp_path / source, backbone=tiny_backbone())
        store = FeatureStore.open(tmp_path / source)
        assert list(store.keys) == ["a.png"]
        reasons = {key: failure.reason for key, failure in store.failures()}
        assert reasons == {
            "../secret.png": "outside-root",
            "x/../../secret.png": "outside-root",
            "fifo.png": "not-a-file",
            "/dev/zero": "not-a-file",
        }


def test_store_keys_cannot_name_files_outside_the_root(tmp_path: Path) -> None:
    picture(9).save(tmp_path / "secret.png")
    inside = write_pictures(tmp_path / "inside", ["a.png"])
    model, store = tiny_backbone(), tmp_path / "store"
    extract(inside, store, backbone=model)
    theirs = building.Pictures({b"../secret.png": 1, b"b/../../secret.png": 2}, location=os.fspath(inside))
    building.plan(
        store,
        theirs,
        identity=FeatureStore.open(store).identity,
        unit_rows=FeatureStore.open(store)._manifest.unit_rows,
    )
    extract(write_pictures(tmp_path / "others", ["c.png"]), store, backbone=model)
    opened = FeatureStore.open(store)
    assert {key: failure.reason for key, failure in opened.failures()} == {
        "../secret.png": "outside-root",
        "b/../../secret.png": "outside-root",
    }
    unit = next(unit for unit in opened.units if b"../secret.png" in opened._plan.rows(unit).keys)
    shards.shard_path(store, unit.number).write_bytes(b"x")
    repair(store, backbone=model, root=inside)
    assert {failure.reason for _, failure in FeatureStore.open(store).failures()} == {"outside-root"}
    assert len(Plan(store, 0)) == 3


def test_faiss_file_is_checked_in_a_child_process_only_once(
    master: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", os.fspath(tmp_path / "cache"))
    file = tmp_path / "an.index"
    shutil.copyfile(master / "an.index", file)
    rows = sealed.read_header(master / "an.index.featstore")["summary"]["rows"]
    vet(file, rows, 8, mmap=True)
    monkeypatch.setattr(sandbox, "call", lambda *_, **__: pytest.fail("looked at twice"))
    vet(file, rows, 8, mmap=True)
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", os.fspath(tmp_path / "cache"))
    data = bytearray(file.read_bytes())
    # Write a huge number as the length of the array of vectors; FAISS would allocate as much memory.
    at = data.index((rows * 8).to_bytes(8, "little"))
    data[at : at + 8] = (1 << 46).to_bytes(8, "little")
    file.write_bytes(data)
    refused(lambda: vet(file, rows, 8, mmap=False))


@pytest.mark.parametrize("depth", [300, 2000, 200_000])
def test_deeply_nested_json_is_refused(tmp_path: Path, depth: int) -> None:
    (tmp_path / "store").mkdir()
    manifest = tmp_path / "store" / "featstore.json"
    value: Any = []
    for _ in range(min(depth, 300)):
        value = [value]
    # The module json cannot write 2000 nested levels, so only the file with 300 levels has a valid checksum.
    atomic.write_json(manifest, {"identity": value})
    if depth > 300:
        manifest.write_text("[" * depth)
    refused(lambda: FeatureStore.open(tmp_path / "store"))
