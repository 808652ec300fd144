"""Match keys of a table to store keys that are spelt differently, and explain why other keys do not match."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice, takewhile
from typing import Final

import numpy as np
from numpy.typing import NDArray

from featstore.store.plan import Plan
from featstore.text import composed, did_you_mean, to_bytes, to_text

_SAME: Final = {
    "form": "written in another Unicode form (NFC or NFD)",
    "slashes": "written with backslashes, as Windows does",
    "root": "written with the folder that the pictures were read from",
    "blanks": "written with blanks around",
}
_SEARCHED: Final = 1_000_000
"""Maximum number of the store's keys that are compared with an unknown key to suggest one with a similar ending."""
_NAMED: Final = 3
_CAUSES: Final = {
    "case": "differ from the store's in upper and lower case",
    "name": "are names of files without their folders",
    "stem": "are names of files without folders and endings",
    "tail": "have other folders in front of the files' own",
}


class KeyMatches:
    """Find other spellings of the ``wanted`` keys in the plan.

    ``keys``: the plan's key or None for each wanted key; no key of the plan occurs twice. ``notes``: messages about the
    matched keys. ``causes``: likely reasons why the remaining keys do not match. Memory grows with ``wanted``, not with
    the store.
    """

    def __init__(self, plan: Plan, wanted: Sequence[bytes]) -> None:
        self.keys: list[bytes | None] = [None] * len(wanted)
        self.notes: list[str] = []
        self.causes: list[str] = []
        if not wanted:
            return
        roots = [to_bytes(str(source.get("root", ""))).rstrip(b"/") + b"/" for source in plan.sources().values()]
        forms: dict[tuple[str, str], list[int]] = {}
        for at, key in enumerate(wanted):
            for how, form in _wanted_forms(key, roots):
                forms.setdefault((how if how in _CAUSES else "same", form), []).append(at)
        found: dict[int, dict[str, list[bytes]]] = {}
        for key in _all_keys(plan):
            for how, form in _key_forms(key):
                for at in forms.get((how, form), ()):
                    found.setdefault(at, {}).setdefault(how, []).append(key)
        self._describe(wanted, found, roots)

    def _describe(self, wanted: Sequence[bytes], found: dict[int, dict[str, list[bytes]]], roots: list[bytes]) -> None:
        same: Counter[str] = Counter()
        causes: Counter[str] = Counter()
        first: dict[str, str] = {}
        for at, ways in found.items():
            keys = list(dict.fromkeys(ways.get("same", ())))
            if len(keys) == 1:
                self.keys[at] = keys[0]
                ours = composed(to_text(keys[0]))
                how = next(
                    (how for how, form in _wanted_forms(wanted[at], roots) if how in _SAME and form == ours), "form"
                )
                same[how] += 1
            else:
                how = next((how for how in _CAUSES if ways.get(how)), "")
                if not how:
                    continue
                causes[how] += 1
                # Name the store key whose ending has the most bytes in common with the wanted key.
                keys = [max(ways[how], key=lambda key: _common_end(key, wanted[at]))]
            first.setdefault(how, f"{_shown(wanted[at])} for {_shown(keys[0])}")
        self.notes += [
            f"{count:,} {'key is' if count == 1 else 'keys are'} {_SAME[how]}, and matched ({first[how]})"
            for how, count in same.items()
        ]
        self.causes += [
            f"{count:,} {'key' if count == 1 else 'keys'} of the table {_CAUSES[how]} ({first[how]}): write them as the store has them"
            for how, count in causes.items()
        ]


def other_forms(plan: Plan, keys: Sequence[bytes]) -> list[bytes]:
    """Return ``keys``; a key that the plan has only in another spelling is returned in the spelling of the plan."""
    unknown = [at for at, number in enumerate(plan.find_keys(keys).tolist()) if number < 0]
    found = list(keys)
    for at, key in zip(unknown, KeyMatches(plan, [keys[at] for at in unknown]).keys, strict=True):
        found[at] = keys[at] if key is None else key
    return found


def meant(plan: Plan, key: bytes, keys: Iterable[str]) -> str:
    """Return the end of an error message about ``key``, which has no vector.

    The text says that the picture failed or is pending; for an unknown key, it suggests similar ones of ``keys``.
    """
    if plan.find_keys([key])[0] >= 0:
        return "; it could not be read or is pending (featstore failures and featstore info tell)"
    text = to_text(key)
    ends = list(islice((other for other in islice(keys, _SEARCHED) if other.endswith("/" + text)), _NAMED))
    return did_you_mean(text, ends or keys)


def without_vector(plan: Plan, wanted: Sequence[bytes], rows: NDArray[np.int64], keys: Iterable[str]) -> str:
    """Return the error message about ``wanted`` keys without a vector; ``rows`` (m,) is -1 for these keys."""
    absent = np.flatnonzero(rows < 0)
    first = wanted[int(absent[0])]
    text = f"the key {to_text(first)!r} has no vector here"
    if len(wanted) > 1:
        have = "has" if len(absent) == 1 else "have"
        text = f"{len(absent):,} of {len(wanted):,} keys {have} no vector here (the first: {to_text(first)!r})"
    return text + meant(plan, first, keys)


def _wanted_forms(key: bytes, roots: list[bytes]) -> Iterator[tuple[str, str]]:
    """Yield (kind of difference, text) for each way in which the store may spell the wanted ``key``."""
    text = composed(to_text(key))
    yield "form", text
    if text.strip() != text:
        yield "blanks", text.strip()
    slashed = text.strip().replace("\\", "/").removeprefix("./")
    if slashed != text.strip():
        yield "slashes", slashed
    for root in roots:
        if slashed.startswith(inside := composed(to_text(root))):
            yield "root", slashed[len(inside) :]
    yield "case", slashed.casefold()
    yield "name", slashed
    yield "stem", slashed
    if "/" in slashed:
        yield "tail", slashed.rpartition("/")[2]


def _key_forms(key: bytes) -> Iterator[tuple[str, str]]:
    """Yield (kind of difference, text) for a key of the store.

    A wanted key is another spelling of this key if _wanted_forms yields one of these pairs for it.
    """
    text = composed(to_text(key))
    name = text.rpartition("/")[2]
    yield "same", text
    yield "case", text.casefold()
    yield "name", name
    yield "stem", name.rpartition(".")[0]
    yield "tail", name


def _all_keys(plan: Plan) -> Iterator[bytes]:
    for segment in plan.segments:
        counts = np.flatnonzero(~plan.is_retired(segment.ids))
        yield from segment.keys.take(counts)


def _common_end(key: bytes, other: bytes) -> int:
    """Return the length in bytes of the longest common ending of two keys."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(reversed(key), reversed(other), strict=False)))


def _shown(key: bytes) -> str:
    return repr(key.decode("utf-8", "backslashreplace"))
