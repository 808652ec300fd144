from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from featstore import defaults
from featstore.datasets import Dataset, fetch
from featstore.datasets.fetching import RECORD
from featstore.errors import DamagedError, FeatstoreError, UsageError
from tests.datasets.archives import made_tgz, made_zip
from tests.datasets.serving import Server

TRAIN = {"pictures/cat/1.jpg": b"1" * 100, "pictures/dog/2.jpg": b"22" * 100, "readme.txt": b"x"}
TEST = {"held/cat/3.jpg": b"333" * 100}


def split_dataset(server: Server) -> Dataset:
    return server.dataset(
        server.archive("train.zip", made_zip(TRAIN), to="train"),
        server.archive("test.tgz", made_tgz(TEST), inside="held", to="test"),
    )


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_all_archives_are_unpacked_into_one_folder(server: Server, tmp_path: Path) -> None:
    told: list[tuple[int, int, str]] = []
    dataset = split_dataset(server)
    fetch(dataset, tmp_path / "new" / "pets", progress=lambda *what: told.append(what))
    found = content(tmp_path / "new")
    assert found.pop(f"pets/{RECORD}")
    assert found == {
        "pets/train/cat/1.jpg": b"1" * 100,
        "pets/train/dog/2.jpg": b"22" * 100,
        "pets/test/cat/3.jpg": b"333" * 100,
    }
    assert told[0] == (0, dataset.size, "train.zip")
    assert told[-1] == (dataset.size, dataset.size, "unpacking")
    assert [done for done, _, _ in told] == sorted(done for done, _, _ in told)


def test_fetching_a_data_set_does_not_change_a_finished_folder(server: Server, tmp_path: Path) -> None:
    dataset = split_dataset(server)
    fetch(dataset, tmp_path / "pets")
    before = (tmp_path / "pets").stat().st_ino
    server.requests.clear()
    fetch(dataset, tmp_path / "pets")
    assert server.requests == []
    assert (tmp_path / "pets").stat().st_ino == before


def test_downloaded_data_set_that_was_changed_is_rejected(server: Server, tmp_path: Path) -> None:
    dataset = split_dataset(server)
    fetch(dataset, tmp_path / "pets")
    (tmp_path / "pets/train/cat/1.jpg").write_bytes(b"")
    with pytest.raises(
        UsageError, match=r"was changed since it was unpacked \(3 files of 500 bytes instead of 3 of 600"
    ):
        fetch(dataset, tmp_path / "pets")


@pytest.mark.parametrize("what", ["file", "folder", "record", "other", "link"])
def test_fetching_a_data_set_refuses_a_folder_with_other_content(server: Server, tmp_path: Path, what: str) -> None:
    place = tmp_path / "pets"
    if what == "file":
        place.write_text("mine")
    elif what == "link":
        (tmp_path / "elsewhere").mkdir()
        place.symlink_to(tmp_path / "elsewhere")
    else:
        place.mkdir()
        (place / "mine.txt").write_text("mine")
    if what == "record":
        (place / RECORD).write_text("{}")
    if what == "other":
        (place / "mine.txt").unlink()
        made = split_dataset(server)
        fetch(Dataset("other", made.title, made.layout, made.licence, made.home, made.archives), place)
    server.requests.clear()
    before = content(tmp_path)
    with pytest.raises(UsageError, match="name a new folder"):
        fetch(split_dataset(server), place)
    assert server.requests == []
    assert content(tmp_path) == before


def test_fetching_a_data_set_fills_an_empty_folder(server: Server, tmp_path: Path) -> None:
    (tmp_path / "pets").mkdir()
    fetch(split_dataset(server), tmp_path / "pets")
    assert len(content(tmp_path / "pets")) == 4


def test_broken_download_leaves_no_folder_and_is_resumed(server: Server, tmp_path: Path) -> None:
    dataset = split_dataset(server)
    size = dataset.archives[0].size
    server.cut_after = [size, 10, *[0] * defaults.DOWNLOAD_ATTEMPTS]
    with pytest.raises(FeatstoreError, match="run the same command again"):
        fetch(dataset, tmp_path / "pets")
    assert sorted(content(tmp_path)) == ["pets.featstore-partial/test.tgz.part", "pets.featstore-partial/train.zip"]
    server.requests.clear()
    fetch(dataset, tmp_path / "pets")
    assert server.requests == ["bytes=10-"]
    assert len(content(tmp_path / "pets")) == 4
    assert not (tmp_path / "pets.featstore-partial").exists()


def test_interrupted_unpacking_is_restarted_from_the_beginning(server: Server, tmp_path: Path) -> None:
    left = tmp_path / "pets.featstore-partial" / "unpacked" / "train" / "cat"
    left.mkdir(parents=True)
    (left / "1.jpg").write_bytes(b"half")
    (left / "stale.jpg").write_bytes(b"stale")
    fetch(split_dataset(server), tmp_path / "pets")
    assert sorted(content(tmp_path / "pets")) == [RECORD, "test/cat/3.jpg", "train/cat/1.jpg", "train/dog/2.jpg"]
    assert (tmp_path / "pets/train/cat/1.jpg").read_bytes() == b"1" * 100


def test_archive_placed_by_the_user_is_not_downloaded(server: Server, tmp_path: Path) -> None:
    dataset = split_dataset(server)
    work = tmp_path / "pets.featstore-partial"
    work.mkdir()
    for name, data in server.files.items():
        (work / name).write_bytes(data)
    fetch(dataset, tmp_path / "pets")
    assert server.requests == []
    assert len(content(tmp_path / "pets")) == 4


def test_fetching_a_data_set_keeps_files_of_the_user_beside_partial_downloads(server: Server, tmp_path: Path) -> None:
    work = tmp_path / "pets.featstore-partial"
    work.mkdir()
    (work / "mine.txt").write_text("mine")
    fetch(split_dataset(server), tmp_path / "pets")
    assert content(work) == {"mine.txt": b"mine"}


def test_an_unsafe_archive_leaves_no_folder(server: Server, tmp_path: Path) -> None:
    dataset = server.dataset(server.archive("a.zip", made_zip({"pictures/1.jpg": b"1", "../evil.jpg": b"2"})))
    with pytest.raises(DamagedError, match="unsafe name"):
        fetch(dataset, tmp_path / "pets")
    assert not (tmp_path / "pets").exists()
    assert not list(tmp_path.rglob("evil.jpg"))


def test_fetching_a_data_set_refuses_a_folder_in_use_by_another_process(server: Server, tmp_path: Path) -> None:
    work = tmp_path / "pets.featstore-partial"
    work.mkdir()
    handle = os.open(work, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        with pytest.raises(UsageError, match="another process"):
            fetch(split_dataset(server), tmp_path / "pets")
    finally:
        os.close(handle)
    fetch(split_dataset(server), tmp_path / "pets")
    assert len(content(tmp_path / "pets")) == 4
