"""The layout of the package: its top-level modules ("rooms"), the files of every command, and limits on lengths."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

import featstore
from featstore.cli import VERBS, module_of

TOP = Path(__file__).parents[1]
PACKAGE = TOP / "featstore"
FUNCTIONS = {
    "backbones": "list_backbones",
    "duplicates": "find_duplicates",
    "failures": "list_failures",
    "import": "import_vectors",
    "sample": "write_sample",
}
"""Commands whose Python function has another name, because the command is a noun or a Python keyword."""
PAGES = {"compare", "demo", "duplicates", "finetune", "search", "train", "units"}
"""Commands that write an HTML page."""
ROOMS = 26
LINES, PARAMETERS, MODULE_LINES, USUAL_LINES = 80, 12, 350, 32


@pytest.mark.parametrize("verb", VERBS)
def test_every_file_of_a_command_has_the_name_of_the_command(verb):
    stage = importlib.import_module(f"featstore.stages.{module_of(verb)}")
    name = FUNCTIONS.get(verb, verb)
    assert callable(getattr(stage, name))
    assert getattr(featstore, name) is getattr(stage, name)
    assert (PACKAGE / "cli" / f"{module_of(verb)}.py").is_file()
    assert (PACKAGE / "pages" / f"{verb}.py").is_file() == (verb in PAGES)
    for tests in (TOP / "tests/stages", TOP / "tests/cli"):
        assert (tests / f"test_{verb}.py").is_file() or any((tests / verb).glob("test_*.py")), tests / verb


def test_package_has_at_most_26_rooms():
    rooms = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert len(rooms - {"__init__", "__main__"}) <= ROOMS


def functions() -> list[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                found.append((f"{path.relative_to(TOP)}:{node.lineno} {node.name}", node))
    return found


def test_functions_are_short_and_have_few_parameters():
    long, many = [], []
    for place, node in functions():
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        count = sum(argument.arg not in ("self", "cls") for argument in arguments)
        is_public = not node.name.startswith("_")
        if is_public and node.end_lineno - node.lineno + 1 > LINES:
            long.append(place)
        # Functions in cli/ may have more parameters: a click command has one per option.
        if is_public and count > PARAMETERS and "featstore/cli/" not in place:
            many.append(place)
    assert (long, many) == ([], [])
    lines = sorted(node.end_lineno - node.lineno + 1 for _, node in functions())
    assert lines[int(0.95 * len(lines))] <= USUAL_LINES


def test_modules_are_short():
    long = {
        path: count for path in PACKAGE.rglob("*.py") if (count := len(path.read_text().splitlines())) > MODULE_LINES
    }
    assert long == {}


@pytest.mark.parametrize("library", ["h5py", "faiss"])
def test_h5py_and_faiss_are_each_imported_by_only_one_module(library):
    importing = []
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(name.split(".")[0] == library for name in names):
                importing.append(path)
    assert len(set(importing)) == 1
