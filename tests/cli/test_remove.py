"""Tests of the command ``featstore remove``."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from featstore.cli import featstore
from featstore.store import FeatureStore
from tests.store.building import Pictures, build


@pytest.fixture
def store(tmp_path: Path) -> Path:
    keys = [f"{letter}/{number}".encode() for letter in "ab" for number in range(3)]
    build(tmp_path / "s", Pictures(dict(zip(keys, range(6), strict=True)), {key: key[:1].decode() for key in keys}))
    return tmp_path / "s"


def run(*arguments: object) -> str:
    result = CliRunner().invoke(featstore, ["remove", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_remove_accepts_keys_a_file_of_keys_and_a_condition_together(store: Path, tmp_path: Path):
    (tmp_path / "list").write_text("a/1\n")
    arguments = (store, "a/0", "--from", tmp_path / "list", "--where", "key == 'b/2'")
    told = run(*arguments, "--dry-run")
    assert "3 pictures would be removed, 3 with a vector ('a/0', 'a/1', 'b/2')" in told
    assert len(FeatureStore.open(store)) == 6
    assert "leaves them out" in run(*arguments)
    assert list(FeatureStore.open(store).keys) == ["a/2", "b/0", "b/1"]
    assert "0 pictures removed" in run(store, "a/0")
    assert "1 picture may come back" in run(store, "a/0", "--restore")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "name pictures"),
        (("--restore", "--where", "label == 'a'"), "and no --where"),
    ],
)
def test_remove_rejects_an_empty_selection_and_restore_with_a_condition(
    store: Path, arguments: tuple[str, ...], words: str
):
    result = CliRunner().invoke(featstore, ["remove", str(store), *arguments])
    assert (result.exit_code, words in result.output) == (2, True), result.output
