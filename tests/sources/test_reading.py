from __future__ import annotations

import os
import pickle
import socket
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featstore.sources import ReadFailure, open_source, read_picture
from featstore.sources.reading import resolve, stat_picture

LIMIT = 1 << 20


def reason(root: Path, location: bytes, offset: int = -1, size: int = -1, limit: int = LIMIT) -> str:
    with pytest.raises(ReadFailure) as caught:
        read_picture(root, location, offset, size, limit=limit)
    assert "\n" not in str(caught.value)
    return caught.value.reason


def test_read_picture_returns_the_whole_file(tmp_path: Path):
    data = os.urandom(300_000)
    (tmp_path / "a.jpg").write_bytes(data)
    os.utime(tmp_path / "a.jpg", ns=(1, 1_234_567_891_234_567_891))
    for location in (b"a.jpg", os.fsencode(tmp_path / "a.jpg")):
        picture = read_picture(tmp_path, location, -1, 0, limit=LIMIT)
        assert picture.data == data
        assert (picture.size, picture.mtime_ns) == (len(data), 1_234_567_891_234_567_891)


def test_read_failure_names_the_reason_of_an_unreadable_file(tmp_path: Path):
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "large.jpg").write_bytes(b"x" * 11)
    (tmp_path / "directory.jpg").mkdir()
    (tmp_path / "dangling.jpg").symlink_to("nowhere")
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    os.mkfifo(tmp_path / "fifo.jpg")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(tmp_path / "socket.jpg"))
        assert reason(tmp_path, b"socket.jpg") == "not-a-file"
    assert reason(tmp_path, b"empty.jpg") == "empty"
    assert reason(tmp_path, b"large.jpg", limit=10) == "too-large"
    assert read_picture(tmp_path, b"large.jpg", -1, -1, limit=11).size == 11
    assert reason(tmp_path, b"directory.jpg") == "not-a-file"
    assert reason(tmp_path, b"fifo.jpg") == "not-a-file"
    assert reason(tmp_path, b"/dev/zero") == "not-a-file"
    for missing in (b"dangling.jpg", b"loop.jpg", b"none.jpg", b"large.jpg/x.jpg", b"x" * 300, b"nul\0.jpg", b"a\nb"):
        assert reason(tmp_path, missing) == "missing"
        assert stat_picture(os.fsencode(tmp_path), missing) == (-1, -1)


@contextmanager
def as_nobody() -> Iterator[None]:
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_read_failure_without_permission_has_the_reason_permission(tmp_path: Path):
    (tmp_path / "a.jpg").write_bytes(b"x")
    (tmp_path / "a.jpg").chmod(0)
    with as_nobody():
        assert reason(tmp_path, b"a.jpg") == "permission"


def test_read_picture_detects_a_file_changed_during_reading(tmp_path: Path):
    path = tmp_path / "a.jpg"
    path.write_bytes(b"x" * 1000)
    stop = threading.Event()

    def rewrite() -> None:
        while not stop.is_set():
            path.write_bytes(b"y" * 900_000)
            os.truncate(path, 500_000)

    thread = threading.Thread(target=rewrite)
    thread.start()
    try:
        reasons = set()
        for _ in range(20_000):
            try:
                picture = read_picture(tmp_path, b"a.jpg", -1, -1, limit=LIMIT)
                assert picture.size == len(picture.data)
            except ReadFailure as failure:
                reasons.add(failure.reason)
            if "changed-while-read" in reasons:
                break
    finally:
        stop.set()
        thread.join()
    assert "changed-while-read" in reasons
    assert reasons <= {"changed-while-read", "empty"}


def test_read_failure_after_an_io_error_has_the_reason_io_error():
    # Reading /proc/self/mem at offset 512 gives EIO: the first page of a process's memory is never mapped.
    assert reason(Path("/proc/self"), b"mem", 512, 10) == "io-error"


