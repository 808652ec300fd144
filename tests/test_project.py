"""The license, CI workflow, commit hooks and documents of the project exist and agree with each other."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_license_file_matches_the_metadata() -> None:
    assert text("LICENSE").split()[:4] == ["Apache", "License", "Version", "2.0,"]
    assert 'license = "Apache-2.0"' in text("pyproject.toml")


def test_ci_workflow_runs_the_script_that_contributors_run() -> None:
    assert "- run: .ci/run\n" in text(".github/workflows/ci.yml")
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111
    assert ".ci/run" in text(".github/CONTRIBUTING.md")


def test_pre_commit_hooks_equal_the_checks_of_ci() -> None:
    checks = re.findall(r"^\.venv/bin/(ruff \w+|mypy|lint-imports)", text(".ci/run"), re.MULTILINE)
    hooks = re.findall(r"entry: \.venv/bin/(ruff \w+|mypy|lint-imports)", text(".pre-commit-config.yaml"))
    assert hooks == checks == ["ruff check", "ruff format", "mypy", "lint-imports"]


def test_every_slow_command_and_pipeline_is_documented() -> None:
    commands = {path.stem for path in (ROOT / "tests/slow").glob("*.py") if "__main__" in path.read_text()}
    helpers = {path.stem for path in (ROOT / "tests/slow").glob("*.py") if "of tests.slow.peers" in path.read_text()}
    named = set(re.findall(r"python -m tests\.slow\.(\w+)", text("tests/README.md")))
    assert named == commands - helpers
    pipelines = {path.name for path in (ROOT / "pipelines").glob("*.py")}
    assert set(re.findall(r"\]\((\w+\.py)\)", text("pipelines/README.md"))) == pipelines


def test_links_between_documents_point_to_existing_files() -> None:
    for name in ("data/README.md", "pipelines/README.md", "tests/README.md", ".github/CONTRIBUTING.md"):
        for target in re.findall(r"\]\((?!https?://)([^)#]+)", text(name)):
            assert (ROOT / name).parent.joinpath(target).exists(), (name, target)
