"""Count the labels and splits of a source while its chunks are read, and describe them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from typing import Final

from featstore.sources.base import Chunk
from featstore.text import counted, is_utf8, lookalike_key, natural, shown

_MISSING_WORDS: Final = frozenset({"nan", "na", "n/a", "none", "null", "<na>", "nat", "missing", "unknown", "?", ""})
"""Labels that often mean "no label", in the form that lookalike_key() returns."""
_NAMED: Final = 3
_MANY_SPLITS: Final = 10
_FEW_ROWS: Final = 20
_TOOL_FOLDERS: Final = frozenset(
    {"@eadir", " macosx", "macosx", "$recycle.bin", "system volume information", "lost+found"}
)
"""Names of folders that operating systems create in folders of the user, in the form that lookalike_key() returns."""


class Tally:
    """Count the rows, labels and splits of a source."""

    def __init__(self) -> None:
        self.rows = 0
        self._counts: dict[str, Counter[str | None]] = {"label": Counter(), "split": Counter()}

    def watch(self, chunks: Iterable[Chunk]) -> Iterator[Chunk]:
        """Yield ``chunks``, and count their rows, labels and splits."""
        for chunk in chunks:
            self.add(chunk.labels, chunk.splits, len(chunk))
            yield chunk

    def add(self, labels: Iterable[str | None], splits: Iterable[str | None], rows: int) -> None:
        """Add the labels and splits of ``rows`` rows to the counts."""
        self.rows += rows
        self._counts["label"].update(labels)
        self._counts["split"].update(splits)

    @property
    def classes(self) -> list[str]:
        """The labels that were found, in natural order."""
        return sorted((name for name in self._counts["label"] if name is not None), key=natural)

    @property
    def splits(self) -> list[str]:
        """The splits that were found, in natural order."""
        return sorted((name for name in self._counts["split"] if name is not None), key=natural)

    def line(self, label_from: str, split_from: str, rest: str) -> str:
        """Return a summary such as "2 classes from X, 2 splits (train, val) from Y, Z".

        X is ``label_from``, Y is ``split_from`` and Z is ``rest``.
        """
        bare = self._counts["label"][None]
        without = f" ({bare:,} of {self.rows:,} without a label)" if self.classes and bare else ""
        classes = f"{counted(len(self.classes), 'class', 'classes')} from {label_from}{without}"
        splits = f"{counted(len(self.splits), 'split')} ({_some(self.splits, 5)}) from {split_from}"
        parts = [classes if self.classes else "no classes", splits if self.splits else "no splits", rest]
        return ", ".join(part for part in parts if part)

    def notes(self, option: str, *, whole: bool = True) -> list[str]:
        """Return warnings about labels and splits that may be mistakes.

        ``option``: the command-line option that changes how labels are read. ``whole``: whether the rows are a whole
        data set; if so, a single class gets a warning too.
        """
        notes = []
        for what, plural in (("label", "classes"), ("split", "splits")):
            counts = self._counts[what]
            for names in _alike(name for name in counts if name is not None):
                told = " and ".join(f"{_quoted(name)} ({counts[name]:,})" for name in names[:_NAMED])
                notes.append(f"the {plural} {told} look alike and are kept apart: write them alike if they are one")
        labels, classes = self._counts["label"], self.classes
        for name in classes:
            if lookalike_key(name) in _MISSING_WORDS:
                notes.append(
                    f"{_quoted(name)} is read as a class ({counted(labels[name], 'picture')}): leave the label empty "
                    "where there is none"
                )
            if not is_utf8(name):
                notes.append(
                    f"the class {_quoted(name)} is no UTF-8 text: save the table, or name the folder, in UTF-8"
                )
            if lookalike_key(name) in _TOOL_FOLDERS:
                notes.append(f"the class {_quoted(name)} is a folder that a system made: move it away")
        labelled = self.rows - labels[None]
        if labelled >= _FEW_ROWS and len(classes) > labelled / 2:
            notes.append(
                f"{len(classes):,} classes for {labelled:,} labelled pictures: is this an identifier, or a measure? "
                f"{option} changes it"
            )
        if whole and len(classes) == 1:
            notes.append(f"there is one class only, {_quoted(classes[0])}: {option} changes what is taken for classes")
        if len(self.splits) > _MANY_SPLITS:
            notes.append(
                f"{len(self.splits):,} splits: is this another property? {option.replace('label', 'split')} changes it"
            )
        return notes


def _alike(names: Iterable[str]) -> list[list[str]]:
    groups = defaultdict(list)
    for name in names:
        groups[lookalike_key(name)].append(name)
    return [sorted(group, key=natural) for group in groups.values() if len(group) > 1]


def _quoted(name: str) -> str:
    """Return ``name`` in quotes; escape non-ASCII characters if their Unicode form matters."""
    text = shown(name)
    return ascii(text) if lookalike_key(text) != text.casefold() and not text.isascii() else repr(text)


def _some(names: list[str], count: int) -> str:
    text = ", ".join(shown(name) for name in names[:count])
    return f"{text}, ..." if len(names) > count else text
