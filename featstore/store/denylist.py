"""The denylist: digests of the pictures that ``featstore remove`` removed, so that no run adds these pictures again.

The denylist is part of the plan. The plan segment that retires the rows of removed pictures also contains the pictures'
digests, so both are written atomically; a later segment may remove digests from the list. Keys and contents are hashed
with a random salt of the store, so the lists of two stores cannot be compared with each other or with a list of known
digests. Whoever has the store can still test whether a given key, which may be easy to guess, or a given picture file
is on the list.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featstore.errors import DamagedError
from featstore.files.byte_columns import Arrays, column
from featstore.store.keys import KeyIndex
from featstore.store.plan import Plan

FEATURE = "denylist"
"""Format feature in the manifest's ``requires``: an older featstore, which would add the pictures again,
refuses the store."""
DENIED_PICTURE = "removed"
"""Failure reason of a picture whose bytes equal those of a removed picture."""
DENIED_MESSAGE = (
    "a picture with these bytes was removed from the store; featstore remove STORE KEY --restore lifts that"
)
Digests = NDArray[np.uint64]
"""128-bit digests (n, 2) of keys or of pictures' bytes; a row of zeros means that there is no digest."""
_SALT_BYTES = 16


def _hashed(values: Iterable[bytes], salt: bytes, what: bytes) -> Digests:
    begun = hashlib.blake2b(digest_size=16, key=salt, person=what)
    made = []
    for value in values:
        digest = begun.copy()
        digest.update(value)
        made.append(digest.digest())
    return np.frombuffer(b"".join(made), "<u8").reshape(-1, 2)


def _found(digests: Digests, among: Digests) -> NDArray[np.bool_]:
    return KeyIndex.build(among).find(digests) >= 0


