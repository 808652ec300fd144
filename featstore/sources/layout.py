"""Labels and splits from the folders of a path."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from featstore.text import composed, to_text

LAYOUTS: Final = ("split/class", "class", "split", "flat", "none")
_SPLIT_WORDS: Final = {
    **dict.fromkeys(("train", "training", "trn"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev", "eval", "evaluation", "holdout"), "val"),
    **dict.fromkeys(("test", "testing", "tst"), "test"),
}
_NO_MATTER: Final = frozenset(
    ("set sets split data dataset images image imgs img pics pictures photos files folder subset part").split()  # noqa: SIM905
)
"""Words without meaning in the name of a split, such as "set" in training_set."""


def split_word(name: str, common: frozenset[str] = frozenset()) -> str | None:
    """Return "train", "val" or "test" if ``name`` is the name of a split, otherwise None.

    Words such as set, data and images (training_set, "Test images"), digits at the end of a word (train2017), and the
    words in ``common`` are ignored.
    """
    words = [word.rstrip("0123456789") or word for word in _words(name) if word not in common]
    words = [shortened for word in words if (shortened := _without_set(word)) not in _NO_MATTER]
    return _SPLIT_WORDS.get(words[0]) if len(words) == 1 else None


def split_words(names: Sequence[str]) -> dict[str, str | None]:
    """Return the result of split_word for each of ``names``. Words that occur in all names are ignored (seg in
    seg_train, seg_test).
    """
    every = [frozenset(_words(name)) for name in names]
    common: frozenset[str] = frozenset.intersection(*every) if len(every) > 1 else frozenset()
    return {name: split_word(name, common) for name in names}


def _words(name: str) -> list[str]:
    return re.findall("[^-_. ]+", name.lower())


def _without_set(word: str) -> str:
    """Return a word like "trainset" or "traindataset" without the ending ("train"); return other words unchanged."""
    short = word.removesuffix("set").removesuffix("data")
    return short if short in _SPLIT_WORDS else word


@dataclass(frozen=True)
class Layout:
    """Rule for taking labels and splits from the folders in a path.

    ``name``: one of LAYOUTS. ``split``, ``label``: number of the folder in the path that is the split or label, from 0;
    None if there is no such folder. A path with fewer folders has no split or label.
    """

    name: str
    split: int | None = None
    label: int | None = None

    @classmethod
    def of(cls, name: str) -> Layout:
        """Return the layout called ``name``. Its first folder (split or label) is the first folder of a path."""
        places = {"split/class": (0, 1), "class": (None, 0), "split": (0, None)}
        return cls(name, *places.get(name, (None, None)))

    def of_path(self, path: bytes) -> tuple[str | None, str | None]:
        """Return label and split of a relative ``path``."""
        parts = path.split(b"/")[:-1]
        label, split = (
            _text(parts[at]) if at is not None and at < len(parts) else None for at in (self.label, self.split)
        )
        return label, split

    def below(self, folders: int) -> Layout:
        """Return this layout for paths that begin with ``folders`` additional folders."""
        return replace(
            self,
            split=None if self.split is None else self.split + folders,
            label=None if self.label is None else self.label + folders,
        )


def split_names(folders: Sequence[bytes]) -> Sequence[bytes] | None:
    """Return ``folders`` if it is not empty and all are named like splits, otherwise None."""
    return folders if folders and all(split_words([to_text(name) for name in folders]).values()) else None


def may_be_splits(folders: Iterable[bytes]) -> bool:
    """Return whether one of the names of ``folders`` contains a word for a split, such as "train"."""
    words = (word for name in folders for word in _words(to_text(name)))
    return any(_without_set(word.rstrip("0123456789")) in _SPLIT_WORDS for word in words)


def ordinal(place: int | None) -> str:
    """Return "first" for 0, "second" for 1, and so on; "" for None."""
    return "" if place is None else ("first", "second", "third")[place] if place < 3 else f"{place + 1}th"


@functools.lru_cache(1024)
def _text(name: bytes) -> str:
    # Cached, because few different class names occur in the paths of many pictures.
    return composed(to_text(name))
