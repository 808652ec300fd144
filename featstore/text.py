"""Texts for people: counts, printable names, natural order, and what a misspelt name may mean."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable
from difflib import get_close_matches
from itertools import islice
from typing import Final

_NUMBER: Final = re.compile(r"[-+]?[0-9]{1,300}(\.[0-9]{1,300})?([eE][-+]?[0-9]{1,3})?")
_COMPARED: Final = 20_000
"""Names that a misspelt one is compared with at most: each comparison takes some 10 microseconds."""
_CLOSE: Final = 0.6
"""Similarity from which a name is suggested, the default of difflib."""


def natural(name: object) -> tuple[float, tuple[str | tuple[int, str], ...], str]:
    """Return the sort key of natural order: numbers by value, before other names; digits within names by value."""
    text = str(name)
    if _NUMBER.fullmatch(text):
        return float(text), (), text
    parts = re.split("([0-9]+)", text)
    # Every other part is a run of digits. Compared by length and text: int() refuses very long ones.
    keys = [(len(part.lstrip("0")), part.lstrip("0")) if at % 2 else part for at, part in enumerate(parts)]
    return float("inf"), tuple(keys), text


def composed(text: str) -> str:
    """Return ``text`` in Unicode's composed form (NFC), which the decomposed form looks exactly like."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def looks(text: str) -> str:
    """Return a form that names share where people would take one for the other.

    Upper and lower case, Unicode forms, blanks, hyphens and underscores, invisible characters, and 01 against 1.
    """
    plain = unicodedata.normalize("NFKC", text).casefold()
    plain = "".join(" " if each in "-_" else each for each in plain if unicodedata.category(each) != "Cf")
    plain = " ".join(plain.split())
    if re.fullmatch(r"[0-9]{1,300}(\.[0-9]{1,300})?", plain):
        return f"{float(plain):.17g}"
    return plain


def close_to(word: str, names: Iterable[str], count: int = 3) -> list[str]:
    """Return up to ``count`` of ``names`` that ``word`` may have meant, the closest first.

    Names that end in it after a slash come first, as a file's name without its folders does.
    """
    some = list(dict.fromkeys(islice(names, _COMPARED)))
    folded: dict[str, str] = {}
    for name in some:
        folded.setdefault(looks(name), name)
    wanted = looks(word)
    ends = [name for name in some if name.endswith("/" + word)][:count]
    near = [folded[each] for each in get_close_matches(wanted, folded, count, _CLOSE)]
    return list(dict.fromkeys([*ends, *near]))[:count]


def did_you_mean(word: str, names: Iterable[str]) -> str:
    """Return "; did you mean 'x' or 'y'?" to end a message with, or "" where nothing is close to ``word``."""
    found = close_to(word, names)
    return f"; did you mean {' or '.join(map(repr, found))}?" if found else ""


def is_misspelling(word: str, name: str) -> bool:
    """Tell whether ``word`` is ``name`` with two neighbouring letters swapped, or one left out or added.

    The first letter has to be right, and ``name`` to have five letters at least: shorter ones are too close to others.
    """
    if len(name) < 5 or word == name or word[:1] != name[:1] or abs(len(word) - len(name)) > 1:
        return False
    if len(word) == len(name):
        different = [at for at in range(len(name)) if word[at] != name[at]]
        return len(different) == 2 and different[1] == different[0] + 1 and sorted(word) == sorted(name)
    long, short = (word, name) if len(word) > len(name) else (name, word)
    return any(long[:at] + long[at + 1 :] == short for at in range(len(long)))


def counted(count: int, one: str, many: str = "") -> str:
    """Return a number followed by its singular or plural text: 1 class, 2 classes; 1 key is new, 2,000 keys are new.

    ``many``: the plural text; by default ``one`` with an s.
    """
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def printable(text: str) -> str:
    """Return ``text`` as one line: control characters and bytes that are no UTF-8 are escaped."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def shown(path: bytes | str | os.PathLike[str]) -> str:
    """Return ``path`` for a message, as one printable line."""
    return printable(os.fsdecode(path))


def quoted(key: bytes) -> str:
    """Return a key in quotes for a message, as one printable line."""
    return repr(key.decode("utf-8", "backslashreplace"))
