"""Untrusted stores: featstore follows no link, deletes no foreign file, and never waits for a pipe."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from featstore.errors import DamagedError, FeatstoreError
from featstore.files import atomic, sealed
from featstore.stages.compact import compact
from featstore.stages.info import info
from featstore.store import FeatureStore, folders
from featstore.store.claims import Claims
from featstore.store.labels import set_columns
from featstore.store.repair.repairing import repair_store
from featstore.store.repair.verify import verify_store
from featstore.store.writer import sweep
from tests.store.building import Pictures, build, plan, work

SOURCE = Pictures({f"{number:02d}".encode(): number for number in range(12)})


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Return the path of an extracted store of three units, with one picture removed and one label set."""
    path = tmp_path / "s"
    build(path, SOURCE)
    plan(path, Pictures({key: value for key, value in SOURCE.content.items() if key != b"03"}))
    set_columns(path, [b"05"], {"label": ["five"]})
    (path / "work").mkdir(exist_ok=True)
    return path


@pytest.fixture(autouse=True)
def alarm() -> Iterator[None]:
    """Fail a test after 60 s, in case it blocks on a pipe or reads an endless device."""

    def ring(*_: object) -> None:
        raise TimeoutError("waited for ever")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def outside(tmp_path: Path) -> tuple[Path, dict[str, bytes]]:
    """Make a user's folder with file names as in a store; return its path and content."""
    home = tmp_path / "home"
    for name in (
        "thesis.txt",
        "000000/000000.h5",
        "000007/000000.h5",
        "000000-00000009.h5",
        "0000000000000001/claim.0",
        "0000000000000009/journal.0",
        "session-0123456789abcdef/claim.0",
        "plan-000009-000000",
    ):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_bytes(name.encode())
    return home, tree(home)


