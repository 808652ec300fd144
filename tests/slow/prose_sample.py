"""Print a random sample of comments, docstrings and test names, so that a reader can judge whether each is clear.

python -m tests.slow.prose_sample [--seed N] [--count N] [PATH...]

PATH: files or folders to draw from; by default the whole package and its tests. An item is a docstring, a string that
documents an attribute, a block of comment lines, or the name of a test. The same seed gives the same sample.

Before the items, the table "Words" of featstore/store/README.md is printed: a reader of the project knows these words.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import io
import random
import re
import tokenize
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
_WORDS = ROOT / "featstore" / "store" / "README.md"
_DIRECTIVE = re.compile(r"#\s*(type:|noqa|fmt:|pragma|!)")
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


class Item(NamedTuple):
    """A text to judge. ``kind``: "docstring", "comment" or "test name"; ``line``: the first line, from 1."""

    path: str
    line: int
    kind: str
    text: str


def items_of(path: Path, name: str) -> Iterator[Item]:
    """Yield the items of the Python file ``path``; ``name``: the path to show for them."""
    source = path.read_text(encoding="utf-8")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, _DOCUMENTED):
            for place, statement in enumerate(node.body):
                if _is_text(statement) and (place == 0 or not isinstance(node, ast.FunctionDef)):
                    value = ast.literal_eval(statement.value)  # type: ignore[attr-defined]
                    yield Item(name, statement.lineno, "docstring", inspect.cleandoc(value))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            yield Item(name, node.lineno, "test name", node.name)
    yield from _comments(source, name)


def _is_text(statement: ast.stmt) -> bool:
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


def _comments(source: str, name: str) -> Iterator[Item]:
    """Yield blocks of comments; comments on consecutive lines and in the same column make one block."""
    block: list[tokenize.TokenInfo] = []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT or _DIRECTIVE.match(token.string):
            continue
        if block and (token.start[0], token.start[1]) != (block[-1].start[0] + 1, block[-1].start[1]):
            yield _block(block, name)
            block = []
        block.append(token)
    if block:
        yield _block(block, name)


def _block(block: Sequence[tokenize.TokenInfo], name: str) -> Item:
    return Item(name, block[0].start[0], "comment", "\n".join(token.string for token in block))


def sample(paths: Sequence[Path], count: int, seed: int) -> list[Item]:
    """Return ``count`` items of the Python files in ``paths``, drawn with ``seed``; all items if there are fewer."""
    files = sorted({file for path in paths for file in (path.rglob("*.py") if path.is_dir() else [path])})
    items = [item for file in files for item in items_of(file, _shown(file))]
    return random.Random(seed).sample(items, min(count, len(items)))


def _shown(file: Path) -> str:
    return str(file.resolve().relative_to(ROOT) if file.resolve().is_relative_to(ROOT) else file)


def words() -> str:
    """Return the table of the project's words, with their meanings, from the section "Words" of the store's README."""
    section = _WORDS.read_text(encoding="utf-8").split("\n## Words\n", 1)[1].split("\n## ", 1)[0]
    return "\n".join(line for line in section.splitlines() if line.startswith("|"))


def main() -> None:
    """Print the table of words and the drawn comments, docstrings and test names, numbered, each with its file, line and kind."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="*", type=Path, default=[ROOT / "featstore", ROOT / "tests"], metavar="PATH")
    parser.add_argument("--seed", type=int, default=1, help="seed of the sample (default: 1)")
    parser.add_argument("--count", type=int, default=60, help="number of items (default: 60)")
    arguments = parser.parse_args()
    print(f"{words()}\n")
    for number, item in enumerate(sample(arguments.paths, arguments.count, arguments.seed), 1):
        print(f"{number}. {item.path}:{item.line} ({item.kind})\n{item.text}\n")


if __name__ == "__main__":
    main()
