"""What pip installs: the name image-featstore in messages and documents, the metadata, and the files in a wheel."""

from __future__ import annotations

import email
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import featstore

ROOT = Path(__file__).parents[1]
DISTRIBUTION = "image-featstore"
EXTRAS = "|".join(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
TEXTS = sorted(
    path
    for pattern in ("*.md", "*.toml", ".github/**/*", "data/**/*.md", "featstore/**/*", "pipelines/**/*", "tests/**/*")
    for path in ROOT.glob(pattern)
    if path.suffix in {".py", ".md", ".html", ".toml", ".yml"} and path != Path(__file__)
)


def strangers(text: str) -> list[str]:
    """Return the commands in ``text`` that would install ``featstore`` from PyPI, which is another project."""
    found = [match[0] for match in re.finditer(rf"(?<![\w-])featstore\[(?:{EXTRAS})\b", text)]
    for match in re.finditer(r"pip install ([^\n&;|`)]*)", text):
        words = [re.split(r"[\[<>=!~]", word.strip("'\"\\,."))[0] for word in match[1].split()]
        found += [match[0]] if "featstore" in words else []
    return found


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("run: pip install -U featstore", True),
        ("pip install 'featstore[bench]'", True),
        ("pip install featstore>=1, then featstore demo", True),
        ("install the extra featstore[onnx]", True),
        ("pip install -U image-featstore", False),
        ("pip install 'image-featstore[bench]'", False),
        (".venv/bin/pip install . && featstore demo", False),
    ],
)
def test_check_of_install_commands_finds_those_that_would_install_another_project(text: str, wrong: bool) -> None:
    assert bool(strangers(text)) is wrong


def test_no_message_and_no_document_advises_to_install_another_project() -> None:
    assert len(TEXTS) > 200
    assert {str(path): found for path in TEXTS if (found := strangers(path.read_text()))} == {}


def test_version_is_known_without_installed_metadata() -> None:
    code = "import importlib.metadata as m, featstore; m.version = None; print(featstore.__version__)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert re.fullmatch(r"\d+\.\d+\.\d+\n", shown.stdout)
    command = [sys.executable, "-m", "featstore", "--version"]
    said = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert said.stdout == f"featstore {shown.stdout}"


def test_wheel_contains_metadata_license_and_data_files(tmp_path: Path) -> None:
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "featstore", tmp_path / "featstore", ignore=shutil.ignore_patterns("__pycache__"))
    code = "from setuptools.build_meta import build_wheel; build_wheel('wheels')"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, check=True)
    (wheel,) = (tmp_path / "wheels").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (place,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        metadata = email.message_from_bytes(archive.read(place))
    assert (metadata["Name"], metadata["Version"]) == (DISTRIBUTION, featstore.__version__)
    assert metadata["License-Expression"] == "Apache-2.0"
    assert "Typing :: Typed" in metadata.get_all("Classifier", [])
    assert any(name.endswith("licenses/LICENSE") for name in names)
    data = {str(path.relative_to(ROOT)) for path in (ROOT / "featstore").rglob("*") if path.is_file()}
    # The READMEs of the packages are not part of the wheel.
    wanted = {name for name in data if "__pycache__" not in name and not name.endswith(".md")}
    assert wanted - set(names) == set()
    command = next(name for name in names if name.endswith("entry_points.txt"))
    with zipfile.ZipFile(wheel) as archive:
        assert b"featstore = featstore." in archive.read(command)
