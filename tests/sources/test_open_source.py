from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from featstore.errors import UsageError
from featstore.sources import open_source

from .helpers import keys, write


def test_open_source_detects_the_kind_of_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write(tmp_path, ["pictures/a.jpg"])
    for name in ("t.csv", "t.TSV", "noext"):
        (tmp_path / name).write_text("path\n")
    assert open_source(tmp_path / "pictures").kind == "folder"
    assert open_source(tmp_path / "t.csv").kind == "table"
    assert open_source(str(tmp_path / "t.TSV")).kind == "table"
    assert open_source(tmp_path / "noext").kind == "list"
    assert open_source(tmp_path / "noext", kind="table").kind == "table"
    assert open_source(tmp_path / "t.csv", kind="list").kind == "list"
    monkeypatch.chdir(tmp_path)
    assert open_source("pictures").location == str(tmp_path / "pictures")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("none", {}, "No such file"),
        ("https://host.example/a.tar", {}, "addresses such as https:// or s3:// are not opened"),
        ("s3://bucket/a.parquet", {}, "addresses such as https:// or s3:// are not opened"),
        ("nul\0", {}, "null byte"),
        ("none", {"kind": "tar"}, "does not exist"),
        ("none", {"kind": "table"}, "does not exist"),
        ("list", {"kind": "folder"}, "is no folder"),
        ("list", {"kind": "zip"}, "choose one of folder, table, tar, list"),
        ("list", {"layout": "class"}, "kind list takes no layout"),
        ("pictures", {"label_column": "y"}, "kind folder takes no label_column"),
        ("list", {"all_files": True}, "kind list takes no all_files"),
        ("list", {"root": "none"}, "none: the root is no folder"),
        ("pictures/a.jpg", {}, "is one file; name its folder"),
        ("gz", {}, "is compressed"),
        ("socket", {}, "neither a folder nor a file"),
    ],
)
def test_open_source_rejects_invalid_locations_and_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, options: dict[str, Any], message: str
):
    import socket

    monkeypatch.chdir(tmp_path)
    write(tmp_path, ["pictures/a.jpg", "list"])
    (tmp_path / "gz").write_bytes(b"\x1f\x8b123")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        with pytest.raises(UsageError, match=message) as caught:
            open_source(name, **options)
    assert str(caught.value).isprintable()


def test_source_folders_may_have_names_of_any_bytes(tmp_path: Path):
    folder = os.fsencode(tmp_path) + b"/\xff\n"
    write(tmp_path, [b"\xff\n/a.jpg"])
    source = open_source(os.fsdecode(folder))
    assert keys(source) == [b"a.jpg"]
    assert os.fsencode(source.describe()["location"]) == folder
    (Path(os.fsdecode(folder)) / "a.jpg").unlink()
    with pytest.raises(UsageError, match=r"\\udcff\\n: holds no pictures"):
        keys(source)


def test_opening_a_folder_does_not_import_large_libraries(tmp_path: Path):
    write(tmp_path, ["a.jpg"])
    program = (
        f"import sys\nfrom featstore.sources import open_source\nopen_source({str(tmp_path)!r})\n"
        "print([name for name in ('torch', 'pandas', 'pyarrow', 'h5py', 'sklearn', 'faiss') if name in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True, env=environment)
    assert done.stdout.strip() == "[]"


def test_root_option_keeps_the_recorded_location_of_a_moved_folder(tmp_path):
    now = tmp_path / "now"
    (now / "a").mkdir(parents=True)
    (now / "a" / "1.png").write_bytes(b"x")
    source = open_source(tmp_path / "before", root=now)
    assert source.location == str(tmp_path / "before")
    (chunk,) = source.chunks()
    assert (chunk.keys, chunk.sizes.tolist(), chunk.labels) == ([b"a/1.png"], [1], ["a"])
