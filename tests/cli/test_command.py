from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time

import pytest

from featstore.cli import VERBS
from featstore.store import FeatureStore
from tests.cli.running import run, run_json
from tests.made import write_pictures

SMALL = ("--backbone", "efficientnet_lite0", "--batch", "4")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with pictures and a finished store of them, which no test changes."""
    place = tmp_path_factory.mktemp("command")
    write_pictures(place / "pictures", ["train/ant/1.jpg", "train/bee/2.png", "val/ant/3.jpg", "val/bee/4.jpg"])
    (place / "pictures/val/bee/bad \n name.jpg").write_bytes(b"<html>")
    report = run_json("extract", place / "pictures", place / "s", *SMALL)
    assert (report["images"], report["vectors"], report["failures"], report["pending"]) == (5, 4, 1, 0)
    return place


def test_help_is_quick_and_loads_nothing_heavy():
    code = "import sys; from featstore.cli import featstore; featstore.main(['--help'], standalone_mode=False); print([m for m in ('torch', 'numpy', 'h5py', 'faiss', 'sklearn', 'pandas') if m in sys.modules])"
    output = subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.PIPE, text=True).stdout
    assert output.splitlines()[-1] == "[]"


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_examples(verb):
    assert "Examples:" in run(verb, "--help").stdout


def test_an_unknown_verb_is_the_users_mistake():
    assert "No such command 'exctract'; did you mean 'extract'?" in run("exctract", code=2).stderr
    assert "No such command 'zzz'\n" in run("zzz", code=2).stderr


def test_extract_and_label_say_what_they_understood(place, tmp_path):
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
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("extract", "nowhere", "s"), "nowhere: cannot be opened"),
        (("extract", "pictures", "s", "--backbone", "resnet5"), "resnet5"),
        (("extract", "pictures", "s", "--backbone", "efficientnet_lite0", "--units", "2/2"), "2/2"),
        (
            ("extract", "pictures", "s", "--backbone", "mobilenet_v2", "--weights", "random:0"),
            "features of efficientnet_lite0, not mobilenet_v2; leave --backbone out",
        ),
        (("extract", "pictures", "s", *SMALL, "--dtype", "float16"), "dtype float32, not float16"),
        (("info", "pictures"), "no feature store is here"),
        (("verify", "nowhere"), "nowhere"),
        (("label", "s", "nowhere.csv"), "nowhere.csv"),
    ],
)
def test_the_users_mistakes_are_one_line(place, arguments, words):
    error = run(*arguments, cwd=place, code=2).stderr
    assert words in error
    assert error.startswith(("featstore: ", "Usage: "))
    assert error.startswith("Usage: ") or error.count("\n") == 1


@pytest.mark.slow
def test_a_second_run_does_nothing(place):
    report = run_json("extract", "pictures", "s", *SMALL, cwd=place)
    assert (report["change"]["unchanged"], report["new_vectors"], report["timings"]["forwarded"]) == (5, 0, 0)


WITHOUT = """
import sys
from featstore.cli import featstore
from featstore.stages.extract.supervisor import _Attempt

def refuse(attempt):
    raise AssertionError("a process was started")

_Attempt.run = refuse
for command in {commands!r}:
    featstore.main(command, standalone_mode=False)
