"""Freshness: which stores, heads, indexes, models and pages are stale, why, and the commands that refresh them."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from featstore.artifacts import newer_labels, update_command
from featstore.artifacts.lineage import Artifact, Found, Parent
from featstore.errors import FeatstoreError
from featstore.store import FeatureStore
from featstore.store.as_source import KIND, PARTIAL, behind
from featstore.store.manifest import Manifest
from featstore.store.origin import KEY, generation_number
from featstore.store.past import record_of
from featstore.store.plan import source_name
from featstore.text import counted

_ORDER: Final = ("store", "index", "head", "model", "page")
_ONCE: Final = ("import", "list")
"""Kinds of sources that no command can read again: imported vectors, and path lists, which may come from a pipe."""


@dataclass(frozen=True)
class State:
    """Whether an artifact is up to date.

    ``stale``: the reason why the artifact is stale, "" if it is up to date. ``unknown``: the reason why this cannot be
    determined, else "". ``commands``: the commands that refresh the artifact, in order. ``folder``: the folder to run
    the commands in; "" means the current folder.
    """

    artifact: Artifact
    stale: str = ""
    unknown: str = ""
    commands: tuple[tuple[str, ...], ...] = ()
    folder: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the state of the artifact (store, head, index or page) as JSON types."""
        artifact = self.artifact
        return {
            "kind": artifact.kind,
            "path": str(artifact.path),
            "store_id": artifact.store_id,
            "made_of": [{"store": parent.path, "store_id": parent.store_id} for parent in artifact.parents],
            "stale": self.stale,
            "unknown": self.unknown,
            "commands": [list(command) for command in self.commands],
            "folder": self.folder,
        }

    def command_lines(self) -> list[str]:
        """Return each command that refreshes the artifact as one line for a shell."""
        lines = [shlex.join(command) for command in self.commands]
        return [f"(cd {shlex.quote(self.folder)} && {line})" for line in lines] if self.folder else lines


def states_of(found: Found) -> list[State]:
    """Return the state of each artifact in ``found``: stores first, then indexes, heads, models and pages.

    Artifacts made from a stale store are stale too. The stores in a cache of ``finetune`` are never stale. Running the
    commands of all states in order refreshes everything but models.
    """
    return _States(found).all()


