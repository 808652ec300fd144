"""Tests of the command ``featstore extract``."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time

import pytest

from featstore.store import FeatureStore
from tests.cli.running import SMALL, WITHOUT, loaded_by, run, run_json
from tests.made import write_pictures


def test_extract_and_label_print_where_classes_splits_and_keys_were_read_from(place, tmp_path):
    said = run("extract", place / "pictures", place / "s", *SMALL).stdout
    line = (
        "read: 2 classes from the second folder of each path, 2 splits (train, val) from the first, layout split/class"
    )
    assert line in said
    subprocess.run(["cp", "-r", place / "s", tmp_path / "s"], check=True)
    (tmp_path / "t.csv").write_text("path,label\ntrain/ant/1.jpg,queen\nnobody,x\n")
    said = run("label", tmp_path / "s", tmp_path / "t.csv", code=1).stdout
    assert "read: 2 classes from the column 'label', no splits, keys from the column 'path'" in said
    assert "1 key is not in the store: 'nobody'" in said


@pytest.mark.slow
def test_second_extract_computes_no_vectors(place):
    report = run_json("extract", "pictures", "s", *SMALL, cwd=place)
    assert (report["change"]["unchanged"], report["new_vectors"], report["timings"]["forwarded"]) == (5, 0, 0)


@pytest.mark.parametrize("options", [(), SMALL, ("--units", "0/2"), ("--units", "1/2")])
def test_extract_without_new_pictures_starts_no_process_and_loads_no_network(place, options):
    assert loaded_by(("extract", "pictures", "s", *options), cwd=place) == "loaded: []"


@pytest.mark.slow
def test_extract_of_an_unchanged_stdin_list_starts_no_process(place, tmp_path):
    names = "\0".join(str(path) for path in (place / "pictures").rglob("*.[jp][pn]g") if "bad" not in path.name)
    run("extract", "-", tmp_path / "s", *SMALL, stdin=names.encode())
    code = WITHOUT.format(commands=[["extract", "-", str(tmp_path / "s")]])
    result = subprocess.run([sys.executable, "-c", code], input=names.encode(), check=True, stdout=subprocess.PIPE)
    assert b"0 added, 0 changed, 0 retried, 4 unchanged" in result.stdout
    assert result.stdout.splitlines()[-1] == b"loaded: []"


@pytest.mark.slow
def test_extract_that_reads_no_picture_fails_with_the_reason(place, tmp_path):
    (tmp_path / "t.csv").write_text("path\ntrain/ant/1.jpg\n")
    result = run("extract", "t.csv", "s", *SMALL, cwd=tmp_path, code=1)
    assert "1 image = 0 vectors + 1 failure" in result.stdout
    assert "--root says where they are" in result.stdout
    result = run("extract", "t.csv", "s", "--root", place / "pictures", "--retry-failures", cwd=tmp_path)
    assert "1 image = 1 vector + 0 failures" in result.stdout


@pytest.mark.slow
def test_extract_reads_names_with_newlines_and_invalid_utf8_from_stdin(tmp_path):
    write_pictures(tmp_path, ["a b/1.jpg", "new\nline.png"])
    odd = os.fsencode(tmp_path) + b"/\xff.jpg"
    os.rename(os.fsencode(tmp_path) + b"/a b/1.jpg", odd)
    names = b"\0".join([b"new\nline.png", b"\xff.jpg", b"none.jpg"])
    report = run_json("extract", "-", "s", *SMALL, cwd=tmp_path, stdin=names)
    assert (report["vectors"], report["failures"]) == (2, 1)
    assert sorted(FeatureStore.open(tmp_path / "s")._key_bytes(None)) == [b"new\nline.png", b"\xff.jpg"]


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_extract_stopped_by_a_signal_is_resumed_by_the_same_command(tmp_path, number, code):
    write_pictures(tmp_path / "pictures", [f"{i:03d}.png" for i in range(40)])
    command = [
        sys.executable,
        "-m",
        "featstore",
        "extract",
        "pictures",
        "s",
        "--backbone",
        "efficientnet_lite0",
        "--batch",
        "1",
        "--workers",
        "1",
    ]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not list((tmp_path / "s").glob("work/0*/journal.0")):
        time.sleep(0.05)
    time.sleep(0.3)
    process.send_signal(number)
    output, error = process.communicate(timeout=60)
    assert process.returncode == code, (output, error)
    assert "stopped; run the same command to go on" in error
    assert "Traceback" not in error
    done = int(re.search(r"this run: ([\d,]+) vectors", output)[1])
    assert done < 40
    report = run_json("extract", "pictures", "s", "--backbone", "efficientnet_lite0", "--batch", "1", cwd=tmp_path)
    assert (report["new_vectors"], report["vectors"], report["pending"]) == (40 - done, 40, 0)
