"""A small language for choosing rows of a table: parsed into a tree of its own, never evaluated as code.

    label == 'cat' and (split != 'test' or year >= 2020) and not key glob '*.png'

    condition  = conjunction {"or" conjunction}
    conjunction = term {"and" term}
    term       = "not" term | "(" condition ")" | comparison
    comparison = column ("==" | "!=" | "<" | "<=" | ">" | ">=") literal
               | column ["not"] "in" "(" literal {"," literal} ")"
               | column ["not"] ("startswith" | "glob") text
               | column "is" ["not"] "missing"
    literal    = text | number | "true" | "false"

Texts stand in single or double quotes, in which a backslash goes before a quote or a backslash that is meant as such.
A column whose name is no word stands in back quotes. Words of the language may be written in capitals. In a glob
``*`` stands for any text and ``?`` for one character.

Truth has three values, as in SQL: whatever is said of a missing value, but for "is missing", is unknown, and so is its
negation; a row is chosen where the whole is true. Texts, numbers and truth values are never equal to one another, and
an order between them is unknown. Texts compare by code points, numbers exactly.
"""

from featstore.where.parsing import parse
from featstore.where.rows import rows_where

__all__ = ["parse", "rows_where"]
