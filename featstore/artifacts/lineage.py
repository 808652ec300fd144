"""Lineage: the stores, heads, indexes, models and pages in a folder, and which stores each was made from.

Only headers and descriptions are read, no vectors. Links are not followed.
"""

from __future__ import annotations

import html
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from featstore.errors import DamagedError, FeatstoreError, UsageError
from featstore.files import atomic, model_folder, sealed
from featstore.files.model_folder import is_model
from featstore.store import as_source, folders
from featstore.store.manifest import settled
from featstore.store.origin import KEY, origins_in
from featstore.store.past import KEY as PAST
from featstore.store.past import records_in
from featstore.store.plan import Plan
from featstore.store.tables import Tables

Kind = Literal["store", "head", "index", "model", "page"]
_SIDE: Final = re.compile(r"(.+)\.featstore(\.next)?")
_OF_MODELS: Final = (".cache", ".run")
"""Ends of the names of folders that a fine-tuning writes beside its model: stores of activations, and the state of an
unfinished run."""
_PAGE_BYTES: Final = 65536
"""Number of bytes to search for the description at the beginning of an HTML page."""
_DESCRIPTION: Final = re.compile(r'<meta name="featstore" content="([^"]*)">')


@dataclass(frozen=True)
class Parent:
    """A store from which an artifact was made.

    ``record``: the state of the store when the artifact was made, see past.record_of.
    """

    store_id: str
    path: str
    record: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Artifact:
    """A store, head, index, model or page at ``path``.

    ``store_id``: only for a store. ``parents``: the stores from which the artifact was made. ``about``: the description
    recorded in a head, in the head of a model, or in a page; ``partial`` is true in that of a store with only some
    pictures of another store, which is a cache of ``finetune``.
    """

    kind: Kind
    path: Path
    parents: tuple[Parent, ...]
    store_id: str = ""
    about: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Found:
    """The ``artifacts`` in a folder. ``unread``: an error message for each artifact that could not be read."""

    artifacts: list[Artifact]
    unread: list[str]


def find_artifacts(folder: Path, *, deep: bool = True) -> Found:
    """Return featstore's artifacts in ``folder`` and, if ``deep``, in the folders below it, sorted by path."""
    found = Found([], [])
    for path in sorted(_walk(folder, deep, found.unread)):
        add_artifact(found, path)
    return found


def add_artifact(found: Found, path: Path) -> bool:
    """Add the artifact at ``path``, if there is one, to ``found``; return whether featstore made the file or folder."""
    try:
        artifact = read_artifact(path)
    except (FeatstoreError, OSError, ValueError) as error:
        text = str(error)
        found.unread.append(text if text.startswith(str(path)) else f"{path}: {text}")
        return True
    if artifact is not None and all(artifact.path != other.path for other in found.artifacts):
        found.artifacts.append(artifact)
    return artifact is not None


def _walk(folder: Path, deep: bool, unread: list[str]) -> Iterator[Path]:
    """Yield the paths of the stores, models and files in ``folder``, and in the folders that fine-tuning writes there.

    Files inside stores and models are left out.
    """
    try:
        with os.scandir(folder) as entries:
            listed = list(entries)
    except OSError as error:
        unread.append(f"{folder}: {error.strerror}")
        return
    for entry in listed:
        path = Path(entry.path)
        if entry.is_file(follow_symlinks=False):
            yield path
        elif entry.is_dir(follow_symlinks=False):
            if os.path.lexists(path / folders.MANIFEST) or is_model(path):
                yield path
            elif deep or path.suffix in _OF_MODELS:
                yield from _walk(path, deep, unread)