class _States:
    def __init__(self, found: Found) -> None:
        self.artifacts = found.artifacts
        self.stores: dict[str, list[Artifact]] = {}
        for artifact in found.artifacts:
            if artifact.kind == "store":
                self.stores.setdefault(artifact.store_id, []).append(artifact)
        self.opened: dict[Path, FeatureStore] = {}
        self.known: dict[Path, State] = {}

    def all(self) -> list[State]:
        for kind in _ORDER:
            for artifact in self.artifacts:
                if artifact.kind == kind:
                    self.state(artifact)
        return list(self.known.values())

    def state(self, artifact: Artifact) -> State:
        """Return the state of an artifact; first compute the states of the stores from which the artifact was made."""
        if artifact.path not in self.known:
            # Stop the recursion if two stores claim to be made from each other.
            self.known[artifact.path] = State(artifact)
            places = [self._place(parent, artifact) for parent in artifact.parents]
            above = [each for place in places for each in self._artifact_at(place) if each.path != artifact.path]
            stale = [each for each in map(self.state, above) if each.stale]
            del self.known[artifact.path]
            self.known[artifact.path] = self._checked(artifact, places, stale)
        return self.known[artifact.path]

    def _checked(self, artifact: Artifact, places: Sequence[Path | None], above: Sequence[State]) -> State:
        if artifact.about.get(PARTIAL) and artifact.kind == "store":
            # A cache of finetune has the pictures of one run; every further run compares the cache with its store.
            return State(artifact)
        lost = [parent.path for parent, place in zip(artifact.parents, places, strict=True) if place is None]
        if lost and artifact.kind != "store":
            return State(artifact, unknown=f"its store {lost[0]} is not there")
        there = [place for place in places if place is not None]
        checks = {"store": self._store, "index": self._index, "head": self._head, "page": self._page}
        # A model is stale for the same reasons as a head: it was trained on the pictures of a store.
        check = (checks | {"model": self._head})[artifact.kind]
        try:
            state = check(artifact, there)
        except (FeatstoreError, OSError) as error:
            return State(artifact, unknown=str(error))
        if lost:
            why = self._open(artifact.path)._tables.lost or f"its source {lost[0]} is not there"
            state = State(artifact, state.stale, why, state.commands, state.folder)
        if above and not state.stale and not state.unknown:
            why = f"{above[0].artifact.path}, of which it was made, is not up to date"
            state = State(artifact, why, "", self._commands(artifact, there), state.folder)
        return state

    def _place(self, parent: Parent, artifact: Artifact) -> Path | None:
        """Return the path of ``parent``, a store from which ``artifact`` was made; None if the store is not found.

        The store is looked for by its store id: among the stores found in the folder, at the path that the artifact
        records, and in the artifact's own folder.
        """
        inside = [each.path for each in self.stores.get(parent.store_id, [])]
        recorded = Path(parent.path)
        for place in inside:
            if os.path.abspath(place) == os.path.abspath(recorded):
                return place
        if artifact.kind != "store" and inside:
            return inside[0]
        for place in (recorded, artifact.path.parent / recorded.name):
            try:
                if Manifest.read(place).store_id == parent.store_id:
                    return place
            except (FeatstoreError, OSError):
                continue
        return inside[0] if inside else None

    def _artifact_at(self, place: Path | None) -> list[Artifact]:
        return [each for each in self.artifacts if each.kind == "store" and each.path == place]

    def _open(self, path: Path) -> FeatureStore:
        if path not in self.opened:
            self.opened[path] = FeatureStore.open(path)
        return self.opened[path]

    def _commands(self, artifact: Artifact, places: Sequence[Path]) -> tuple[tuple[str, ...], ...]:
        """Return the commands that refresh an artifact; ``places``: paths of the stores from which it was made."""
        path = str(artifact.path)
        if artifact.kind == "index":
            return (tuple(update_command(places[0], path)),)
        if artifact.kind == "head":
            stores = [word for place in places for word in ("--store", str(place))]
            return (("featstore", "train", "--update", path, *stores),)
        if artifact.kind == "model":
            # The user has to fine-tune it again: no file records the command.
            return ()
        if artifact.kind == "page":
            command = artifact.about["command"]
            return (tuple(map(str, command)),) if command and isinstance(command, list) else ()
        store = self._open(artifact.path)
        follow = ("--follow",) if store._tables.follows is not None else ()
        return tuple(("featstore", "extract", str(place), path, *follow) for place in places)

    def _store(self, artifact: Artifact, places: Sequence[Path]) -> State:
        store = self._open(artifact.path)
        why, commands = [], list[tuple[str, ...]]()
        for place in places:
            if difference := behind(store, self._open(place)):
                why.append(f"{place}, of which it was made, has {difference}")
        follows = store._tables.follows
        if follows is not None and store._tables.lost and places:
            why.append(f"{follows['store']}, whose labels it has, is at {places[0]} now")
        if why:
            commands += self._commands(artifact, places)
        pending = {
            source_name(store._plan.segments[unit.segment].source): store._plan.segments[unit.segment].source
            for unit in store._pending_units()
        }
        if pending:
            why.append(f"{counted(store.counts.pending, 'picture is', 'pictures are')} pending")
        for source in pending.values():
            if source.get("kind") not in _ONCE and not (source.get("kind") == KIND and commands):
                commands.append(("featstore", "extract", str(source.get("location")), str(artifact.path)))
        if Manifest.read(artifact.path).purging:
            why.append("a purge was begun and not finished")
            commands.insert(0, ("featstore", "remove", str(artifact.path), "--purge"))
        return State(artifact, "; ".join(why), "", tuple(commands))

    def _index(self, artifact: Artifact, places: Sequence[Path]) -> State:
        from featstore.indexes.files.pair import load_rows
        from featstore.indexes.rows import Places
        from featstore.indexes.staleness import compare

        rows, record = load_rows(artifact.path)
        if not places:
            return State(artifact, unknown="it does not say which store it was made of")
        store = self._open(places[0])
        labels = newer_labels(record.identity.get(KEY), store)
        if record.generation == generation_number(store) and labels is None:
            return State(artifact)
        ids = np.asarray(store.ids)
        known = rows.labels_at(Places(rows.ids).positions(ids))
        stale = compare(rows.ids[~rows.removed], ids, known, labels, older=True)
        return State(artifact) if stale.fresh else State(artifact, str(stale), "", self._commands(artifact, places))

    def _head(self, artifact: Artifact, places: Sequence[Path]) -> State:
        if not places:
            return State(artifact, unknown="it does not say which store it was made of")
        why = [
            f"{place} has {changed}"
            for place, parent in zip(places, artifact.parents, strict=True)
            if (changed := changes_since(self._open(place), parent.record or artifact.about))
        ]
        return State(artifact, "; ".join(why), "", self._commands(artifact, places) if why else ())

    def _page(self, artifact: Artifact, places: Sequence[Path]) -> State:
        why = [
            f"{place} has {changed}"
            for place, parent in zip(places, artifact.parents, strict=True)
            if (changed := changes_since(self._open(place), parent.record))
        ]
        files = artifact.about["files"]
        why += [f"{path} is another one now" for path in _replaced(files)]
        inputs = {str(each.get("path")) for each in files}
        why += [
            f"{state.artifact.path} is not up to date"
            for state in self.known.values()
            if state.stale and os.path.abspath(state.artifact.path) in inputs
        ]
        folder = artifact.about["folder"]
        folder = "" if not folder or os.path.abspath(folder) == os.getcwd() else folder
        return State(artifact, "; ".join(why), "", self._commands(artifact, places) if why else (), folder)


