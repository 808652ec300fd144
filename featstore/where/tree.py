"""Syntax tree of conditions on the values of a row."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final, TypeAlias

Literal: TypeAlias = str | int | float | bool
Value: TypeAlias = Literal | None

ORDERS: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def kind_of(value: Literal) -> str:
    """Return the type of a value: "text", "number" or "truth value"."""
    return "text" if isinstance(value, str) else "truth value" if isinstance(value, bool) else "number"


@dataclass(frozen=True)
class Compare:
    """A comparison of ``column`` with ``literal``; ``operation`` is ==, !=, <, <=, > or >=.

    ``at``: offset of the comparison in the condition's text.
    """

    column: str
    operation: str
    literal: Literal
    at: int = field(default=0, compare=False)

    @property
    def literals(self) -> tuple[Literal, ...]:
        """The values that the column is compared with."""
        return (self.literal,)

    def holds(self, value: Value) -> bool | None:
        """Return whether the comparison is true for ``value``; None if that is unknown.

        It is unknown for a missing value, and for the order of two values of different types.
        """
        if value is None:
            return None
        alike = kind_of(value) == kind_of(self.literal)
        if self.operation in ("==", "!="):
            return (alike and value == self.literal) == (self.operation == "==")
        return ORDERS[self.operation](value, self.literal) if alike else None


@dataclass(frozen=True)
class Among:
    """Test whether the value of ``column`` is one of ``literals``."""

    column: str
    literals: tuple[Literal, ...]
    at: int = field(default=0, compare=False)

    @cached_property
    def _known(self) -> frozenset[tuple[str, Literal]]:
        # Compare the types too, because 1 == True in Python.
        return frozenset((kind_of(literal), literal) for literal in self.literals)

    def holds(self, value: Value) -> bool | None:
        """Return whether ``value`` is one of the literals; None if that is unknown, because the value is missing."""
        return None if value is None else (kind_of(value), value) in self._known


@dataclass(frozen=True)
class Like:
    """Test whether a text in ``column`` starts with ``pattern`` (``operation`` startswith) or matches it (glob)."""

    column: str
    operation: str
    pattern: str
    at: int = field(default=0, compare=False)

    @property
    def literals(self) -> tuple[Literal, ...]:
        """The values that the column is compared with."""
        return (self.pattern,)

    def holds(self, value: Value) -> bool | None:
        """Return whether ``value`` matches the pattern; None (unknown) if it is missing or not a text."""
        if not isinstance(value, str):
            return None
        return value.startswith(self.pattern) if self.operation == "startswith" else glob(value, self.pattern)


@dataclass(frozen=True)
class Missing:
    """Test whether ``column`` has no value."""

    column: str
    at: int = field(default=0, compare=False)
    literals: tuple[Literal, ...] = field(default=(), init=False, compare=False)

    def holds(self, value: Value) -> bool | None:
        """Return whether ``value`` is missing."""
        return value is None


Test: TypeAlias = Compare | Among | Like | Missing


@dataclass(frozen=True)
class Not:
    """Negation of the condition ``part``."""

    part: Condition


@dataclass(frozen=True)
class AllOf:
    """Conjunction ("and") of the conditions ``parts``, at least two."""

    parts: tuple[Condition, ...]


@dataclass(frozen=True)
class AnyOf:
    """Disjunction ("or") of the conditions ``parts``, at least two."""

    parts: tuple[Condition, ...]


Condition: TypeAlias = Compare | Among | Like | Missing | Not | AllOf | AnyOf


def tests_of(condition: Condition) -> Iterator[Test]:
    """Yield the tests (leaves) in ``condition``, from left to right."""
    match condition:
        case Not(part):
            yield from tests_of(part)
        case AllOf(parts) | AnyOf(parts):
            for part in parts:
                yield from tests_of(part)
        case _:
            yield condition


def glob(text: str, pattern: str) -> bool:
    """Return whether the whole ``text`` matches ``pattern``: ``*`` is any text, ``?`` one character.

    Takes at most len(text) x len(pattern) steps; a regular expression may take exponential time.
    """
    at = place = 0
    star = resume = -1
    while at < len(text):
        if place < len(pattern) and pattern[place] == "*":
            star, resume = place, at
            place += 1
        elif place < len(pattern) and pattern[place] in ("?", text[at]):
            at += 1
            place += 1
        elif star >= 0:
            # Backtrack: let the last star match one more character.
            resume += 1
            at, place = resume, star + 1
        else:
            return False
    return not pattern[place:].strip("*")
