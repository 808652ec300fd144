"""Select rows of a store by a condition on key, id, label, split and metadata columns."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from typing import Final

import numpy as np
from numpy.typing import NDArray

from featstore.errors import UsageError
from featstore.store import FeatureStore
from featstore.text import did_you_mean
from featstore.where.parsing import parse
from featstore.where.tree import AllOf, Among, AnyOf, Compare, Condition, Not, Test, Value, kind_of, tests_of

_BLOCK_ROWS: Final = 65536
_Truth = tuple[NDArray[np.bool_], NDArray[np.bool_]]
"""Two masks (m,): the rows for which a condition is true, and the rows for which it is false. The condition is unknown
for rows in neither mask."""


def rows_where(store: FeatureStore, where: str) -> NDArray[np.bool_]:
    """Return a mask (n,) of the rows of ``store`` that satisfy the condition ``where`` (see featstore.where).

    Columns are those of ``store.to_pandas()``: key, id, label, split and the metadata. A metadata column named key or
    id is renamed to key_ or id_. Keys are read block by block. Raises UsageError for a syntax error, an unknown column,
    or a literal whose type occurs nowhere in its column, such as a number compared with text labels.
    """
    condition = parse(where)
    tests = list(tests_of(condition))
    columns = {test.column: _column(store, test) for test in tests}
    kinds: dict[str, set[str]] = {name: set() for name in columns}
    chosen = np.zeros(len(store), np.bool_)
    for start in range(0, len(store), _BLOCK_ROWS):
        size = min(_BLOCK_ROWS, len(store) - start)
        block = {name: _Coded(list(islice(values, size))) for name, values in columns.items()}
        for name, coded in block.items():
            kinds[name] |= coded.kinds
        chosen[start : start + size] = _truth(condition, block)[0]
    for test in tests:
        _check_kinds(test, kinds[test.column])
    return chosen


def absent_values(store: FeatureStore, where: str) -> list[str]:
    """Return a note, with suggestions, for each text in ``where`` (after ``==`` or ``in``) that no value of its column
    equals.

    The notes explain an empty selection. Keys and ids are not looked up. Raises the errors of rows_where.
    """
    notes = []
    for test in tests_of(parse(where)):
        if test.column in ("key", "id") or not (
            isinstance(test, Among) or (isinstance(test, Compare) and test.operation == "==")
        ):
            continue
        known = dict.fromkeys(value for value in _column(store, test) if isinstance(value, str))
        for literal in test.literals:
            if isinstance(literal, str) and literal not in known:
                notes.append(f"no picture has the {test.column} {literal!r}{did_you_mean(literal, known)}")
    return notes


def _column(store: FeatureStore, test: Test) -> Iterator[Value]:
    metadata = {name if name not in ("key", "id") else f"{name}_": name for name in store.columns}
    if test.column == "key":
        return iter(store.keys)
    if test.column == "id":
        return iter(store.ids.tolist())
    if test.column not in metadata:
        names = ", ".join(["key", "id", *metadata])
        close = did_you_mean(test.column, ["key", "id", *metadata])
        raise UsageError(
            f"filter, character {test.at + 1}: there is no column {test.column!r} in {store.path}; there are {names}{close}"
        )
    return iter(store.column(metadata[test.column]))


def _check_kinds(test: Test, there: set[str]) -> None:
    """Raise UsageError if the type of a literal never occurs in the column that it is compared with.

    ``there``: types in the column. Without this error, the selection would be empty and hide the user's mistake.
    """
    for literal in test.literals:
        if there and kind_of(literal) not in there:
            written = repr(literal) if isinstance(literal, str) else str(literal).lower()
            remedy = ""
            if there == {"text"}:
                remedy = f"; write '{written}'"
            elif isinstance(literal, str):
                remedy = "; write it without quotes"
            holds = " and ".join(f"{kind}s" for kind in sorted(there))
            raise UsageError(
                f"filter, character {test.at + 1}: {test.column} holds {holds}, "
                f"and is compared with the {kind_of(literal)} {written}{remedy}"
            )


class _Coded:
    """Values (m,) of a column, stored as ``distinct`` values and ``codes`` (m,), indices into them.

    Thus each distinct value is tested only once. ``kinds``: the types of the values.
    """

    def __init__(self, values: list[Value]) -> None:
        known: dict[tuple[type, Value], int] = {}
        self.codes = np.fromiter(
            (known.setdefault((value.__class__, value), len(known)) for value in values), np.int64, len(values)
        )
        self.distinct = [value for _, value in known]
        self.kinds = {kind_of(value) for value in self.distinct if value is not None}

    def truth(self, holds: Callable[[Value], bool | None]) -> _Truth:
        """Apply the test ``holds`` to the value of each row; return two masks: rows where the test is True, and rows
        where it is False.
        """
        verdicts = [holds(value) for value in self.distinct]
        is_so = np.array([verdict is True for verdict in verdicts], np.bool_)
        is_not = np.array([verdict is False for verdict in verdicts], np.bool_)
        return is_so[self.codes], is_not[self.codes]


def _truth(condition: Condition, block: dict[str, _Coded]) -> _Truth:
    """Evaluate ``condition`` for each row of ``block`` in Kleene's three-valued logic, as in SQL."""
    truth = partial(_truth, block=block)
    match condition:
        case Not(part):
            is_so, is_not = truth(part)
            return is_not, is_so
        case AllOf(parts):
            so, otherwise = zip(*map(truth, parts), strict=True)
            return np.logical_and.reduce(so), np.logical_or.reduce(otherwise)
        case AnyOf(parts):
            so, otherwise = zip(*map(truth, parts), strict=True)
            return np.logical_or.reduce(so), np.logical_and.reduce(otherwise)
        case _:
            return block[condition.column].truth(condition.holds)
