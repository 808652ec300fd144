"""Names and labels in untrusted files cannot act as control sequences or formulas in the output of commands."""

from __future__ import annotations

import ast
import csv
import io
import json
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from featstore import cli
from featstore.cli.output import csv_cell, json_text, say
from featstore.files import sealed
from featstore.sources import open_source
from featstore.stages.index import index
from featstore.stages.train import train
from tests.made import extract, tiny_backbone, write_pictures

ATTACK = "\x1b]52;c;Y3VybA==\x07\x1b[2J\x9b31m\u202e\r\nfeatstore: whole"


def raw(text: str) -> list[str]:
    """Return the control characters in ``text``, except line breaks."""
    return [c for c in text if c != "\n" and not c.isprintable()]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store, a head and an index; their keys, labels and descriptions contain the control characters of ATTACK."""
    place = tmp_path_factory.mktemp("attack")
    names = [
        f"{kind}{ATTACK.replace('/', '')}/{name}"
        for kind in "ab"
        for name in ("=1.png", "2.png", "3.png", "4.png", "5.png", "6.png")
    ]
    write_pictures(place / "pictures", names)
    (place / "pictures" / f"bad{ATTACK}.jpg").write_bytes(b"<html>")
    extract(open_source(place / "pictures", layout="class"), place / "s", backbone=tiny_backbone())
    index(place / "s", out=place / "an.index")
    train(place / "s", out=place / "a.head", C=1.0, folds=2)
    for path in (place / "an.index.featstore", place / "a.head"):
        file = sealed.SealedFile(path)
        arrays = {name: file[name].copy() for name in file.names if name != "meta"}
        sealed.write(path, file.header["kind"], arrays, _attacked(file.meta), file.summary)
    return place


Spoken = Callable[..., tuple[str, str]]


@pytest.fixture
def spoken(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Spoken:
    """A function that runs the command in this process and a given folder, and returns its stdout and stderr."""

    def speak(folder: Path, *arguments: str) -> tuple[str, str]:
        monkeypatch.chdir(folder)
        monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
        monkeypatch.setattr(sys, "excepthook", sys.excepthook)
        with pytest.raises(SystemExit):
            cli.main(list(arguments))
        return capfd.readouterr()

    return speak


def _attacked(value: object, name: str = "") -> object:
    """Return ``value`` (JSON) with ATTACK appended to every text, except texts that must be one of a few values."""
    if isinstance(value, dict):
        return {name: _attacked(inner, name) for name, inner in value.items()}
    if isinstance(value, list):
        return [_attacked(inner) for inner in value]
    free = isinstance(value, str) and name not in ("metric", "method", "model", "head", "fingerprint", "dtype")
    return f"{value}{ATTACK}" if free else value


@pytest.mark.parametrize(
    "arguments",
    [
        ("info", "s"),
        ("info", "an.index"),
        ("info", "a.head"),
        ("failures", "s"),
        ("failures", "s", "--csv"),
        ("verify", "s"),
        ("verify", "an.index"),
        ("predict", "a.head", "s"),
        ("predict", "a.head", "s", "--csv"),
        ("search", "an.index", "--key", f"a{ATTACK}/2.png"),
        ("search", "an.index", "--like-label", ATTACK),
        ("index", "s", "--update", "--out", "an.index"),
        ("duplicates", "s"),
        ("units", "s", "--unit", "0", "--least"),
        ("units", "s", "--head", "a.head", "--class", f"no{ATTACK}"),
        ("info", f"no{ATTACK}"),
        ("label", "s", f"no{ATTACK}.csv"),
        ("predict", "a.head", "s", f"--{ATTACK}"),
    ],
)
@pytest.mark.parametrize("as_json", [False, True])
def test_commands_print_no_control_characters_from_names(
    place: Path, spoken: Spoken, arguments: tuple[str, ...], as_json: bool
) -> None:
    json_too = as_json and "--csv" not in arguments
    out, err = spoken(place, *arguments, *(["--json"] if json_too else []))
    assert not raw(out)
    assert not raw(err)
    assert "featstore: whole" not in (out + err).split("\n")
    if json_too and out:
        json.loads(out)


def test_only_the_module_output_prints_text() -> None:
    for file in Path(cli.__file__).parent.glob("*.py"):
        if file.name == "output.py":
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            name = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            assert name not in ("print", "click.echo", "click.secho", "csv.writer", "sys.stdout.write", "json.dumps"), (
                file
            )


def test_json_output_escapes_control_characters() -> None:
    assert json.loads(json_text({"a": "\x7f\x1b\x9b"})) == {"a": "\x7f\x1b\x9b"}
    assert not raw(json_text({"a": "\x7f\x1b\x9b"}))


def test_printed_text_keeps_line_breaks_and_escapes_other_control_characters(
    capsys: pytest.CaptureFixture[str],
) -> None:
    say("a\x1b[1m\nb\udcff")
    assert capsys.readouterr().out == "a\\x1b[1m\nb\\udcff\n"


@pytest.mark.parametrize("name", ["=cmd|' /C calc'!A0", "+1", "-1", "@SUM(A1)", "\uff1d1"])
def test_csv_cells_that_look_like_formulas_are_quoted(name: str) -> None:
    assert csv_cell(name) == f"'{name}"
    assert csv_cell(f"x{name}") == f"x{name}"


def test_csv_output_of_failures_and_predictions_contains_no_formula(
    place: Path, tmp_path: Path, spoken: Spoken
) -> None:
    write_pictures(tmp_path / "p", ["=a.png", "@b.png"])
    (tmp_path / "p" / "=bad\x1b[1m.jpg").write_bytes(b"<html>")
    extract(tmp_path / "p", tmp_path / "t", backbone=tiny_backbone())
    for words in (("failures", "t", "--csv"), ("predict", str(place / "a.head"), "t", "--csv")):
        out, err = spoken(tmp_path, *words)
        rows = list(csv.reader(io.StringIO(out)))
        assert len(rows) > 1, err
        assert not [cell for row in rows for cell in row if cell.startswith(("=", "@")) or not cell.isprintable()]


def test_a_second_signal_ends_the_process_immediately(tmp_path: Path) -> None:
    code = (
        "import time\nfrom featstore.cli.output import stop_on_signals\n"
        "with stop_on_signals():\n print('on', flush=True)\n"
        " end = time.monotonic() + 60\n"
        " while time.monotonic() < end:\n  try:\n   time.sleep(60)\n  except BaseException:\n   pass\n"
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        assert process.poll() is None
        process.send_signal(number)
        assert process.wait(10) == -number
        process.stdout.close()
