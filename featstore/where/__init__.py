"""Filter language to select rows of a table; conditions are parsed into a tree and never evaluated as code.

    label == 'cat' and (split != 'test' or year >= 2020) and not key glob '*.png'

    condition  = conjunction {"or" conjunction}
    conjunction = term {"and" term}
    term       = "not" term | "(" condition ")" | comparison
    comparison = column ("==" | "!=" | "<" | "<=" | ">" | ">=") literal
               | column ["not"] "in" "(" literal {"," literal} ")"
               | column ["not"] ("startswith" | "glob") text
               | column "is" ["not"] "missing"
    literal    = text | number | "true" | "false"

Texts are written in single or double quotes; inside, a backslash escapes a quote or a backslash. Column names that are
not plain words are written in backquotes. Keywords are not case-sensitive. In a glob ``*`` matches any text and ``?``
one character.

Logic is three-valued, as in SQL: a comparison with a missing value is unknown (except "is missing"), and "not unknown"
is unknown. A row is selected if the whole condition is true. Values of different types (text, number, truth value) are
never equal, and comparing their order gives unknown. Texts are compared by code points, numbers exactly.
"""

from featstore.where.parsing import parse
from featstore.where.rows import absent_values, rows_where

__all__ = ["absent_values", "parse", "rows_where"]