def changes_since(store: FeatureStore, record: dict[str, Any]) -> str:
    """Describe how rows, labels or splits of ``store`` changed since the state ``record``; "" if nothing changed.

    ``record``: see past.record_of. Raises UsageError if the store's history since then is lost; DamagedError if it is
    damaged.
    """
    now = record_of(store)
    names = ("generation", "next_id", "label_version", "pending")
    if all(name in record and _plain(record[name]) == _plain(now[name]) for name in names):
        return ""
    then = FeatureStore.open(store.path, at=record, missing="skip")
    before, after = then.ids, store.ids
    gone = len(np.setdiff1d(before, after)) + then.missing.count
    new = len(np.setdiff1d(after, before))
    common = np.intersect1d(before, after)
    old_rows, rows = then.rows_of_ids(common), store.rows_of_ids(common)
    parts = []
    if new or gone:
        parts.append(f"{counted(new, 'new picture')} and {gone:,} less")
    for what in ("labels", "splits"):
        was, is_now = getattr(then, what)[old_rows], getattr(store, what)[rows]
        changed = sum(a != b for a, b in zip(was.tolist(), is_now.tolist(), strict=True))
        if changed:
            parts.append(f"{counted(changed, f'changed {what[:-1]}')}")
    return ", ".join(parts)


def _plain(value: Any) -> Any:
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value


def _replaced(files: Sequence[dict[str, Any]]) -> list[str]:
    """Return the names of those ``files`` (heads or indexes) that changed since a page was made from them."""
    gone = []
    for each in files:
        try:
            status = os.stat(each["path"])
            same = (status.st_size, status.st_mtime_ns) == (each["size"], each["mtime_ns"])
        except (OSError, TypeError, KeyError, ValueError):
            same = False
        if not same:
            gone.append(str(each.get("path")))
    return gone


def all_commands(states: Sequence[State]) -> list[str]:
    """Return the commands of all stale artifacts as lines for a shell, without duplicates."""
    return list(dict.fromkeys(line for state in states for line in state.command_lines()))