@dataclass(frozen=True)
class Denylist:
    """The denylist that results from all segments of a plan.

    ``key`` and ``content`` (n, 2): digests of a picture's key and bytes; ``content`` is zeros if the bytes were never
    read or were taken off the list. ``parent`` (n, 2): for a region, the digest of the key of its picture; for a whole
    picture, of its own key. ``purged`` (n,): whether all other data of the picture was erased from the store's files.
    """

    salt: bytes
    key: Digests
    parent: Digests
    content: Digests
    purged: NDArray[np.bool_]

    @classmethod
    def empty(cls) -> Denylist:
        """Return an empty denylist, without a salt."""
        none = np.empty((0, 2), np.uint64)
        return cls(b"", none, none, none, np.empty(0, bool))

    @classmethod
    def of(cls, plan: Plan) -> Denylist:
        """Return the denylist of a plan. Raises DamagedError if it is damaged."""
        found = cls.empty()
        for segment in plan.segments:
            file = segment.file
            if "denied/key" in file:
                part = cls(
                    _salt(segment.meta, found.salt, str(file.path)),
                    column(file, "denied/key", "<u8", 2),
                    column(file, "denied/parent" if "denied/parent" in file else "denied/key", "<u8", 2),
                    column(file, "denied/content", "<u8", 2),
                    column(file, "denied/purged", "|b1"),
                )
                if not len(part.key) == len(part.parent) == len(part.content) == len(part.purged):
                    raise DamagedError(f"{file.path}: the columns of its denylist differ in length")
                found = found.with_entries(part)
            if "allowed/key" in file:
                found = found.without(column(file, "allowed/key", "<u8", 2), column(file, "allowed/content", "<u8", 2))
        return found

    def __len__(self) -> int:
        return len(self.key)

    def with_entries(self, other: Denylist) -> Denylist:
        """Return a denylist with the entries of this list and of ``other``, which has the same salt."""
        return Denylist(
            other.salt,
            np.concatenate([self.key, other.key]),
            np.concatenate([self.parent, other.parent]),
            np.concatenate([self.content, other.content]),
            np.concatenate([self.purged, other.purged]),
        )

    def without(self, key: Digests, content: Digests) -> Denylist:
        """Return this denylist without the entries whose key digest is in ``key`` (m, 2).

        In the other entries, content digests that are in ``content`` (m, 2) are set to zero.
        """
        kept = np.flatnonzero(~_found(self.key, key))
        left = self.content[kept].copy()
        left[_found(left, content)] = 0
        return Denylist(self.salt, self.key[kept], self.parent[kept], left, self.purged[kept])

    def entries(
        self, keys: Sequence[bytes], sha256: NDArray[np.uint8], parents: Sequence[bytes] | None = None
    ) -> Denylist:
        """Return a denylist with one entry for each of ``keys`` (m byte strings) and no other entries.

        ``sha256`` (m, 32): SHA-256 of each picture's bytes, zeros if unknown. ``parents`` (m): for a region, the key of
        its picture; for a whole picture, its own key. None: all are whole pictures.
        """
        salt = self.salt or secrets.token_bytes(_SALT_BYTES)
        content = _hashed((row.tobytes() for row in sha256), salt, b"content").copy()
        content[~sha256.any(axis=1)] = 0
        key = _hashed(keys, salt, b"key")
        parent = key if parents is None else _hashed(parents, salt, b"key")
        return Denylist(salt, key, parent, content, np.zeros(len(keys), bool))

    def denies_keys(self, keys: Sequence[bytes]) -> NDArray[np.bool_]:
        """Return a mask (m,) of the keys that are on the denylist."""
        if not len(self):
            return np.zeros(len(keys), bool)
        return _found(_hashed(keys, self.salt, b"key"), self.key)

    def erased(self, *, all_denied: bool = False) -> Denylist:
        """Return a denylist of the purged pictures or, with ``all_denied``, of all pictures, each marked as purged."""
        rows = np.flatnonzero(self.purged | all_denied)
        return Denylist(self.salt, self.key[rows], self.parent[rows], self.content[rows], np.ones(len(rows), bool))

    def matching(self, keys: Sequence[bytes]) -> tuple[NDArray[np.bool_], Digests, Digests]:
        """Return a mask (m,) of the keys that are on the denylist, or that have a region on the denylist.

        Also return the key digests and the content digests of the matching entries.
        """
        if not len(self):
            return np.zeros(len(keys), bool), self.key, self.content
        asked = _hashed(keys, self.salt, b"key")
        rows = np.flatnonzero(_found(self.key, asked) | _found(self.parent, asked))
        denied = _found(asked, np.concatenate([self.key[rows], self.parent[rows]]))
        return denied, self.key[rows], self.content[rows]

    def content_test(self) -> ContentTest:
        """Return a function that tests by SHA-256 whether a picture was removed."""
        known = {digest.tobytes() for digest in self.content if digest.any()}
        return ContentTest(self.salt, frozenset(known))

    def arrays(self) -> Arrays:
        """Return the arrays in which a plan segment stores this denylist; {} for an empty denylist."""
        if not len(self):
            return {}
        found = {"denied/key": self.key, "denied/content": self.content, "denied/purged": self.purged}
        return found if np.array_equal(self.parent, self.key) else {**found, "denied/parent": self.parent}

    def about(self) -> dict[str, Any]:
        """Return the salt as JSON for the ``meta`` of the plan segment that stores this list; {} for an empty list."""
        return {"salt": self.salt.hex()} if len(self) else {}


@dataclass(frozen=True)
class ContentTest:
    """Test whether a picture's bytes equal those of a removed picture, by SHA-256. Thread-safe."""

    salt: bytes = b""
    known: frozenset[bytes] = frozenset()

    def __call__(self, sha256: bytes) -> bool:
        """Return whether a removed picture had the bytes with this SHA-256."""
        return bool(self.known) and _hashed([sha256], self.salt, b"content").tobytes() in self.known


def _salt(meta: dict[str, Any], known: bytes, path: str) -> bytes:
    try:
        salt = bytes.fromhex(meta["salt"])
    except (KeyError, TypeError, ValueError):
        salt = b""
    if len(salt) != _SALT_BYTES or known not in (b"", salt):
        raise DamagedError(f"{path}: the salt of its denylist is missing or not that of the store")
    return salt
