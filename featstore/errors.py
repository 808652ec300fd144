"""The errors that featstore raises; each message is one line and includes the remedy."""

from __future__ import annotations


class FeatstoreError(Exception):
    """An operation failed: full disk, damaged file, unavailable picture (exit code 1)."""


class UsageError(FeatstoreError):
    """The request is invalid; the caller has to change it (exit code 2)."""


class IdentityError(UsageError):
    """The features were computed with another backbone, weights or preprocessing than a store, head or index requires."""


class DamagedError(FeatstoreError):
    """A file of featstore is damaged: truncated, changed or of the wrong kind."""


class DataError(UsageError, ValueError):
    """Features or labels are unusable for training or prediction.

    This class is also a ValueError, because scikit-learn's API requires one for unusable data.
    """


class Notice(UserWarning):
    """A warning for users about the state of the work, such as a wait; it is not about the user's code."""
