"""Verify detects every flipped bit, and no flipped bit crashes a reader."""

from __future__ import annotations

from pathlib import Path

import pytest

from featstore.stages.verify import verify
from tests.faults.building import copy_of
from tests.faults.flips import flips

pytestmark = pytest.mark.slow


def test_verify_detects_every_flipped_bit_and_names_its_file(master: Path, tmp_path: Path) -> None:
    folder = copy_of(master, tmp_path / "copy")
    for path in ("store", "a.head", "an.index"):
        assert not verify(folder / path).problems
    missed = [
        (file.name, at, bit)
        for file, at, bit, problems in flips(folder, 150, seed=1)
        if not any(file.name.removesuffix(".featstore") in problem for problem in problems)
    ]
    assert not missed
    for path in ("store", "a.head", "an.index"):
        assert not verify(folder / path).problems