print("loaded:", [name for name in ("torch", "torchvision", "openvino", "PIL", "pandas") if name in sys.modules])
"""


def loaded_by(*commands, cwd):
    """Run commands in one process that cannot start another; return which of the large libraries it then has."""
    code = WITHOUT.format(commands=[list(map(str, command)) for command in commands])
    result = subprocess.run([sys.executable, "-c", code], cwd=cwd, check=True, stdout=subprocess.PIPE, text=True)
    return result.stdout.splitlines()[-1]


@pytest.mark.parametrize("options", [(), SMALL, ("--units", "0/2"), ("--units", "1/2")])
def test_nothing_new_starts_no_process_and_loads_no_network(place, options):
    assert loaded_by(("extract", "pictures", "s", *options), cwd=place) == "loaded: []"


def test_a_list_on_stdin_with_nothing_new_starts_no_process(place, tmp_path):
    names = "\0".join(str(path) for path in (place / "pictures").rglob("*.[jp][pn]g") if "bad" not in path.name)
    run("extract", "-", tmp_path / "s", *SMALL, stdin=names.encode())
    code = WITHOUT.format(commands=[["extract", "-", str(tmp_path / "s")]])
    result = subprocess.run([sys.executable, "-c", code], input=names.encode(), check=True, stdout=subprocess.PIPE)
    assert b"0 added, 0 changed, 0 retried, 4 unchanged" in result.stdout
    assert result.stdout.splitlines()[-1] == b"loaded: []"


def test_what_needs_no_picture_loads_no_network(place, tmp_path):
    subprocess.run(["cp", "-r", place / "s", tmp_path / "s"], check=True)
    (tmp_path / "t.csv").write_text("key,label\ntrain/ant/1.jpg,queen\n")
    commands = [
        ("index", "s"),
        ("info", "s"),
        ("info", "s.faiss"),
        ("search", "s.faiss", "--key", "train/ant/1.jpg"),
        ("label", "s", "t.csv"),
        ("failures", "s"),
        ("verify", "s"),
        ("index", "s", "--update"),
    ]
    assert loaded_by(*commands, cwd=tmp_path) == "loaded: []"


@pytest.mark.slow
def test_a_run_that_reads_nothing_fails_and_says_why(place, tmp_path):
    (tmp_path / "t.csv").write_text("path\ntrain/ant/1.jpg\n")
    result = run("extract", "t.csv", "s", *SMALL, cwd=tmp_path, code=1)
    assert "1 image = 0 vectors + 1 failure" in result.stdout
    assert "--root says where they are" in result.stdout
    result = run("extract", "t.csv", "s", "--root", place / "pictures", "--retry-failures", cwd=tmp_path)
    assert "1 image = 1 vector + 0 failures" in result.stdout


@pytest.mark.slow
def test_info_tells_what_is_there(place):
    found = run_json("info", place / "s")
    assert (found["vectors"], found["labels"], found["splits"]) == (4, {"ant": 2, "bee": 2}, {"train": 2, "val": 2})
    text = run("info", place / "s").stdout
    assert "5 images = 4 vectors + 1 failure + 0 pending" in text
    assert "1280-d float32 of efficientnet_lite0" in text


@pytest.mark.slow
def test_failures_are_listed_grouped_and_exported(place):
    found = run_json("failures", place / "s")
    assert found["reasons"] == {"not-a-picture": 1}
    text = run("failures", place / "s").stdout
    assert r"bad \n name.jpg: not-a-picture" in text
    assert run("failures", place / "s", "--csv").stdout.startswith("key,reason,message\n")


@pytest.mark.slow
def test_verify_finds_damage(place, tmp_path):
    assert ": whole" in run("verify", place / "s").stdout
    subprocess.run(["cp", "-r", place / "s", tmp_path / "s"], check=True)
    (shard,) = (tmp_path / "s" / "shards").iterdir()
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 4
    shard.write_bytes(data)
    assert "features does not match its checksum" in run("verify", tmp_path / "s", code=1).stdout


@pytest.mark.slow
def test_labels_and_compaction(place, tmp_path):
    subprocess.run(["cp", "-r", place / "s", tmp_path / "s"], check=True)
    shards = {path: path.stat().st_mtime_ns for path in (tmp_path / "s" / "shards").iterdir()}
    (tmp_path / "t.csv").write_text("key,label,weight\ntrain/ant/1.jpg,queen,2\nval/bee/4.jpg,,3\nnobody,x,1\n")
    report = run_json("label", tmp_path / "s", tmp_path / "t.csv", code=1)
    assert (report["matched"], report["unknown"], report["columns"]) == (2, 1, ["weight", "label"])
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "s" / "shards").iterdir()} == shards
    store = FeatureStore.open(tmp_path / "s")
    assert store.labels.tolist() == ["queen", "bee", "ant", None]
    assert store.column("weight").tolist() == [2, None, None, 3]
    assert run_json("compact", tmp_path / "s")["shards_rewritten"] == 0
    assert FeatureStore.open(tmp_path / "s").labels.tolist() == ["queen", "bee", "ant", None]


@pytest.mark.slow
def test_a_list_of_odd_names_on_stdin(tmp_path):
    write_pictures(tmp_path, ["a b/1.jpg", "new\nline.png"])
    odd = os.fsencode(tmp_path) + b"/\xff.jpg"
    os.rename(os.fsencode(tmp_path) + b"/a b/1.jpg", odd)
    names = b"\0".join([b"new\nline.png", b"\xff.jpg", b"none.jpg"])
    report = run_json("extract", "-", "s", *SMALL, cwd=tmp_path, stdin=names)
    assert (report["vectors"], report["failures"]) == (2, 1)
    assert sorted(FeatureStore.open(tmp_path / "s")._key_bytes(None)) == [b"new\nline.png", b"\xff.jpg"]


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_cleanly_and_the_same_command_goes_on(tmp_path, number, code):
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


def test_backbones_lists_what_there_is():
    found = {entry["name"]: entry for entry in run_json("backbones")}
    assert found["resnet50"]["dimension"] == 2048
    assert found["efficientnet_lite0"]["at_hand"] is True
    assert "resnet50" in run("backbones").stdout


def test_the_sample_is_written_once(tmp_path):
    assert run_json("sample", "digits", tmp_path / "d")["images"] == 1797
    before = (tmp_path / "d/0/0000.png").stat().st_mtime_ns
    run("sample", "digits", tmp_path / "d")
    assert (tmp_path / "d/0/0000.png").stat().st_mtime_ns == before
    (tmp_path / "e").mkdir()
    (tmp_path / "e" / "mine.txt").write_text("x")
    assert "holds other files" in run("sample", "digits", tmp_path / "e", code=2).stderr


@pytest.mark.slow
def test_a_closed_pipe_is_no_crash(place):
    command = f"{sys.executable} -m featstore info {place / 's'} --json | true"
    assert subprocess.run(["bash", "-c", command], check=False, stderr=subprocess.PIPE).stderr == b""
