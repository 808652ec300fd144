"""Parse the text of a condition into a tree; the grammar is in featstore.where."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NoReturn

from featstore.errors import UsageError
from featstore.where.tree import ORDERS, AllOf, Among, AnyOf, Compare, Condition, Like, Literal, Missing, Not, Test

_DEEPEST: Final = 100
"""Maximum nesting depth of parentheses and "not"."""
_SHOWN: Final = 30
_TOKEN: Final = re.compile(
    r"""\s*(?:
    (?P<text>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")
    |(?P<quoted>`(?:[^`]|``)+`)
    |(?P<number>[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?(?!\w))
    |(?P<word>[^\W\d]\w*)
    |(?P<sign>==|!=|<=|>=|<|>|\(|\)|,)
    |(?P<end>\Z)
    )""",
    re.VERBOSE | re.DOTALL,
)
_HINTS: Final = {
    "=": "; two values are compared with ==",
    "&": "; conditions are joined with: and",
    "|": "; conditions are joined with: or",
    "!": "; a condition is turned round with: not",
    "~": "; a condition is turned round with: not",
    "'": "; the text has no closing quote",
    '"': "; the text has no closing quote",
    "`": "; the column's name has no closing quote",
}
_WORDS: Final = {"and", "or", "not", "in", "is", "missing", "startswith", "glob", "true", "false"}


def parse(text: str) -> Condition:
    """Parse ``text`` into a condition. Raises UsageError, in one line with the position, on a syntax error."""
    return _Parser(text).whole()


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    at: int


class _Parser:
    def __init__(self, text: str) -> None:
        self._text, self._depth = text, 0
        self._tokens = self._split()
        self._next = next(self._tokens)

    def _split(self) -> Iterator[_Token]:
        at = 0
        while True:
            found = _TOKEN.match(self._text, at)
            if found is None:
                at += len(self._text[at:]) - len(self._text[at:].lstrip())
                sign = self._text[at]
                self._fail(at, f"{sign!a} cannot stand here{_HINTS.get(sign, '')}")
            kind = str(found.lastgroup)
            yield _Token(kind, found[kind], found.start(kind))
            if kind == "end":
                return
            at = found.end()

    def _fail(self, at: int, what: str) -> NoReturn:
        raise UsageError(f"filter, character {at + 1}: {what}")

    def _expected(self, what: str) -> NoReturn:
        token = self._next
        shown = token.text if len(token.text) <= _SHOWN else token.text[:_SHOWN] + "..."
        self._fail(token.at, f"{what} is needed, not {'the end' if token.kind == 'end' else ascii(shown)}")

    def _step(self) -> None:
        # Look only one token ahead, so that the first syntax error is the one reported.
        self._next = next(self._tokens, self._next)

    def _take(self, *texts: str) -> _Token | None:
        """Consume the next token if it is one of ``texts`` (operators or keywords); return it."""
        token = self._next
        if token.kind not in ("word", "sign") or token.text.lower() not in texts:
            return None
        self._step()
        return token

    def whole(self) -> Condition:
        condition = self._condition()
        if self._next.kind != "end":
            self._expected("'and', 'or' or the end")
        return condition

    def _condition(self) -> Condition:
        parts = [self._conjunction()]
        while self._take("or"):
            parts.append(self._conjunction())
        return parts[0] if len(parts) == 1 else AnyOf(tuple(parts))

    def _conjunction(self) -> Condition:
        parts = [self._term()]
        while self._take("and"):
            parts.append(self._term())
        return parts[0] if len(parts) == 1 else AllOf(tuple(parts))

    def _term(self) -> Condition:
        token = self._take("not", "(")
        if token is None:
            return self._comparison()
        self._depth += 1
        if self._depth > _DEEPEST:
            self._fail(token.at, f"more than {_DEEPEST} parentheses and 'not's within one another")
        if token.text == "(":
            condition = self._condition()
            if not self._take(")"):
                self._expected("')', 'and' or 'or'")
        else:
            condition = Not(self._term())
        self._depth -= 1
        return condition

    def _comparison(self) -> Condition:
        token = self._next
        if token.kind == "quoted":
            column = token.text[1:-1].replace("``", "`")
        elif token.kind == "word" and token.text.lower() not in _WORDS:
            column = token.text
        else:
            self._expected("the name of a column")
        self._step()
        if operation := self._take("==", "!=", "<", "<=", ">", ">="):
            at = self._next.at
            literal = self._literal()
            if isinstance(literal, bool) and operation.text in ORDERS:
                self._fail(at, f"true and false have no order; compare with == or !=, not {operation.text}")
            return Compare(column, operation.text, literal, token.at)
        if self._take("is"):
            negated = self._take("not") is not None
            if not self._take("missing"):
                self._expected("'missing'")
            missing = Missing(column, token.at)
            return Not(missing) if negated else missing
        negated = self._take("not") is not None
        test: Test
        if self._take("in"):
            test = Among(column, self._list(), token.at)
        elif operation := self._take("startswith", "glob"):
            test = Like(column, operation.text.lower(), self._pattern(), token.at)
        else:
            self._expected("'in', 'startswith' or 'glob'" if negated else "a comparison such as == or in")
        return Not(test) if negated else test

    def _list(self) -> tuple[Literal, ...]:
        if not self._take("("):
            self._expected("'('")
        literals = [self._literal()]
        while self._take(","):
            literals.append(self._literal())
        if not self._take(")"):
            self._expected("',' or ')'")
        return tuple(literals)

    def _pattern(self) -> str:
        if self._next.kind != "text":
            self._expected("a text in quotes")
        pattern = self._literal()
        assert isinstance(pattern, str)
        return pattern

    def _literal(self) -> Literal:
        token = self._next
        if token.kind == "text":
            self._step()
            return self._unquoted(token)
        if token.kind == "number":
            self._step()
            return self._number(token)
        if word := self._take("true", "false"):
            return word.text.lower() == "true"
        self._expected("a text in quotes, a number, true or false")

    def _unquoted(self, token: _Token) -> str:
        inner = token.text[1:-1]
        for escape in re.finditer(r"\\(.)", inner, re.DOTALL):
            if escape[1] not in "'\"\\":
                self._fail(
                    token.at + 1 + escape.start(),
                    f"a backslash goes before a quote or a backslash, not before {escape[1]!a}; write \\\\",
                )
        return re.sub(r"\\(.)", r"\1", inner, flags=re.DOTALL)

    def _number(self, token: _Token) -> int | float:
        try:
            number = int(token.text) if re.fullmatch(r"[-+]?[0-9]+", token.text) else float(token.text)
        except ValueError:  # Python refuses to parse integers of thousands of digits
            number = math.inf
        if number in (math.inf, -math.inf):
            self._fail(token.at, "the number is too large")
        return number
