"""The errors that featstore raises on purpose: one line each, with the remedy in it."""

from __future__ import annotations


class FeatstoreError(Exception):
    """Something failed: a full disk, a damaged file, a picture that cannot be had (exit code 1)."""


class UsageError(FeatstoreError):
    """What was asked for cannot be done as asked: the caller has to change the request (exit code 2)."""


class IdentityError(UsageError):
    """Features of one identity were brought to a store, head or index of another."""


class DamagedError(FeatstoreError):
    """A file of featstore's own is not what was written: truncated, changed or of another kind."""


class DataError(UsageError, ValueError):
    """Features or labels from which nothing can be learned or predicted as they are.

    It is a ValueError as well because scikit-learn promises its users a ValueError for unusable data.
    """
