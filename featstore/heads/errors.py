"""The error of unusable features or labels."""

from __future__ import annotations

from featstore.errors import UsageError


class DataError(UsageError, ValueError):
    """Features or labels from which nothing can be learned or predicted as they are.

    It is a ValueError as well because that is what scikit-learn promises its users for unusable data.
    """
