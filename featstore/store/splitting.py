"""Choose the labelled pictures of a store for training a head, and those for evaluating it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featstore import defaults
from featstore.errors import DataError, UsageError
from featstore.sources.layout import split_words
from featstore.store import FeatureStore
from featstore.store.origin import require_vectors
from featstore.store.region_views import numbered
from featstore.store.targets import Targets, Task
from featstore.text import counted, natural

TRAIN_NAMES = ("train", "training")
TEST_NAMES = ("test", "testing", "val", "valid", "validation", "eval", "dev", "holdout")
"""Names of the default evaluation split, in order of preference; names that split_words recognises are tried next."""

_FEW = 30
"""Users are warned if fewer pictures are held out: the 95 % interval of an accuracy of 0.9 is then at least 15 points
wide.
"""

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Split:
    """Rows of a store to train on and rows held out for evaluation; ascending, and all with a label.

    ``kind``: "given" (two splits of the store) or "made" (stratified; pictures with equal bytes are in the same part).
    ``names``: names of the training and the evaluation split. ``parents``: number of pictures with regions in both
    splits. ``unlabelled``: number of pictures without a label, which are not used. ``shared``: number of held-out
    pictures whose bytes are also in the training split. ``missing``: classes without a held-out picture. ``unsplit``:
    number of labelled pictures that are not used because they have no split; ``unknown``: classes, or labels of label
    sets, that only these pictures have. ``targets``: the values to learn instead of one class per picture. If given,
    ``unlabelled`` is the number of pictures without a target, and ``missing`` has the labels without a held-out
    picture.
    """

    train: Rows
    test: Rows
    kind: str
    names: tuple[str, str]
    unlabelled: int
    shared: int
    missing: list[str]
    settings: dict[str, Any]
    parents: int = 0
    unsplit: int = 0
    unknown: tuple[str, ...] = ()
    targets: Targets | None = field(default=None, repr=False)

    def __repr__(self) -> str:
        return f"<Split {self.kind}: {len(self.train):,} of {self.names[0]!r} to train on, {len(self.test):,} of {self.names[1]!r} held out>"

    def to_dict(self) -> dict[str, Any]:
        """Return settings and counts of the split as JSON; in an unchanged store, the settings give the same split."""
        return {
            "kind": self.kind,
            "train": self.names[0],
            "test": self.names[1],
            "train_rows": len(self.train),
            "test_rows": len(self.test),
            "unlabelled": self.unlabelled,
            **({"left_out": self.targets.left_out} if self.targets is not None else {}),
            "equal_bytes_in_both": self.shared,
            "missing_classes": self.missing,
            **({"parents_in_both": self.parents} if self.parents else {}),
            **({"without_split": self.unsplit, "unknown_classes": list(self.unknown)} if self.unsplit else {}),
            **self.settings,
        }

    def require_held_out_classes(self, store: FeatureStore) -> None:
        """Raise DataError if a class of ``store``, the store that was split, has no held-out picture."""
        if self.missing:
            raise DataError(
                f"{store.path}: the held-out split {self.names[1]!r} has no pictures of {_some(self.missing)}, so nothing "
                "could be said about them; give pictures of them this split, name another one with --test-split, or "
                f"leave these classes out ({_leaving_out(store)})"
            )

    def notes(self) -> list[str]:
        """Return warnings about the split that concern the measured accuracy, such as left-out pictures."""
        notes = []
        if self.targets is not None:
            notes += [f"left out: {text}" for text in self.targets.left_out]
        elif self.unlabelled:
            notes.append(f"left out: {counted(self.unlabelled, 'picture')} without a label")
        if self.unsplit:
            classes = f", so the head does not know {_some(self.unknown)}" if self.unknown else ""
            notes.append(f"left out: {counted(self.unsplit, 'picture')} with a label but without a split{classes}")
        if self.parents:
            notes.append(
                f"{counted(self.parents, 'picture has', 'pictures have')} regions in both splits: the figures are too good; "
                "a split made by featstore (without split names) keeps the regions of a picture together"
            )
        elif self.shared:
            notes.append(
                f"{self.shared:,} of {len(self.test):,} held-out pictures {'has' if self.shared == 1 else 'have'} the same bytes as a training picture: "
                "the figures are too good by as much; a split made by featstore (without split names) keeps them together"
            )
        if len(self.test) < _FEW:
            notes.append(
                f"only {counted(len(self.test), 'picture is', 'pictures are')} held out: the figures are rough"
            )
        if self.missing:
            notes.append(f"the held-out split has no pictures of {_some(self.missing)}: nothing is known about them")
        return notes


def split_store(
    store: FeatureStore,
    *,
    train_split: str | None = None,
    test_split: str | None = None,
    held_out: float = defaults.HELD_OUT,
    seed: int = defaults.SEED,
    apart: bool = False,
    task: Task | None = None,
) -> Split:
    """Choose the rows to train on and the rows to hold out. ``task``: the task of the head, None for one class per
    picture.

    Uses the named splits, if any. If none is named and the store has a split called train and one called test (or val),
    uses these two. Otherwise holds out a stratified part ``held_out``; pictures with equal bytes are put in the same
    part, and so are all regions of a picture, unless ``apart``. Raises UsageError if there are no labels, if there is
    only one class, if a held-out class has no training picture, or if a named split does not exist.
    """
    require_vectors(store)
    targets = None if task is None else task.read(store)
    labelled = _with_label(store) if targets is None else targets.usable
    if train_split is not None and train_split == test_split:
        raise UsageError(f"the pictures of split {train_split!r} cannot be trained on and held out at once")
    names = _names(store, train_split, test_split)
    unlabelled = int((~labelled).sum())
    if names[1] is not None:
        test = _labelled(store, store.split_rows(names[1]), labelled, names[1])
        if names[0] is not None:
            train = _labelled(store, store.split_rows(names[0]), labelled, names[0])
        else:
            train = np.setdiff1d(np.flatnonzero(labelled), test)
        sides = (names[0] or f"all but {names[1]}", names[1])
        missing = _missing(store, train, test, sides) if targets is None else targets.missing(train, test)
        shared = _shared(store, train, test)
        both = _in_both(store, train, test)
        outside = _outside(store, labelled, np.concatenate([train, test]), targets)
        return Split(train, test, "given", sides, unlabelled, shared, missing, {}, both, *outside, targets)
    pool = np.flatnonzero(labelled)
    if names[0] is not None:
        pool = _labelled(store, store.split_rows(names[0]), labelled, names[0])
    if targets is None:
        _require_classes(store.labels[pool], names[0] or "", store)
    from featstore import splits

    groups = groups_of(store, pool, apart=apart)
    try:
        if targets is None:
            labels = store.labels[pool].astype(str)
            train_at, test_at = splits.held_out(labels, groups=groups, fraction=held_out, seed=seed)
        else:
            train_at, test_at = splits.divide(targets.strata(pool), groups=groups, fraction=held_out, seed=seed)
            train_at, test_at = targets.with_two_to_train(pool, groups, test_at)
    except DataError as error:
        raise UsageError(f"{store.path}: {error} ({_leaving_out(store)})") from None
    train, test = pool[train_at], pool[test_at]
    missing = [] if targets is None else targets.missing(train, test)
    sides = (f"{1 - held_out:.0%} of {names[0] or 'all'}", f"{held_out:.0%} of {names[0] or 'all'}, held out")
    settings = {"held_out": held_out, "seed": seed}
    outside = _outside(store, labelled, pool, targets)
    return Split(train, test, "made", sides, unlabelled, 0, missing, settings, 0, *outside, targets)


def _with_label(store: FeatureStore) -> NDArray[np.bool_]:
    """Return whether each row has a label (n,). Raises UsageError if no row has a label."""
    labelled = np.array([label is not None for label in store.labels.tolist()], bool)
    if not labelled.any():
        flat = any(source.get("layout") in ("flat", "none") for source in store._plan.sources().values())
        again = ", or extract again with --layout class, which makes its sub-folders the classes" if flat else ""
        raise UsageError(
            f"{store.path}: none of its {len(store):,} pictures has a label; "
            f"give them labels with: featstore label {store.path} TABLE{again}"
        )
    return labelled


def _missing(store: FeatureStore, train: Rows, test: Rows, sides: tuple[str, str]) -> list[str]:
    """Return the classes without a held-out picture. Raises UsageError if a held-out class has no training picture."""
    labels = store.labels
    _require_classes(labels[train], sides[0], store)
    unknown = sorted(set(labels[test].tolist()) - set(labels[train].tolist()), key=natural)
    if unknown:
        raise UsageError(
            f"{store.path}: the split {sides[1]!r} has pictures of {_some(unknown)}, which the split {sides[0]!r} lacks: "
            f"a head cannot learn them; label some for training, or leave them out ({_leaving_out(store)})"
        )
    return sorted(set(labels[train].tolist()) - set(labels[test].tolist()), key=natural)


def _outside(
    store: FeatureStore, labelled: NDArray[np.bool_], used: Rows, targets: Targets | None
) -> tuple[int, tuple[str, ...]]:
    """Count the labelled pictures that have no split and are not in ``used``.

    Also return the classes (for label sets, the labels) that only these pictures have.
    """
    outside = labelled & np.array([name is None for name in store.splits.tolist()], bool)
    outside[used] = False
    sides = (np.flatnonzero(rows) for rows in (outside, labelled & ~outside))
    here, there = (set(store.labels[rows].tolist() if targets is None else targets.names(rows)) for rows in sides)
    alone = here - there
    return int(outside.sum()), tuple(sorted(map(str, alone), key=natural))


def _leaving_out(store: FeatureStore) -> str:
    """Return the text that tells the user how to leave pictures out of training."""
    return f"pictures with an empty label in TABLE are left out: featstore label {store.path} TABLE"


def groups_of_equal_bytes(sha256: NDArray[np.uint8]) -> Rows:
    """Return a group number (n,) for each SHA-256 (n, 32): equal digests get equal numbers.

    A digest of zeros means unknown bytes; each such row gets a group of its own.
    """
    digests = np.ascontiguousarray(sha256).view("S32").reshape(-1)
    groups = np.unique(digests, return_inverse=True)[1].astype(np.int64)
    unknown = np.flatnonzero(~sha256.any(axis=1))
    groups[unknown] = len(groups) + np.arange(len(unknown))
    return groups


def groups_of(store: FeatureStore, rows: Rows, *, apart: bool = False) -> Rows:
    """Return a group number for each of ``rows``.

    Rows with equal bytes share a group, and so do all regions of one picture. ``apart``: regions of one picture share a
    group only if their boxes are equal.
    """
    if apart or not store.has_regions:
        return equal_content(store, rows)
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    # If a file changed during extraction, the regions of one picture have different bytes: join the groups of these
    # regions.
    equal, parents = groups_of_equal_bytes(store.sha256[rows]), numbered(store.parents[rows])[1]
    n = int(equal.max(initial=-1)) + 1
    edges = coo_array((np.ones(len(rows), bool), (equal, n + parents)), shape=(n + len(rows),) * 2)
    joined: Rows = connected_components(edges, directed=False)[1][equal].astype(np.int64)
    return joined


def equal_content(store: FeatureStore, rows: Rows | None = None) -> Rows:
    """Return a group number for each of ``rows`` (None: all rows).

    Rows share a group if their pictures have equal bytes and, for regions, the boxes are equal.
    """
    wanted = slice(None) if rows is None else rows
    equal = groups_of_equal_bytes(store.sha256[wanted])
    if not store.has_regions:
        return equal
    boxes = store._plan.regions(store.ids[wanted])[:, :4]
    return np.unique(np.column_stack([equal, boxes]), axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)


def _in_both(store: FeatureStore, train: Rows, test: Rows) -> int:
    """Return the number of pictures that have regions in both ``train`` and ``test``."""
    if not store.has_regions:
        return 0
    parents = store.parents
    return len(set(parents[train].tolist()) & set(parents[test].tolist()))


def _names(store: FeatureStore, train: str | None, test: str | None) -> tuple[str | None, str | None]:
    """Return the names of the training and evaluation splits to use; (None, None) if the store has no such splits."""
    there = sorted({str(value) for value in store.splits.tolist() if value is not None}, key=natural)
    words = split_words(there)
    if train is None:
        exact = (name for known in TRAIN_NAMES for name in there if name.lower() == known)
        train = next(chain(exact, (name for name in there if words[name] == "train")), None)
        if train == test:
            train = None
        if train is None and test is None:
            return None, None
    if test is None:
        exact = (name for known in TEST_NAMES for name in there if name.lower() == known)
        other = (name for word in ("test", "val") for name in there if words[name] == word)
        test = next((name for name in chain(exact, other) if name != train), None)
    return train, test


def _labelled(store: FeatureStore, rows: Rows, labelled: NDArray[np.bool_], name: str) -> Rows:
    kept = rows[labelled[rows]]
    if not len(kept):
        raise UsageError(f"{store.path}: none of the {len(rows):,} pictures of split {name!r} has a label")
    return kept


def _require_classes(labels: NDArray[np.object_], name: str, store: FeatureStore) -> None:
    classes = sorted(set(labels.tolist()), key=natural)
    where = f"{store.path}: the split {name!r}" if name else f"{store.path}"
    if len(classes) < 2:
        raise UsageError(f"{where} has pictures of one class only ({_some(classes)}): a head needs at least two")
    if len(classes) > defaults.HEAD_CLASSES:
        raise UsageError(
            f"{where} has {len(classes):,} classes, where at most {defaults.HEAD_CLASSES:,} can be trained; "
            "is the label column an identifier?"
        )


def _shared(store: FeatureStore, train: Rows, test: Rows) -> int:
    """Return the number of pictures in ``test`` that have the same bytes as a picture in ``train``."""
    groups = groups_of_equal_bytes(store.sha256[np.r_[train, test]])
    return int(np.isin(groups[len(train) :], groups[: len(train)]).sum())


def _some(names: Sequence[Any]) -> str:
    shown = ", ".join(str(name) for name in list(names)[:5])
    return shown + (f" and {len(names) - 5:,} more" if len(names) > 5 else "")
