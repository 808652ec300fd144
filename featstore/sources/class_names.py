"""Names of classes, for Parquet files of Hugging Face's datasets, which store classes as numbers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any


def class_names(schema: Any) -> dict[str, list[str]]:
    """Return the class names by column, from the schema metadata that the library datasets of Hugging Face writes."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {
            column: [str(name) for name in feature["names"]]
            for column, feature in features.items()
            if isinstance(feature, dict)
            and feature.get("_type") == "ClassLabel"
            and isinstance(feature.get("names"), list)
        }
    except (KeyError, TypeError, ValueError, AttributeError):
        return {}


def named(value: Any, names: Sequence[str]) -> Any:
    """Return the name of class number ``value``; None for a number without a name, such as -1.

    A ``value`` that is not an integer is returned unchanged.
    """
    if not isinstance(value, int):
        return value
    return names[value] if 0 <= value < len(names) else None