def tree(folder: Path) -> dict[str, bytes]:
    """Return the content of each file below ``folder`` by relative path; folders have empty content."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b"" for path in folder.rglob("*")}


VERBS: dict[str, Callable[[Path], object]] = {
    "open": FeatureStore.open,
    "info": info,
    "verify": lambda path: verify_store(path),
    "compact": compact,
    "label": lambda path: set_columns(path, [b"05"], {"label": ["V"]}),
    "extract": lambda path: (plan(path, Pictures({**SOURCE.content, b"99": 1})), _work(path)),
    "repair": lambda path: repair_store(path, None),
}


def _work(path: Path) -> None:
    with Claims(path) as claims:
        claims.join()
        sweep(path, claims)
    work(path, SOURCE)


@pytest.mark.parametrize("name", ["work", "shards", "plan", "tables", "written", "damaged"])
@pytest.mark.parametrize("verb", VERBS)
def test_link_in_place_of_a_store_folder_is_refused_and_not_followed(
    store: Path, tmp_path: Path, verb: str, name: str
) -> None:
    home, before = outside(tmp_path)
    shutil.rmtree(store / name, ignore_errors=True)
    (store / name).symlink_to(home)
    if verb == "verify":
        assert any("is a link or a file" in str(problem) for problem in verify_store(store).problems)
    else:
        with pytest.raises(DamagedError, match="is a link or a file where a store has a folder"):
            VERBS[verb](store)
    assert tree(home) == before
    assert (store / name).is_symlink()


@pytest.mark.parametrize("name", ["plan/000000", "tables/000000", "work/0000000000000000"])
@pytest.mark.parametrize("verb", VERBS)
def test_link_in_place_of_a_nested_folder_is_not_followed(store: Path, tmp_path: Path, verb: str, name: str) -> None:
    home, before = outside(tmp_path)
    if (store / name).is_dir():
        shutil.move(store / name, tmp_path / "moved")
    (store / name).symlink_to(home)
    with contextlib.suppress(DamagedError):
        VERBS[verb](store)
    assert tree(home) == before


def test_compaction_removes_links_but_not_their_targets(store: Path, tmp_path: Path) -> None:
    home, before = outside(tmp_path)
    (store / "plan" / "000007").symlink_to(home)
    (store / "tables" / "000007").symlink_to(home)
    (store / "work" / "session-0123456789abcdef").mkdir()
    (store / "work" / "session-0123456789abcdef" / "claim.0").symlink_to(home / "thesis.txt")
    (store / "shards" / "000001-00000000.h5").symlink_to(home / "thesis.txt")
    compact(store)
    assert tree(home) == before
    assert not (store / "shards" / "000001-00000000.h5").is_symlink()
    assert not (store / "work" / "session-0123456789abcdef").exists()
    assert verify_store(store).problems == []


@pytest.mark.parametrize("name", ["featstore.json", "plan/000000/000000.h5", "tables/000000/000000.h5"])
def test_link_in_place_of_a_file_is_refused(store: Path, tmp_path: Path, name: str) -> None:
    shutil.move(store / name, tmp_path / "elsewhere")
    (store / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DamagedError, match="is a symbolic link"):
        FeatureStore.open(store)
    assert verify_store(store).problems


def test_repair_sets_aside_a_link_in_place_of_a_shard_but_not_its_target(store: Path, tmp_path: Path) -> None:
    target = tmp_path / "elsewhere.h5"
    shard = store / "shards" / "000000-00000001.h5"
    shutil.move(shard, target)
    shard.symlink_to(target)
    before = target.read_bytes(), target.stat().st_nlink
    report = repair_store(store, None)
    assert report.pending == [1]
    assert os.readlink(report.aside[0]) == str(target)
    assert (target.read_bytes(), target.stat().st_nlink) == before
    assert FeatureStore.open(store).counts.pending == 5


@pytest.mark.parametrize(
    "name",
    [
        "shards/000000-00000001.h5",
        "plan/000000/000000.h5",
        "tables/000000/000000.h5",
        "featstore.json",
    ],
)
def test_store_refuses_a_pipe_in_place_of_a_file(store: Path, name: str) -> None:
    (store / name).unlink()
    os.mkfifo(store / name)
    with pytest.raises(DamagedError, match="is no regular file"):
        FeatureStore.open(store)
    assert verify_store(store).problems


@pytest.mark.parametrize("kind", ["pipe", "link", "folder"])
def test_store_ignores_links_pipes_and_folders_in_place_of_its_work_files(
    store: Path, tmp_path: Path, kind: str
) -> None:
    plan(store, Pictures({**SOURCE.content, b"99": 1}))
    (unit,) = FeatureStore.open(store)._pending_units()
    folder = store / "work" / f"{unit.number:016d}"
    folder.mkdir()
    secret = tmp_path / "secret"
    secret.write_bytes(b"{}")
    for name in ("claim.0", "journal.0", "culprit.0"):
        if kind == "pipe":
            os.mkfifo(folder / name)
        elif kind == "link":
            (folder / name).symlink_to(secret)
        else:
            (folder / name).mkdir()
    work(store, Pictures({**SOURCE.content, b"99": 1}))
    assert FeatureStore.open(store).counts.pending == 0
    assert secret.read_bytes() == b"{}"


def test_claim_file_with_a_huge_number_does_not_slow_down_claiming_a_unit(store: Path) -> None:
    folder = store / "work" / "session-0123456789abcdef"
    folder.mkdir()
    (folder / "claim.999999999").write_bytes(b"{}")
    with Claims(store, lease_seconds=0) as claims:
        claim = claims.take(folder.name)
        assert not isinstance(claim, dict)
        claim = claims.take("compaction")
        assert claim.journals() == []


def test_manifest_linked_to_an_endless_device_is_refused(store: Path) -> None:
    (store / "featstore.json").unlink()
    (store / "featstore.json").symlink_to("/dev/zero")
    with pytest.raises(DamagedError, match="symbolic link"):
        FeatureStore.open(store)
    (store / "featstore.json").unlink()
    with open(store / "featstore.json", "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(DamagedError, match="are the most"):
        FeatureStore.open(store)


def test_compaction_reports_and_keeps_foreign_files(store: Path) -> None:
    names = [".DS_Store", "plan/.DS_Store", "plan/000000/.DS_Store", "shards/.DS_Store", "work/.DS_Store"]
    names += ["shards/@eaDir/x.h5", "plan/@eaDir/x", "tables/@eaDir/x", "work/@eaDir/x", "tables/000000/Thumbs.db"]
    for name in names:
        (store / name).parent.mkdir(exist_ok=True)
        (store / name).write_bytes(name.encode())
    tops = sorted({"/".join(name.split("/")[:2]) if "@eaDir" in name else name for name in names})
    assert verify_store(store).strangers == tops
    assert verify_store(store).problems == []
    set_columns(store, [b"05"], {"label": ["V"]})
    _work(store)
    report = compact(store)
    assert set(report.strangers) == set(tops)
    for name in names:
        assert (store / name).read_bytes() == name.encode()
    assert repair_store(store, None).restored == []
    assert FeatureStore.open(store).labels.tolist().count("V") == 1
    assert [path.name for path in (store / "plan").iterdir() if path.name.isdigit()].count("000001") == 1


def test_impossible_manifest_numbers_are_reported_as_damage_in_one_line(store: Path) -> None:
    manifest = atomic.read_json(store / "featstore.json")
    for change in ({"epoch": 10**18}, {"epoch": -1}, {"unit_rows": 10**18}, {"unit_rows": 0}):
        atomic.write_json(store / "featstore.json", {**manifest, **change})
        for verb in ("open", "compact", "label"):
            with pytest.raises(DamagedError, match="cannot be"):
                VERBS[verb](store)
    atomic.write_json(store / "featstore.json", {**manifest, "epoch": 999_999})
    with pytest.raises(DamagedError, match="is missing"):
        FeatureStore.open(store)


def reseal(path: Path, change: Callable[[dict[str, object]], None]) -> None:
    """Change the description (``meta``) of a sealed file and update all checksums."""
    found = sealed.SealedFile(path)
    arrays = {name: found[name].copy() for name in found.names if name != "meta"}
    meta, kind = found.meta, found.header["kind"]
    change(meta)
    sealed.write(path, kind, arrays, meta, found.summary)


@pytest.mark.parametrize(("name", "value"), [("next_id", 10**30), ("next_id", 1), ("next_unit", 1 << 60)])
def test_impossible_counters_of_ids_or_units_are_reported_as_damage(store: Path, name: str, value: int) -> None:
    reseal(store / "plan" / "000000" / "000001.h5", lambda meta: meta.update({name: value}))
    for verb in ("open", "compact", "extract"):
        with pytest.raises(DamagedError, match="numbers of ids and units"):
            VERBS[verb](store)


def test_store_with_huge_picture_ids_takes_no_extra_memory(store: Path) -> None:
    reseal(store / "plan" / "000000" / "000001.h5", lambda meta: meta.update({"next_id": 1 << 61}))
    VERBS["extract"](store)
    assert FeatureStore.open(store).ids.max() >= 1 << 61


@pytest.mark.parametrize("value", ["a text", 7, None, {"engine": "x"}, [1, "x", None, {"drift": {}}]])
def test_malformed_provenance_does_not_break_info_and_compaction(store: Path, value: object) -> None:
    for shard in (store / "shards").glob("*.h5"):
        reseal(shard, lambda meta: meta.update({"provenance": value}))
    assert json.dumps(info(store))
    compact(store)
    assert json.dumps(info(store))


def test_compaction_is_refused_until_claims_of_units_end(store: Path) -> None:
    started = time.monotonic()
    with Claims(store) as claims:
        claims.join()
        with pytest.raises(FeatstoreError, match="is being written by process"):
            compact(store)
    compact(store)
    assert time.monotonic() - started < 30
    assert folders.names(store, "work", pattern=folders.WORK_FOLDER) == []
