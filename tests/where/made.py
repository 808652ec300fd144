"""Random filter conditions, their text, and a simple reference evaluation for one row."""

from __future__ import annotations

import re
from typing import Any

from hypothesis import strategies as st

from featstore.where.tree import AllOf, Among, AnyOf, Compare, Condition, Like, Missing, Not

COLUMNS = ("key", "label", "split", "year", "a b`c", "and")
TEXTS = st.text("ab*?'\"\\ _é", max_size=4)
NUMBERS = st.integers(-3, 3) | st.sampled_from([0.5, -1.5, 1e3, 2.0, 2**70])
LITERALS = TEXTS | NUMBERS | st.booleans()
VALUES = st.none() | LITERALS


def _compare(column: str, operation: str, literal: Any) -> Condition:
    ordered = operation in ("<", "<=", ">", ">=")
    return Compare(column, "==" if ordered and isinstance(literal, bool) else operation, literal)


TESTS = st.one_of(
    st.builds(_compare, st.sampled_from(COLUMNS), st.sampled_from(["==", "!=", "<", "<=", ">", ">="]), LITERALS),
    st.builds(Among, st.sampled_from(COLUMNS), st.lists(LITERALS, min_size=1, max_size=3).map(tuple)),
    st.builds(Like, st.sampled_from(COLUMNS), st.sampled_from(["startswith", "glob"]), TEXTS),
    st.builds(Missing, st.sampled_from(COLUMNS)),
)


def _joined(parts: st.SearchStrategy[Condition]) -> st.SearchStrategy[Condition]:
    several = st.lists(parts, min_size=2, max_size=3).map(tuple)
    return st.builds(Not, parts) | st.builds(AllOf, several) | st.builds(AnyOf, several)


CONDITIONS: st.SearchStrategy[Condition] = st.recursive(TESTS, _joined, max_leaves=8)


def literal(value: Any) -> str:
    if isinstance(value, str):
        return "'" + re.sub(r"(['\"\\])", r"\\\1", value) + "'"
    return str(value).lower() if isinstance(value, bool) else repr(value)


def name(column: str) -> str:
    return column if column.isidentifier() and column != "and" else "`" + column.replace("`", "``") + "`"


def written(condition: Condition) -> str:
    """Return ``condition`` as text, with parentheses around every part."""
    match condition:
        case Not(part):
            return f"not ({written(part)})"
        case AllOf(parts):
            return " and ".join(f"({written(part)})" for part in parts)
        case AnyOf(parts):
            return "or".join(f"({written(part)})" for part in parts)
        case Compare(column, operation, value):
            return f"{name(column)}{operation}{literal(value)}"
        case Among(column, values):
            return f"{name(column)} IN ({' , '.join(map(literal, values))})"
        case Like(column, operation, pattern):
            return f"{name(column)}\t{operation} {literal(pattern)}"
        case Missing(column):
            return f"{name(column)} is\nmissing"


def said(condition: Condition, row: dict[str, Any]) -> bool | None:
    """Evaluate ``condition`` for ``row`` by the definition of the filter language; None means unknown."""
    match condition:
        case Not(part):
            return {True: False, False: True, None: None}[said(part, row)]
        case AllOf(parts):
            told = [said(part, row) for part in parts]
            return False if False in told else None if None in told else True
        case AnyOf(parts):
            told = [said(part, row) for part in parts]
            return True if True in told else None if None in told else False
        case Missing(column):
            return row[column] is None
    value = row[condition.column]
    if value is None:
        return None
    match condition:
        case Among(column, values):
            told = [said(Compare(column, "==", one), row) for one in values]
            return True in told
        case Like(_, "startswith", pattern):
            return value[: len(pattern)] == pattern if isinstance(value, str) else None
        case Like(_, _, pattern):
            expression = re.escape(pattern).replace(r"\*", "(.|\n)*").replace(r"\?", "(.|\n)")
            return re.fullmatch(expression, value) is not None if isinstance(value, str) else None
        case Compare(_, operation, other):
            kinds = [
                str if isinstance(one, str) else bool if isinstance(one, bool) else float for one in (value, other)
            ]
            if kinds[0] is not kinds[1]:
                return {"==": False, "!=": True}.get(operation)
            # eval is acceptable here because the operation and the values come from this test.
            return eval("value " + operation + " other", {"value": value, "other": other})
    raise AssertionError(condition)
