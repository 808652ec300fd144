from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from featstore.errors import UsageError
from featstore.where import parse
from featstore.where.tree import AllOf, Among, AnyOf, Compare, Condition, Like, Missing, Not, glob
from tests.where.made import CONDITIONS, written

CAT, NEW = Compare("label", "==", "cat"), Compare("year", ">=", 2020)


@given(CONDITIONS)
def test_filter_condition_survives_conversion_to_text_and_parsing(condition: Condition) -> None:
    assert parse(written(condition)) == condition


@pytest.mark.parametrize(
    ("text", "condition"),
    [
        ("label == 'cat'", CAT),
        ('label=="cat"AND year>=2020', AllOf((CAT, NEW))),
        ("label == 'cat' or year >= 2020 and label == 'cat'", AnyOf((CAT, AllOf((NEW, CAT))))),
        ("(label == 'cat' or year >= 2020) and label == 'cat'", AllOf((AnyOf((CAT, NEW)), CAT))),
        ("not label == 'cat' and year >= 2020", AllOf((Not(CAT), NEW))),
        ("not not (label == 'cat')", Not(Not(CAT))),
        ("year in (1, 2.5, 'x', true)", Among("year", (1, 2.5, "x", True))),
        ("year not in (-1)", Not(Among("year", (-1,)))),
        ("split is missing", Missing("split")),
        ("split is not missing", Not(Missing("split"))),
        ("`is` is missing", Missing("is")),
        ("key not glob '*.png'", Not(Like("key", "glob", "*.png"))),
        ("`a ``b``` startswith ''", Like("a `b`", "startswith", "")),
        (r"label == 'it\'s \"\\'", Compare("label", "==", "it's \"\\")),
        ("breite_ü < 1e3", Compare("breite_ü", "<", 1000.0)),
        ("x != -.5", Compare("x", "!=", -0.5)),
    ],
)
def test_parser_of_filters_applies_operator_precedence(text: str, condition: Condition) -> None:
    assert parse(text) == condition


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "character 1: the name of a column is needed, not the end"),
        ("label = 'cat'", "character 7: '=' cannot stand here; two values are compared with =="),
        ("label == cat", "character 10: a text in quotes, a number, true or false is needed, not 'cat'"),
        ("label == 'cat", 'character 10: "\'" cannot stand here; the text has no closing quote'),
        ("label", "character 6: a comparison such as == or in is needed, not the end"),
        ("label == 'a' label == 'b'", "character 14: 'and', 'or' or the end is needed, not 'label'"),
        ("(label == 'a'", "character 14: ')', 'and' or 'or' is needed, not the end"),
        ("label == 'a' && x == 1", "character 14: '&' cannot stand here; conditions are joined with: and"),
        ("label in 'a'", "character 10: '(' is needed"),
        ("label in ()", "character 11: a text in quotes, a number"),
        ("label in ('a' 'b')", "character 15: ',' or ')' is needed"),
        ("label is null", "character 10: 'missing' is needed, not 'null'"),
        ("label not == 'a'", "character 11: 'in', 'startswith' or 'glob' is needed, not '=='"),
        ("key glob 3", "character 10: a text in quotes is needed, not '3'"),
        ("x > true", "character 5: true and false have no order"),
        ("x == 1e999", "character 6: the number is too large"),
        ("x == " + "9" * 5000, "character 6: the number is too large"),
        ("x == 1_000", "character 6: '1' cannot stand here"),
        (r"x == 'a\n'", r"character 8: a backslash goes before a quote or a backslash, not before 'n'"),
        ("'a' == label", "character 1: the name of a column is needed"),
        ("label == 'a' or and x == 1", "character 17: the name of a column is needed, not 'and'"),
        ("__import__('os').system('x')", "character 11: a comparison such as == or in is needed, not '('"),
        ("x == 1 or (lambda: 0)()", "character 18: ':' cannot stand here"),
        ("(" * 101, "character 101: more than 100 parentheses"),
        ("not " * 5000 + "x == 1", "more than 100 parentheses"),
    ],
)
def test_syntax_errors_of_filter_conditions_name_their_position(text: str, message: str) -> None:
    with pytest.raises(UsageError, match="^filter, " + re.escape(message) if message[0] == "c" else message) as told:
        parse(text)
    assert "\n" not in str(told.value)


PIECES = st.sampled_from(
    [*"()'\"`\\=<>!,.&\n\0", "and", "or ", "not", " in ", "is", "missing", "glob", "label", "x", "1", "-2.5e1", "'a'"]
)


@given(st.text() | st.lists(PIECES, max_size=20).map("".join) | st.lists(PIECES, max_size=20).map(" ".join))
@pytest.mark.slow
def test_parsing_any_text_as_a_filter_succeeds_or_raises_usage_error(text: str) -> None:
    slip = None
    try:
        condition = parse(text)
    except UsageError as told:
        slip = str(told)
    if slip is None:
        assert parse(written(condition)) == condition
    else:
        assert re.match(r"filter, character \d+: ", slip)
        assert slip.isprintable()


@given(st.text("ab*?", max_size=6), st.text("ab*?\n", max_size=8))
def test_globs_match_like_the_equivalent_regular_expressions(pattern: str, text: str) -> None:
    expression = "".join({"*": "(?s:.*)", "?": "(?s:.)"}.get(one, one) for one in pattern)
    assert glob(text, pattern) == (re.fullmatch(expression, text) is not None)


def test_glob_with_many_stars_takes_no_exponential_time() -> None:
    assert not glob("a" * 2000, "*a" * 30 + "b")
