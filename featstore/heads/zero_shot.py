"""Zero-shot classification: texts describe the classes, and vectors of pictures are compared with vectors of texts.

Source: A. Radford et al., Learning Transferable Visual Models From Natural Language Supervision, 2021, arXiv
2103.00020, section 3.1. The vector of a class is the mean of the vectors of its texts, scaled to length 1;
probabilities are a softmax of scaled cosines.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from featstore.blocks import RowBlocks
from featstore.errors import UsageError
from featstore.text import counted

TEMPLATES: Final = (
    "itap of a {}.",
    "a bad photo of the {}.",
    "a origami {}.",
    "a photo of the large {}.",
    "a {} in a video game.",
    "art of the {}.",
    "a photo of the small {}.",
)
"""Default templates, into which a class name is put: the seven that CLIP's authors selected from 80 (in their notebook
Prompt_Engineering_for_ImageNet)."""

LARGEST_FILE: Final = 16 << 20
"""Largest size of a prompts file (texts that describe classes) in bytes."""


def texts_of(lines: Iterable[str], templates: Iterable[str] = TEMPLATES) -> dict[str, list[str]]:
    """Return the texts of each class, from the ``lines`` of a prompts file.

    A line is either a class name, which is put into each of ``templates``; or a class name, a tab and a text, which is
    used unchanged. The texts of lines with the same class name are combined; empty lines are ignored. Raises UsageError
    for a template without {}, or for fewer than two classes.
    """
    shapes = list(templates)
    wrong = next((shape for shape in shapes if "{}" not in shape), None)
    if wrong is not None or not shapes:
        raise UsageError(f"template: {wrong!r} has no {{}} for the name of the class")
    found: dict[str, list[str]] = {}
    for line in lines:
        name, tab, text = line.rstrip("\r\n").partition("\t")
        name, text = name.strip(), text.strip()
        if name:
            found.setdefault(name, []).extend(
                [text] if tab and text else [shape.replace("{}", name) for shape in shapes]
            )
    if len(found) < 2:
        raise UsageError(
            f"prompts: name {counted(len(found), 'class', 'classes')}, where two or more are needed, one a line"
        )
    return found


def read_prompts(path: str | os.PathLike[str]) -> list[str]:
    """Return the lines of the prompts file ``path`` (UTF-8). Raises UsageError if it cannot be read."""
    try:
        with open(path, "rb") as stream:
            data = stream.read(LARGEST_FILE + 1)
        if len(data) > LARGEST_FILE:
            raise UsageError(f"{os.fspath(path)}: has more than {LARGEST_FILE:,} bytes; name fewer classes")
        return data.decode("utf-8-sig").splitlines()
    except OSError as error:
        raise UsageError(
            f"{os.fspath(path)}: cannot be read ({error.strerror}); name a file with a class a line"
        ) from None
    except UnicodeDecodeError:
        raise UsageError(f"{os.fspath(path)}: is not text in UTF-8; save it as UTF-8") from None


@dataclass(frozen=True, eq=False)
class ZeroShotHead:
    """Classifies vectors of pictures by their cosine to the vector of each class.

    ``vectors``: (classes, d), one vector of length 1 for each class; ``scale``: factor of the cosines before the
    softmax.
    """

    task: ClassVar[str] = "classes"
    classes: list[str]
    vectors: NDArray[np.float32]
    scale: float

    @classmethod
    def of(cls, texts: dict[str, list[str]], made: NDArray[np.float32], scale: float) -> ZeroShotHead:
        """Return the classifier for ``texts``, the texts of each class.

        ``made``: (n, d) the vectors of all texts, scaled to length 1, in the order of ``texts``.
        """
        ends = np.cumsum([len(one) for one in texts.values()])
        means = np.stack([part.mean(axis=0) for part in np.split(made, ends[:-1])])
        return cls(list(texts), _unit(means), scale)

    def choose(self, probabilities: NDArray[np.float64]) -> NDArray[np.intp]:
        """Return the class number (...) of the largest of the probabilities (..., classes)."""
        return np.asarray(probabilities.argmax(axis=-1), np.intp)

    def predict_blocks(self, vectors: Any, rows: int = 4096) -> Iterator[tuple[NDArray[np.intp], NDArray[np.float64]]]:
        """Yield (predicted class numbers (m,), probabilities (m, classes)) for each block of ``vectors`` (n, d)."""
        if isinstance(vectors, RowBlocks):
            blocks = vectors.blocks()
        else:
            blocks = (vectors[at : at + rows] for at in range(0, len(vectors), rows))
        for block in blocks:
            logits = self.scale * (_unit(np.asarray(block, np.float32)) @ self.vectors.T).astype(np.float64)
            powers = np.exp(logits - logits.max(axis=1, keepdims=True))
            probabilities = powers / powers.sum(axis=1, keepdims=True)
            yield probabilities.argmax(axis=1), probabilities


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: NDArray[np.float32] = vectors / np.maximum(lengths, np.finfo(np.float32).tiny)
    return unit