@pytest.mark.parametrize("location", [b"..", b"../a.jpg", b"a/../../b.jpg", b"./../b.jpg"])
def test_read_picture_opens_no_relative_path_outside_the_root(tmp_path: Path, location: bytes):
    root = tmp_path / "root"
    root.mkdir()
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).write_bytes(b"x")
    assert reason(root, location) == "outside-root"
    assert stat_picture(os.fsencode(root), location) == (-1, -1)


def test_read_picture_accepts_absolute_paths_and_dots_inside_the_root(tmp_path: Path):
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "a..b.jpg").write_bytes(b"x")
    (tmp_path / "c.jpg").write_bytes(b"yy")
    assert read_picture(tmp_path / "root", b"none/../a..b.jpg", -1, -1, limit=LIMIT).data == b"x"
    absolute = os.fsencode(tmp_path / "root" / ".." / "c.jpg")
    assert read_picture(tmp_path / "root", absolute, -1, -1, limit=LIMIT).data == b"yy"


@settings(deadline=None, max_examples=300)
@given(st.lists(st.sampled_from([b"..", b".", b"a", b"", b"b..c"]), min_size=1, max_size=8).map(b"/".join))
def test_no_relative_path_resolves_outside_the_root(location: bytes):
    if location.startswith(b"/"):
        return
    inside = (os.path.normpath(b"/the/root/" + location) + b"/").startswith(b"/the/root/")
    if inside:
        assert (os.path.normpath(resolve(b"/the/root", location)) + b"/").startswith(b"/the/root/")
    else:
        with pytest.raises(ReadFailure, match="leaves /the/root"):
            resolve(b"/the/root", location)


def test_read_failure_can_be_pickled():
    failure = pickle.loads(pickle.dumps(ReadFailure("missing", "a: gone")))
    assert (failure.reason, failure.message, str(failure)) == ("missing", "a: gone", "a: gone")


def archive_of(tmp_path: Path) -> Path:
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).write_bytes(name.encode() * 100)
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for name in ("a.jpg", "b.jpg"):
            archive.add(tmp_path / name, name)
    return tmp_path / "x.tar"


def test_archive_member_has_the_size_and_mtime_listed_by_the_source(tmp_path: Path):
    path = archive_of(tmp_path)
    (chunk,) = open_source(path).chunks()
    for index, name in enumerate((b"a.jpg", b"b.jpg")):
        picture = read_picture(tmp_path, b"x.tar", int(chunk.offsets[index]), int(chunk.sizes[index]), limit=LIMIT)
        assert picture.data == name * 100
        assert picture.size == chunk.sizes[index]
        assert picture.mtime_ns == chunk.mtimes[index]


def test_reading_from_a_changed_archive_is_an_error(tmp_path: Path):
    path = archive_of(tmp_path)
    (chunk,) = open_source(path).chunks()
    offset, size = int(chunk.offsets[1]), int(chunk.sizes[1])
    assert reason(tmp_path, b"x.tar", offset, size, limit=size - 1) == "too-large"
    assert reason(tmp_path, b"x.tar", offset, -1) == "not-a-file"
    assert reason(tmp_path, b"x.tar", offset, 0) == "empty"
    assert reason(tmp_path, b"x.tar", offset, size + 1) == "changed-while-read"
    assert reason(tmp_path, b"x.tar", offset + 7, size) == "changed-while-read"
    os.truncate(path, offset + size - 1)
    assert reason(tmp_path, b"x.tar", offset, size) == "changed-while-read"
    path.write_bytes(b"")
    assert reason(tmp_path, b"x.tar", offset, size) == "changed-while-read"
    path.unlink()
    assert reason(tmp_path, b"x.tar", offset, size) == "missing"


def test_web_address_becomes_a_failure_with_the_remedy(tmp_path: Path):
    with pytest.raises(ReadFailure, match=r"download the pictures and name their files") as caught:
        read_picture(tmp_path, b"https://host.example/a.jpg", -1, -1, limit=LIMIT)
    assert caught.value.reason == "missing"
