"""Texts for people: counts, printable names, natural order, and suggestions for misspelt names."""

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
"""Largest number of names to compare with a misspelt name; each comparison takes some 10 microseconds."""
_CLOSE: Final = 0.6
"""Minimum similarity of a suggested name (the default cutoff of difflib)."""


def natural(name: object) -> tuple[float, tuple[str | tuple[int, str], ...], str]:
    """Return a sort key for natural order: numbers come first; digits inside names are compared by value."""
    text = str(name)
    if _NUMBER.fullmatch(text):
        return float(text), (), text
    parts = re.split("([0-9]+)", text)
    # re.split puts the digits at the odd positions. Compare them by length and text, because int() refuses very long
    # numbers.
    keys = [(len(part.lstrip("0")), part.lstrip("0")) if at % 2 else part for at, part in enumerate(parts)]
    return float("inf"), tuple(keys), text


def to_text(name: bytes) -> str:
    """Return a file name as text: UTF-8 with surrogateescape in every locale, unlike os.fsdecode."""
    return name.decode("utf-8", "surrogateescape")


def to_bytes(text: str) -> bytes:
    """Return the bytes of a name in UTF-8 with surrogateescape; the inverse of ``to_text``."""
    return text.encode("utf-8", "surrogateescape")


def is_utf8(text: str) -> bool:
    """Return whether a text has no surrogates, which means that it was read from valid UTF-8."""
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


def composed(text: str) -> str:
    """Return ``text`` in the composed Unicode form NFC, so that names which look the same compare equal."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def lookalike_key(text: str) -> str:
    """Return a key that is equal for names which people would confuse.

    The key ignores case, Unicode form, blanks, hyphens, underscores, invisible characters, and the spelling of a
    number (01, +1 and 1.0).
    """
    plain = unicodedata.normalize("NFKC", text).casefold()
    if _NUMBER.fullmatch(plain.strip()):
        # Test for a number before hyphens are removed, because the sign distinguishes -1 from 1.
        return f"{float(plain):.17g}"
    plain = "".join(" " if each in "-_" else each for each in plain if unicodedata.category(each) != "Cf")
    return " ".join(plain.split())


def close_to(word: str, names: Iterable[str], count: int = 3) -> list[str]:
    """Return up to ``count`` of ``names`` that are similar to ``word``, the most similar first.

    Names that end in a slash and ``word`` come first, because users may give a file name without its folders.
    """
    some = list(dict.fromkeys(islice(names, _COMPARED)))
    folded: dict[str, str] = {}
    for name in some:
        folded.setdefault(lookalike_key(name), name)
    wanted = lookalike_key(word)
    ends = [name for name in some if name.endswith("/" + word)][:count]
    near = [folded[each] for each in get_close_matches(wanted, folded, count, _CLOSE)]
    return list(dict.fromkeys([*ends, *near]))[:count]


def did_you_mean(word: str, names: Iterable[str]) -> str:
    """Return "; did you mean 'x' or 'y'?" for the end of a message, or "" if no name is similar to ``word``."""
    found = close_to(word, names)
    return f"; did you mean {' or '.join(map(repr, found))}?" if found else ""


def check_keywords(function: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Raise TypeError, as Python does, for the first of the ``given`` keyword arguments that is not ``known``."""
    known = list(known)
    for name in given:
        if name not in known:
            raise TypeError(f"{function}() got an unexpected keyword argument {name!r}{did_you_mean(name, known)}")


def is_misspelling(word: str, name: str) -> bool:
    """Return whether ``word`` is ``name`` with two adjacent letters swapped, or with one letter missing or added.

    The first letter must be right and ``name`` must have at least five letters: shorter names are too similar to
    others.
    """
    if len(name) < 5 or word == name or word[:1] != name[:1] or abs(len(word) - len(name)) > 1:
        return False
    if len(word) == len(name):
        different = [at for at in range(len(name)) if word[at] != name[at]]
        return len(different) == 2 and different[1] == different[0] + 1 and sorted(word) == sorted(name)
    long, short = (word, name) if len(word) > len(name) else (name, word)
    return any(long[:at] + long[at + 1 :] == short for at in range(len(long)))


def counted(count: int, one: str, many: str = "") -> str:
    """Return a count followed by its singular or plural text, such as "1 class" or "2,000 keys are new".

    ``one``: the singular text. ``many``: the plural text, by default ``one`` with an s appended.
    """
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def percentage(value: float) -> str:
    """Return ``value`` with two decimals, or with more if rounding would give 0 or 100 for another value."""
    digits = next((count for count in range(2, 9) if 0 < round(value, count) < 100), 2)
    return f"{value:.{digits}f}"


def printable(text: str) -> str:
    """Return ``text`` as one line: control characters and invalid UTF-8 are escaped."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def shown(path: bytes | str | os.PathLike[str]) -> str:
    """Return ``path`` for a message, as one printable line."""
    return printable(os.fsdecode(path))


def quoted(key: bytes) -> str:
    """Return a key in quotes for a message, as one printable line."""
    return repr(key.decode("utf-8", "backslashreplace"))
