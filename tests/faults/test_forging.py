"""Consistent but false stores, heads and indexes do no harm in any verb."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.faults.forging import attack, prepare
from tests.faults.sandbox import Ground, watched


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Ground:
    return prepare(tmp_path_factory.mktemp("forged") / "master")


# The first of the thousand forgeries that tests.slow.forged draws.
@pytest.mark.parametrize("number", range(6))
def test_no_verb_does_harm_on_a_forgery(ground: Ground, tmp_path: Path, number: int) -> None:
    for what, how, verb, wrong in attack(ground, number, 1, tmp_path):
        assert not wrong, (what, how, verb)


def test_watch_detects_writes_outside_the_store(tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / "deep").mkdir(parents=True)
    (home / "deep" / "letter").write_bytes(b"mine")
    with watched(home) as events:
        (home / "deep" / "letter").read_bytes()
        assert not events()
        os.close(os.open(home / "deep" / "letter", os.O_RDWR))
        assert any("letter" in event for event in events())
        (home / "new").touch()
        assert any("new" in event for event in events())
