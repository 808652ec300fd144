from __future__ import annotations

import fcntl
import json
import os
import threading
from pathlib import Path

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from featstore.errors import DamagedError, UsageError
from featstore.files import atomic
from featstore.store.folders import MANIFEST


def test_atomic_write_makes_a_complete_file_or_none(tmp_path):
    with atomic.new_file(tmp_path / "a") as temporary:
        temporary.write_text("all")
        assert not (tmp_path / "a").exists()
    assert (tmp_path / "a").read_text() == "all"
    assert os.listdir(tmp_path) == ["a"]


def test_failed_write_keeps_the_old_file_and_removes_the_temporary_file(tmp_path):
    (tmp_path / "a").write_text("old")
    with pytest.raises(RuntimeError), atomic.new_file(tmp_path / "a") as temporary:
        temporary.write_text("new")
        raise RuntimeError
    assert (tmp_path / "a").read_text() == "old"
    assert os.listdir(tmp_path) == ["a"]


def test_output_path_whose_folder_is_missing_is_rejected(tmp_path):
    atomic.require_place(tmp_path / "a")
    with pytest.raises(UsageError, match="nowhere; make it first"):
        atomic.require_place(tmp_path / "nowhere" / "a")
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="there is no folder"):
        atomic.require_place(tmp_path / "file" / "a")


def test_output_path_inside_a_store_is_rejected(tmp_path):
    (tmp_path / "s" / "shards").mkdir(parents=True)
    (tmp_path / "s" / MANIFEST).touch()
    (tmp_path / "link").symlink_to("s")
    for place in ("s/m", "s/shards/m", "link/m"):
        with pytest.raises(UsageError, match=r"m: lies in the store .*s; name a place outside of it"):
            atomic.require_place(tmp_path / place)


def test_failed_write_names_the_final_path_in_its_error(tmp_path):
    with pytest.raises(OSError, match="No such file") as raised:
        atomic.write_bytes(tmp_path / "nowhere" / "a", b"")
    assert raised.value.filename == str(tmp_path / "nowhere" / "a")


def test_exclusive_write_keeps_the_existing_file(tmp_path):
    atomic.write_bytes(tmp_path / "a", b"first", exclusive=True)
    with pytest.raises(FileExistsError):
        atomic.write_bytes(tmp_path / "a", b"second", exclusive=True)
    assert (tmp_path / "a").read_bytes() == b"first"
    assert os.listdir(tmp_path) == ["a"]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text().filter(lambda name: name != "checksum"), json_values, max_size=4))
def test_json_files_round_trip_with_a_checksum(tmp_path_factory, value):
    path = tmp_path_factory.mktemp("json") / "a.json"
    atomic.write_json(path, value)
    assert atomic.read_json(path) == value
    assert json.loads(path.read_text())["checksum"] == xxhash.xxh3_128_hexdigest(atomic.canonical_json(value).encode())


def test_reading_json_with_a_checksum_finds_every_flipped_bit(tmp_path):
    path = tmp_path / "a.json"
    atomic.write_json(path, {"name": "x", "numbers": [1, 2.5, True, None], "deep": {"a": "b"}})
    data = path.read_bytes()
    for bit in range(0, 8 * len(data), 3):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with pytest.raises(DamagedError):
            atomic.read_json(path)


def test_file_checksum_starts_at_the_given_offset(tmp_path):
    data = os.urandom(9_000_000)
    (tmp_path / "a").write_bytes(data)
    assert atomic.checksum_file(tmp_path / "a", 1000) == xxhash.xxh3_128_hexdigest(data[1000:])


def test_error_for_a_second_writer_names_the_owner_of_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "x"
    with atomic.only_writer(path, "index"), atomic.only_writer(path, "index"):
        told: list[str] = []

        def second() -> None:
            try:
                with atomic.only_writer(path, "index"):
                    told.append("both")
            except UsageError as error:
                told.append(str(error))

        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
        assert f"process {os.getpid()} on" in told[0]
    assert os.listdir(tmp_path) == []
    with atomic.only_writer(path, "index"):
        pass


@pytest.mark.parametrize("locked", [False, True])
def test_second_writer_waits_until_the_lock_names_its_owner(tmp_path: Path, locked: bool) -> None:
    path, lock = tmp_path / "x", tmp_path / ".x.lock"
    handle = os.open(lock, os.O_RDWR | os.O_CREAT)
    if locked:
        fcntl.flock(handle, fcntl.LOCK_EX)

    def name_it() -> None:
        fcntl.flock(handle, fcntl.LOCK_EX)
        os.write(handle, b"featstore lock of process 7 on elsewhere")

    timer = threading.Timer(0.2, name_it)
    timer.start()
    with pytest.raises(UsageError, match="process 7 on elsewhere is writing this"), atomic.only_writer(path, "index"):
        pass
    timer.join()
    assert os.path.samestat(os.fstat(handle), os.stat(lock))
    os.close(handle)


def test_exclusive_write_succeeds_if_nfs_repeats_the_link_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = os.link

    def twice(*arguments: Path) -> None:
        link(*arguments)
        link(*arguments)

    monkeypatch.setattr(os, "link", twice)
    atomic.write_bytes(tmp_path / "claim", b"mine", exclusive=True)
    with pytest.raises(FileExistsError):
        atomic.write_bytes(tmp_path / "claim", b"other", exclusive=True)
    assert (tmp_path / "claim").read_bytes() == b"mine"


def test_lock_of_a_killed_writer_is_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atomic, "_LOCK_SECONDS", 0.1)
    path, lock = tmp_path / "x", tmp_path / ".x.lock"
    for left in (b"", b"featstore lock of process 1 on gone"):
        lock.write_bytes(left)
        with atomic.only_writer(path, "index"):
            assert str(os.getpid()).encode() in lock.read_bytes()
        assert not lock.exists()


@pytest.mark.parametrize("kind", ["file", "link", "fifo", "folder"])
def test_writer_does_not_delete_an_unrelated_file_at_the_lock_path(tmp_path: Path, kind: str) -> None:
    path, lock, own = tmp_path / "x", tmp_path / ".x.lock", tmp_path / "own"
    own.write_bytes(b"mine")
    {
        "file": lambda: lock.write_bytes(b"mine"),
        "link": lambda: lock.symlink_to(own),
        "fifo": lambda: os.mkfifo(lock),
        "folder": lock.mkdir,
    }[kind]()
    with pytest.raises(UsageError, match="is in the way"), atomic.only_writer(path, "index"):
        pass
    assert own.read_bytes() == b"mine"
    assert os.path.lexists(lock)


def test_file_names_of_255_bytes_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / ("\u00e9" * 127)
    atomic.require_place(path)
    atomic.write_bytes(path, b"x")
    assert path.read_bytes() == b"x"
    with pytest.raises(UsageError, match="has 256 bytes, where 255 fit"):
        atomic.require_place(tmp_path / ("x" * 256))


def test_cache_directory_is_none_without_a_home_directory(monkeypatch, tmp_path):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert atomic.cache_directory() == tmp_path / ".cache/featstore"
    # Without HOME and an entry in the user database, expanduser returns the path unchanged.
    monkeypatch.setattr(atomic.os.path, "expanduser", lambda path: path)
    assert atomic.cache_directory() is None
