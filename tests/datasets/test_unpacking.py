from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from featstore import defaults
from featstore.datasets.unpacking import unpack
from featstore.errors import DamagedError
from tests.datasets.archives import made_tgz, made_zip

PICTURE = np.random.default_rng(0).bytes(5000)
MAKERS = {".zip": made_zip, ".tgz": made_tgz}

both = pytest.mark.parametrize("ending", list(MAKERS))


def unpacked(folder: Path, ending: str, content: bytes, inside: str = "in") -> dict[str, bytes]:
    """Unpack the archive ``content`` below ``folder``; return the content of each unpacked file by path."""
    archive = folder / f"archive{ending}"
    archive.write_bytes(content)
    unpack(archive, inside, folder / "out")
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p != archive}


def refusal(folder: Path, ending: str, content: bytes) -> str:
    """Return the message of the DamagedError that unpacking ``content`` raises, or "". Other exceptions propagate."""
    try:
        unpacked(folder, ending, content)
    except DamagedError as error:
        return str(error)
    return ""


@both
def test_unpacking_writes_only_the_files_of_the_requested_folder(tmp_path: Path, ending: str) -> None:
    members = {"in/a/1.jpg": PICTURE, "in/2.jpg": b"", "other/3.jpg": b"3", "in": b"", "readme[1].txt": b"x"}
    assert unpacked(tmp_path, ending, MAKERS[ending](members)) == {"out/a/1.jpg": PICTURE, "out/2.jpg": b""}


def test_directory_entries_of_an_archive_are_skipped(tmp_path: Path) -> None:
    assert unpacked(tmp_path, ".zip", made_zip({"in/": b"", "in/a/": b"", "in/a/1.jpg": b"1"})) == {"out/a/1.jpg": b"1"}
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, kind in (("./in", tarfile.DIRTYPE), ("./in/2.jpg", tarfile.REGTYPE)):
            entry = tarfile.TarInfo(name)
            entry.type = kind
            archive.addfile(entry)
    assert unpacked(tmp_path, ".tgz", stream.getvalue())["out/2.jpg"] == b""


@both
@pytest.mark.parametrize(
    "name",
    ["../evil.jpg", "in/../../evil.jpg", "/evil.jpg", "in/a/../../../evil.jpg", "in//evil.jpg", "in\\..\\evil.jpg", "C:/evil.jpg", "."],
)  # fmt: skip
def test_archive_names_outside_the_target_folder_are_refused(tmp_path: Path, ending: str, name: str) -> None:
    before = set(tmp_path.parent.rglob("*evil*"))
    with pytest.raises(DamagedError, match="unsafe name"):
        unpacked(tmp_path, ending, MAKERS[ending]({"in/1.jpg": b"1", name: b"evil"}))
    assert set(tmp_path.parent.rglob("*evil*")) == before


def test_error_escapes_control_characters_in_the_name_of_an_archived_file(tmp_path: Path) -> None:
    with pytest.raises(DamagedError) as error:
        unpacked(tmp_path, ".tgz", made_tgz({"../\x1b[2J\n": b"evil"}))
    assert str(error.value).isprintable()


def test_links_in_a_zip_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DamagedError, match="is a link or a device"):
        unpacked(tmp_path, ".zip", made_zip({"in/1.jpg": b"1"}, links={"in/link": "/etc"}))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.GNUTYPE_SPARSE])  # fmt: skip
def test_links_and_devices_in_a_tar_are_refused(tmp_path: Path, kind: bytes) -> None:
    with pytest.raises(DamagedError):
        unpacked(tmp_path, ".tgz", made_tgz({"in/1.jpg": b"1"}, odd={"in/odd": kind}))
    assert not (tmp_path / "out" / "odd").exists()


def test_archive_with_an_encrypted_file_is_refused(tmp_path: Path) -> None:
    data = bytearray(made_zip({"in/1.jpg": b"1"}))
    for signature, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(signature) + at] |= 1
    with pytest.raises(DamagedError, match="is encrypted"):
        unpacked(tmp_path, ".zip", bytes(data))


@both
@pytest.mark.parametrize("name", ["in/bomb.jpg", "elsewhere/bomb.jpg"])
def test_archive_that_is_a_decompression_bomb_is_refused(tmp_path: Path, ending: str, name: str) -> None:
    content = MAKERS[ending]({name: bytes(40 << 20), "in/1.jpg": b"1"})
    if ending == ".zip" and name.startswith("elsewhere"):
        # In a ZIP, members outside the requested folder are not decompressed.
        assert unpacked(tmp_path, ending, content) == {"out/1.jpg": b"1"}
        return
    with pytest.raises(DamagedError, match="more than 10 times its size"):
        unpacked(tmp_path, ending, content)
    written = sum(path.stat().st_size for path in tmp_path.rglob("*.jpg"))
    assert written <= 10 * len(content) + (1 << 20)


@both
def test_archive_of_too_many_files_is_refused(tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(defaults, "UNPACKED_FILES", 3)
    with pytest.raises(DamagedError, match="more than 3 files"):
        unpacked(tmp_path, ending, MAKERS[ending]({f"in/{n}.jpg": PICTURE for n in range(4)}))


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("second", ["in/1.jpg", "in/1.jpg/2.jpg"])
def test_archive_with_two_files_of_one_name_is_refused(tmp_path: Path, second: str) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("in/1.jpg", b"1")
        archive.writestr(second, b"2")
    with pytest.raises(DamagedError, match="twice"):
        unpacked(tmp_path, ".zip", stream.getvalue())
    assert (tmp_path / "out/1.jpg").read_bytes() == b"1"


@both
def test_archive_without_the_requested_folder_is_refused(tmp_path: Path, ending: str) -> None:
    with pytest.raises(DamagedError, match="has no files in a folder in"):
        unpacked(tmp_path, ending, MAKERS[ending]({"other/1.jpg": PICTURE}))


@both
def test_damaged_archives_give_a_one_line_error(tmp_path: Path, ending: str) -> None:
    content = MAKERS[ending]({f"in/{n}.jpg": PICTURE for n in range(3)})
    random = np.random.default_rng(0)
    refused = 0
    for trial in range(150):
        damaged = bytearray(content)
        for at in random.integers(len(content), size=1 + trial % 3):
            damaged[at] ^= int(random.integers(1, 256))
        if trial % 5 == 0:
            del damaged[int(random.integers(len(content))) :]
        folder = tmp_path / str(trial)
        folder.mkdir()
        message = refusal(folder, ending, bytes(damaged))
        refused += bool(message)
        assert message.isprintable()
    # Not every change is detected: times, and the file name in the gzip header, have no checksum.
    assert refused > 100
