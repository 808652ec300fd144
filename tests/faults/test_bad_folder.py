"""Extract a folder of bad files: each file becomes a vector or a failure with a reason, within a memory limit."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.faults.corpus import MAX_MEMORY, make

pytestmark = pytest.mark.slow


def test_every_damaged_file_becomes_a_vector_or_a_failure(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    expected = make(folder)
    over = threading.Event()
    whole = (folder / "changing.jpg").read_bytes()

    def change() -> None:
        while not over.is_set():
            (folder / "changing.jpg").write_bytes(whole[: len(whole) // 2])
            (folder / "changing.jpg").write_bytes(whole)

    thread = threading.Thread(target=change)
    thread.start()
    try:
        result = subprocess.run(
            [sys.executable, "-W", "error", "-m", "tests.faults.corpus", folder, tmp_path / "store"],
            capture_output=True,
            check=True,
            timeout=120,
        )
    finally:
        over.set()
        thread.join()
    assert result.stderr == b""
    found = json.loads(result.stdout)
    assert set(found["outcomes"]) == set(expected)
    assert {key: outcome for key, outcome in found["outcomes"].items() if outcome not in expected[key]} == {}
    assert found["images"] == len(expected)
    assert all(message and "\n" not in message for message in found["messages"])
    # Two threads decode; each may use MAX_MEMORY.
    assert found["peak"] <= 2 * MAX_MEMORY
    assert found["seconds"] < 60
