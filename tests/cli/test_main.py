"""Tests of all subcommands of ``featstore``: help, usage errors, and imported libraries."""

from __future__ import annotations

import subprocess
import sys

import pytest

from featstore.cli import VERBS
from tests.cli.running import SMALL, loaded_by, run


def test_command_help_imports_no_large_library():
    code = "import sys; from featstore.cli import featstore; featstore.main(['--help'], standalone_mode=False); print([m for m in ('torch', 'numpy', 'h5py', 'faiss', 'sklearn', 'pandas') if m in sys.modules])"
    output = subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.PIPE, text=True).stdout
    assert output.splitlines()[-1] == "[]"


@pytest.mark.parametrize("verb", VERBS)
def test_every_command_has_help_with_examples(verb):
    assert "Examples:" in run(verb, "--help").stdout


def test_unknown_command_is_a_usage_error():
    assert "No such command 'exctract'; did you mean 'extract'?" in run("exctract", code=2).stderr
    assert "No such command 'zzz'\n" in run("zzz", code=2).stderr


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
def test_invalid_arguments_of_any_command_give_a_one_line_error(place, arguments, words):
    error = run(*arguments, cwd=place, code=2).stderr
    assert words in error
    assert error.startswith(("featstore: ", "Usage: "))
    assert error.startswith("Usage: ") or error.count("\n") == 1


@pytest.mark.slow
def test_commands_that_read_no_pictures_load_no_network(place, tmp_path):
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
def test_closed_output_pipe_causes_no_traceback(place):
    command = f"{sys.executable} -m featstore info {place / 's'} --json | true"
    assert subprocess.run(["bash", "-c", command], check=False, stderr=subprocess.PIPE).stderr == b""
