"""Tests of the command ``featstore sample``, with a list of data sets that are on a local server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from featstore.cli import sample as command
from featstore.datasets import registry
from featstore.errors import DamagedError
from featstore.stages import sample as stage
from tests.cli.running import run, run_json
from tests.datasets.archives import made_zip
from tests.datasets.serving import Server, serve

PICTURES = {f"pictures/{label}/{n}.jpg": bytes([n]) * 50 for label in ("cat", "dog") for n in range(3)}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with serve() as running:
        archive = running.archive("a.zip", made_zip({**PICTURES, "pictures/LICENSE.txt": b"free"}))
        made = {"flowers": running.dataset(archive)}
        monkeypatch.setattr(command, "registry", lambda: made)
        monkeypatch.setattr(stage, "registry", lambda: made)
        yield running


def test_a_data_set_is_downloaded_and_its_pictures_are_counted(server: Server, tmp_path: Path) -> None:
    result = CliRunner().invoke(command.sample, ["flowers", str(tmp_path / "f")], catch_exceptions=False)
    assert result.exit_code == 0
    assert "6 pictures" in result.stdout
    assert "licence: none" in result.stderr
    assert (tmp_path / "f/cat/2.jpg").read_bytes() == PICTURES["pictures/cat/2.jpg"]
    result = CliRunner().invoke(command.sample, ["flowers", str(tmp_path / "f"), "--json"], catch_exceptions=False)
    assert json.loads(result.stdout) == {"sample": "flowers", "folder": str(tmp_path / "f"), "images": 6}
    assert result.stderr == ""
    assert server.requests == [""]


def test_download_with_a_wrong_digest_is_an_error_of_the_sample_command(server: Server, tmp_path: Path) -> None:
    server.files["a.zip"] = server.files["a.zip"][::-1]
    with pytest.raises(DamagedError, match="not the published file"):
        CliRunner().invoke(command.sample, ["flowers", str(tmp_path / "f")], catch_exceptions=False)
    assert not (tmp_path / "f").exists()


def test_help_names_every_sample_and_its_size() -> None:
    text = run("sample", "--help").stdout
    for name in stage.sample_names():
        assert f"  {name} " in text
    for dataset in registry().values():
        line = next(line for line in text.splitlines() if line.strip().startswith(dataset.name))
        assert f"{dataset.size / 1e6:3.0f} MB" in line


def test_error_for_an_unknown_sample_lists_the_known_ones(tmp_path: Path) -> None:
    assert "'hymenoptera'" in run("sample", "nonsense", tmp_path / "x", code=2).stderr


@pytest.mark.slow
def test_writing_the_same_sample_again_changes_nothing(tmp_path: Path) -> None:
    assert run_json("sample", "digits", tmp_path / "d")["images"] == 1797
    before = (tmp_path / "d/0/0000.png").stat().st_mtime_ns
    run("sample", "digits", tmp_path / "d")
    assert (tmp_path / "d/0/0000.png").stat().st_mtime_ns == before
    (tmp_path / "e").mkdir()
    (tmp_path / "e" / "mine.txt").write_text("x")
    assert "holds other files" in run("sample", "digits", tmp_path / "e", code=2).stderr