def read_artifact(path: Path) -> Artifact | None:
    """Return the artifact at ``path``, or None for other files.

    Raises DamagedError or UsageError if the artifact is unusable, OSError if it cannot be read.
    """
    if path.is_dir():
        if (path / folders.MANIFEST).exists():
            return _store(path)
        return _model(path) if is_model(path) else None
    if path.name.startswith("."):
        # Skip hidden files; the temporary files of atomic writes are hidden files.
        return None
    if side := _SIDE.fullmatch(path.name):
        return _index(path.with_name(side[1]), path) if sealed.begins_like_one(path) else None
    for end in (".featstore", ".featstore.next"):
        if os.path.lexists(f"{path}{end}"):
            return _index(path, Path(f"{path}{end}"))
    if path.suffix.lower() in (".html", ".htm"):
        return _page(path)
    if sealed.begins_like_one(path) and sealed.read_header(path, None, follow=False).get("kind") == "head":
        return _head(path)
    return None


def _store(path: Path) -> Artifact:
    manifest, (plan, tables) = settled(
        path, lambda found: (Plan(path, found.epoch), Tables(path, found.epoch, follow=False))
    )
    sources = plan.sources().values()
    about = {as_source.PARTIAL: True} if any(source.get(as_source.PARTIAL) is True for source in sources) else {}
    parents = {
        (str(source.get("store_id")), str(source.get("location")))
        for source in sources
        if source.get("kind") == as_source.KIND
    }
    if tables.follows is not None:
        parents.add((str(tables.follows.get("store_id")), str(tables.follows.get("store"))))
    return Artifact("store", path, tuple(Parent(*parent) for parent in sorted(parents)), manifest.store_id, about)


def _head(path: Path) -> Artifact:
    about = sealed.SealedFile(path, "head", follow=False).meta.get("about")
    if not isinstance(about, dict):
        raise DamagedError(f"{path}: its description lacks where it came from")
    return Artifact("head", path, _parents(about.get(KEY), about.get(PAST)), about=about)


def _model(path: Path) -> Artifact:
    about = sealed.SealedFile(path / model_folder.HEAD, "head", follow=False).meta.get("about")
    model_folder.read_description(path)
    if not isinstance(about, dict):
        raise DamagedError(f"{path}: the description of its head lacks where it came from")
    parents = tuple(parent for parent in _parents(about.get(KEY), about.get(PAST)) if parent.store_id)
    return Artifact("model", path, parents, about=about)


def _index(path: Path, side: Path) -> Artifact:
    identity = sealed.SealedFile(side, "index", follow=False).meta.get("identity")
    origin = identity.get(KEY) if isinstance(identity, dict) else None
    return Artifact("index", path, _parents(origin, origin.get(PAST) if isinstance(origin, dict) else None))


def _page(path: Path) -> Artifact | None:
    with atomic.open_regular(path, follow=False) as file:
        start = file.read(_PAGE_BYTES).decode("utf-8", "replace")
    found = _DESCRIPTION.search(start)
    if found is None:
        return None
    try:
        about = {"files": [], "command": [], "folder": "", **json.loads(html.unescape(found[1]))}
        stores = [(str(each["store_id"]), str(each["store"]), dict(each["record"])) for each in about["stores"]]
        kinds = [(about["files"], list), (about["command"], list), (about["folder"], str)]
        kinds += [(each, dict) for each in about["files"]]
        if not all(isinstance(value, kind) for value, kind in kinds):
            raise TypeError
    except (ValueError, TypeError, KeyError, RecursionError):
        raise DamagedError(f"{path}: the description in the page is damaged") from None
    return Artifact("page", path, tuple(Parent(*store) for store in stores), about=about)


def _parents(origin: Any, past: Any) -> tuple[Parent, ...]:
    """Return the stores that the ``origin`` record of a head or an index names, each with its state recorded in
    ``past``."""
    records = {str(each.get("store_id")): each for each in records_in(past)}
    return tuple(
        Parent(str(one["store_id"]), str(one["store"]), records.get(str(one["store_id"]), {}))
        for one in origins_in(origin)
        if "store_id" in one and "store" in one
    )


def require_artifact(path: Path) -> Artifact:
    """Return the artifact at ``path``.

    Raises UsageError if there is no artifact; DamagedError if it is damaged; OSError if it cannot be read.
    """
    if not os.path.lexists(path):
        raise UsageError(f"{path}: does not exist")
    artifact = read_artifact(path)
    if artifact is None:
        raise UsageError(f"{path}: is no head, index or page that featstore made")
    return artifact
