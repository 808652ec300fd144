"""The command in unusual environments: closed standard streams, a deleted working directory, ASCII locales."""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from featstore.store import FeatureStore
from tests.chain import names, write_coloured
from tests.cli.running import without_notice

pytestmark = pytest.mark.slow
"""The tests are slow because each one starts processes that import torch."""

ROOT = Path(__file__).resolve().parents[2]
NETWORK = ("--backbone", "efficientnet_lite0", "--engine", "torch")


def sh(script: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run a shell script in which ``$F`` stands for the featstore command; require that no traceback is printed."""
    given = {**os.environ, "PYTHONPATH": os.fspath(ROOT), "F": f"{sys.executable} -m featstore", **environment}
    done = subprocess.run(["sh", "-c", script], cwd=cwd, env=given, capture_output=True, check=False)
    done.stderr = without_notice(done.stderr)
    assert b"Traceback" not in done.stderr, done.stderr
    return done


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with pictures ("pictures"), their store ("a.store") and a head ("a.head")."""
    place = tmp_path_factory.mktemp("streams")
    write_coloured(place / "pictures", [*names("train", 4), *names("val", 2)])
    done = sh(f"$F extract pictures a.store {' '.join(NETWORK)} && $F train a.store --out a.head", place)
    assert done.returncode == 0, done.stderr
    return place


@pytest.mark.parametrize("closed", ["<&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_standard_streams_do_not_damage_a_store(place, tmp_path, closed):
    done = sh(f"$F extract {place}/pictures s {' '.join(NETWORK)} {closed}", tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(FeatureStore.open(tmp_path / "s")) == 12
    assert sh("$F verify s", tmp_path).returncode == 0


def test_closed_standard_input_is_read_as_an_empty_list(tmp_path):
    done = sh(f"$F extract - s {' '.join(NETWORK)} <&-", tmp_path)
    assert (done.returncode, b"names no path" in done.stderr) == (2, True)


def test_deleted_working_directory_is_reported_in_one_line(place, tmp_path):
    (tmp_path / "gone").mkdir()
    done = sh(f"cd gone && rmdir ../gone && $F predict {place}/a.head {place}/pictures", tmp_path)
    assert done.returncode == 2
    assert done.stderr.count(b"\n") == 1
    assert b"was deleted" in done.stderr


def test_python_functions_report_a_deleted_working_directory(place, tmp_path):
    code = (
        "import os, tempfile, featstore; d = tempfile.mkdtemp(); os.chdir(d); os.rmdir(d)\n"
        "from featstore.stages.extract import extract_supervised\n"
        "for call in (lambda: featstore.ImageEmbedder('efficientnet_lite0', engine='torch').fit([]),\n"
        f"    lambda: extract_supervised({os.fspath(place / 'pictures')!r}, {os.fspath(tmp_path / 's')!r})):\n"
        "    try: call()\n"
        "    except featstore.UsageError as error: print('was deleted' in str(error))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True)
    assert done.stdout.split() == [b"True", b"True"]


# POSIX is another name of the locale C.
def test_non_ascii_file_names_work_under_an_ascii_locale(place, tmp_path):
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    write_coloured(tmp_path / "p", ["ant/é.png", "bee/ü.png"])
    (tmp_path / "t.csv").write_text("path,label\nant/é.png,fourmi à pied\nbee/ü.png,Käfer\n", encoding="utf-8")
    done = sh(f"$F extract p s {' '.join(NETWORK)} && $F label s t.csv && $F info s", tmp_path, **ascii_only)
    assert done.returncode == 0, done.stderr
    store = FeatureStore.open(tmp_path / "s")
    assert set(store.keys) == {"ant/é.png", "bee/ü.png"}
    assert set(store.labels) == {"fourmi à pied", "Käfer"}
    done = sh(f"$F predict {place}/a.head p", tmp_path, **ascii_only)
    assert "ant/é.png" in done.stdout.decode()


def test_file_names_are_read_the_same_way_under_every_locale(tmp_path):
    write_coloured(tmp_path / "p", ["ant/é.png"])
    (tmp_path / "p" / "ant").rename(tmp_path / "p" / "fourmi à pied")
    (tmp_path / "t.csv").write_text("path,label\np/fourmi à pied/é.png,Käfer\n", encoding="utf-8")
    code = (
        "from featstore.sources import open_source\n"
        "for name in ('p', 't.csv'):\n"
        "    (chunk,) = open_source(name).chunks()\n"
        "    print(ascii(chunk.labels), ascii(chunk.keys), chunk.sizes[0] > 0)\n"
    )
    found = set()
    for locale in ("C", "C.UTF-8"):
        environment = {**os.environ, "LC_ALL": locale, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
        environment["PYTHONPATH"] = os.fspath(ROOT)
        done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True)
        assert done.returncode == 0, done.stderr
        found.add(done.stdout)
    assert len(found) == 1
    assert found.pop().count(b"True") == 2


def test_printed_text_escapes_characters_that_the_encoding_lacks(place, tmp_path):
    write_coloured(tmp_path, ["ant/é.png"])
    done = sh(f"$F predict {place}/a.head ant/é.png --csv", tmp_path, PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert rb"ant/\xe9.png,ant" in done.stdout


def test_a_picture_on_standard_input_is_classified(place):
    done = sh("cat pictures/train/ant/00.png | $F predict a.head -", place)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(b"standard input: ant")
    listed = sh("ls pictures/train/ant/*.png | $F predict a.head -", place)
    assert listed.stdout.count(b"\n") == 4


def test_error_names_the_file_type_of_binary_data_on_standard_input(place):
    for made, what in (("cat pictures/train/ant/00.png", "a picture"), ("tar cf - pictures", "a tar archive")):
        done = sh(f"{made} | $F extract - s {' '.join(NETWORK)}", place)
        assert done.returncode == 2
        assert f"standard input: holds {what}, not a list of paths" in done.stderr.decode()
        assert not (place / "s").exists()


def test_repeated_library_warning_is_printed_once_with_its_count(place, tmp_path):
    pixels = (np.random.default_rng(0).random((40, 40, 3)) * 255).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "whole.tif", compression="tiff_lzw")
    data = bytearray((tmp_path / "whole.tif").read_bytes())
    data[200:260] = b"\xff" * 60
    (tmp_path / "p").mkdir()
    for number in range(3):
        (tmp_path / "p" / f"{number}.tif").write_bytes(data)
    assert sh("$F index a.store --out a.faiss", place).returncode == 0
    search = f"$F search {place}/a.faiss p/0.tif p/1.tif p/2.tif"
    for command in (f"$F extract p s {' '.join(NETWORK)}", f"$F predict {place}/a.head p", search):
        done = sh(command, tmp_path)
        said = [line for line in done.stderr.decode().splitlines() if "not yet in table" in line]
        assert len(said) == 1, done.stderr
        assert said[0].endswith("(3 times)")


def test_image_embedder_in_a_forked_child_advises_the_start_method_spawn(place):
    code = (
        "import multiprocessing, os, sys, featstore\n"
        "E = featstore.ImageEmbedder('efficientnet_lite0', engine='torch')\n"
        "paths = ['pictures/train/ant/00.png']\n"
        "E.transform(paths)\n"
        "if (child := os.fork()) == 0:\n"
        "    for embedder in (E, featstore.ImageEmbedder('efficientnet_lite0', engine='torch')):\n"
        "        try: embedder.transform(paths)\n"
        "        except featstore.UsageError as error: print('spawn' in str(error), flush=True)\n"
        "    os._exit(0)\n"
        "os.waitpid(child, 0)\n"
        "print(E.transform(paths).shape)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=place,
        env={**os.environ, "PYTHONPATH": os.fspath(ROOT)},
        capture_output=True,
        timeout=200,
    )
    assert done.stdout.decode().splitlines() == ["True", "True", "(1, 1280)"], done.stderr


def test_exit_code_is_the_same_if_standard_error_cannot_be_written(place, tmp_path):
    for words in ("info nowhere", "info", "bogus"):
        assert sh(f"$F {words} 2>/dev/full", tmp_path).returncode == 2
    assert sh(f"$F failures {place}/a.store 2>/dev/full", tmp_path).returncode == 0


def test_standard_streams_opened_in_the_wrong_direction_are_reported(place, tmp_path):
    for words in (f"predict {place}/a.head - 0>written", f"info {place}/a.store 1</dev/null"):
        done = sh(f"$F {words}", tmp_path)
        assert (done.returncode, done.stderr.count(b"\n")) == (1, 1)
        assert b"open standard input for reading, and standard output for writing" in done.stderr


def test_non_blocking_full_output_pipe_loses_no_output(tmp_path):
    command = [sys.executable, "-m", "featstore", "extract", "--help"]
    environment = {**os.environ, "PYTHONPATH": os.fspath(ROOT)}
    whole = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, check=True).stdout
    reader, writer = os.pipe()
    size = fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    assert len(whole) > size
    os.set_blocking(writer, False)
    child = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=writer)
    os.close(writer)
    # Wait until the pipe is full or the command has ended; start to read only after that.
    while child.poll() is None and size != struct.unpack("i", fcntl.ioctl(reader, termios.FIONREAD, bytes(4)))[0]:
        time.sleep(0.05)
    with open(reader, "rb") as file:
        found = file.read()
    assert (child.wait(), found) == (0, whole)


def test_python_functions_work_without_standard_streams(place):
    code = (
        "import sys, io; sys.stdin = sys.stdout = sys.stderr = None\n"
        "import featstore\n"
        "from featstore.stages.predict import predict\n"
        "E = featstore.ImageEmbedder('efficientnet_lite0', engine='torch')\n"
        "paths = ['pictures/train/ant/00.png']\n"
        "shape = E.transform(paths).shape\n"
        "sys.stdout = sys.stderr = io.StringIO()\n"
        "label = [one.label for one in predict('a.head', paths)]\n"
        "sys.__stdout__.write(f'{shape} {label}')\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.fspath(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], cwd=place, env=environment, capture_output=True, text=True)
    assert done.stdout == "(1, 1280) ['ant']", done.stderr
