"""Augmented views on the command line: ``extract --views``, ``train --views``, ``info`` and ``remove``."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from featstore.store import FeatureStore
from featstore.store.view_stores import view_path, view_stores
from tests.chain import names, write_coloured
from tests.cli.running import SMALL, run, run_json

pytestmark = pytest.mark.slow


def vectors(store: Path) -> list[bytes]:
    """Return the bytes of the vectors of all views, view 0 first."""
    return [FeatureStore.open(path).features().tobytes() for path in (store, *view_stores(store).values())]


def test_extract_info_train_and_remove_work_with_augmented_views(tmp_path: Path) -> None:
    write_coloured(tmp_path / "p", names("train", 8) + names("val", 4))
    said = run("extract", "p", "s", *SMALL, "--views", "3", "--augment", "light", "--augment-seed", "4", cwd=tmp_path)
    assert "view s.views/2: 24 vectors + 0 failures + 0 pending; this run: 24 vectors" in said.stdout
    run("extract", "p", "plain", *SMALL, cwd=tmp_path)
    assert vectors(tmp_path / "s")[0] == vectors(tmp_path / "plain")[0]
    report = run_json("extract", "p", "s", *SMALL, "--views", "3", cwd=tmp_path)
    assert (report["new_vectors"], [each["new_vectors"] for each in report["views"]]) == (0, [0, 0])
    assert "s.views/1: view 1, light, seed 4; 24 vectors" in run("info", "s", cwd=tmp_path).stdout
    assert "augmented pictures: view 1, light, seed 4" in run("info", "s.views/1", cwd=tmp_path).stdout
    assert "3 views: 48 rows" in run("train", "s", "--views", "--folds", "3", cwd=tmp_path).stdout
    assert "equal bit for bit" in run("train", "--again", "s.logreg.head", cwd=tmp_path).stdout
    said = run("remove", "s", "train/ant/03.png", "--purge", cwd=tmp_path).stdout
    assert "erased from the view too: s.views/1" in said
    assert all(len(FeatureStore.open(path)) == 23 for path in view_stores(tmp_path / "s").values())


def test_killed_extraction_of_views_resumes_to_the_same_views(tmp_path: Path) -> None:
    write_coloured(tmp_path / "p", names("", 40))
    arguments = ("extract", "p", "s", *SMALL, "--views", "3", "--quiet")
    run("extract", "p", "whole", *SMALL, "--views", "3", cwd=tmp_path)
    for _ in range(2):
        process = subprocess.Popen([sys.executable, "-m", "featstore", *arguments], cwd=tmp_path)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not view_path(tmp_path / "s", 2).exists():
            time.sleep(0.05)
        time.sleep(0.3)
        process.send_signal(signal.SIGKILL)
        process.wait()
    run(*arguments, cwd=tmp_path)
    assert vectors(tmp_path / "s") == vectors(tmp_path / "whole")


def test_two_concurrent_extractions_share_the_work_on_all_views(tmp_path: Path) -> None:
    write_coloured(tmp_path / "p", names("", 12))
    run("extract", "p", "whole", *SMALL, "--views", "2", cwd=tmp_path)
    command = [sys.executable, "-m", "featstore", "extract", "p", "s", *SMALL, "--views", "2", "--unit-rows", "5"]
    processes = [
        subprocess.Popen([*command, "--units", f"{part}/2", "--workers", str(1 + 3 * part)], cwd=tmp_path)
        for part in range(2)
    ]
    assert [process.wait(300) for process in processes] == [0, 0]
    run("extract", "p", "s", *SMALL, "--views", "2", cwd=tmp_path)
    for whole, shared in (
        (tmp_path / "whole", tmp_path / "s"),
        (view_path(tmp_path / "whole", 1), view_path(tmp_path / "s", 1)),
    ):
        one, other = FeatureStore.open(whole), FeatureStore.open(shared)
        rows = other.index_of(list(one.keys))
        assert one.features().shape == other.features().shape
        assert one.sha256.tobytes() == other.sha256[rows].tobytes()
        assert abs(one.features() - other.features(rows=rows)).max() < 1e-4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--augment", "light"], "--views N"),
        (["--views", "2", "--follow"], "--follow"),
        (["--views", "0"], "0"),
        (["t", "--views", "2"], "one store"),
    ],
)
def test_invalid_view_options_are_refused_in_one_line(tmp_path: Path, options: list[str], message: str) -> None:
    write_coloured(tmp_path / "p", names("", 1))
    said = run("extract", "p", "s", *options, cwd=tmp_path, code=2)
    assert message in said.stderr
    assert "Traceback" not in said.stderr
