"""Checkpoints of a training run: one safetensors file, replaced atomically after each epoch.

The file has the tensors that are trained (``network/NAME``; parameters and BatchNorm statistics) and the state of the
optimiser (``optimiser/SLOT/NAME``). Its metadata has one JSON text: format, epoch, history, settings, and digests of the
classes, the data, the frozen part of the network, and all tensors.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import xxhash
from numpy.typing import NDArray

from featstore.errors import DamagedError, FeatstoreError, UsageError
from featstore.files import atomic
from featstore.finetuning.history import EpochRecord

CHECKPOINT: Final = "checkpoint.safetensors"
FORMAT: Final = 1
MACHINE: Final = ("torch", "threads", "device")
_KEY: Final = "featstore"
Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Origin:
    """The origin of a checkpoint. A run with another origin cannot continue from the checkpoint.

    ``plan``: the settings as JSON; ``classes``, ``data``: digests.
    """

    plan: dict[str, Any]
    classes: str
    data: str

    def digest(self) -> str:
        """Return the XXH3-128, in hexadecimal, of the settings, classes and data."""
        return xxhash.xxh3_128_hexdigest(atomic.canonical_json(asdict(self)).encode())


@dataclass(frozen=True)
class Saved:
    """The description of a checkpoint: its origin, the digest of the frozen part of the network, and the history.

    ``machine``: version of torch, number of threads and device, because the last bits of the weights depend on them.
    """

    origin: Origin
    network: str
    history: tuple[EpochRecord, ...]
    machine: dict[str, str]


def digest(arrays: Arrays) -> str:
    """Return the XXH3-128, in hexadecimal, of the names, types, shapes and values of ``arrays``, sorted by name."""
    total = xxhash.xxh3_128()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        total.update(f"{name} {array.dtype.str} {arrays[name].shape}\n".encode())
        total.update(array.reshape(-1).view(np.uint8).data)
    return total.hexdigest()


def digest_of_classes(classes: Sequence[str]) -> str:
    """Return the XXH3-128, in hexadecimal, of the class names in their order."""
    return xxhash.xxh3_128_hexdigest(atomic.canonical_json(list(classes)).encode())


def save(path: Path, saved: Saved, arrays: Arrays) -> None:
    """Write a checkpoint to ``path``, atomically. Raises FeatstoreError if it cannot be written (full disk); an earlier
    checkpoint is then kept.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    value = {
        "format": FORMAT,
        "plan": saved.origin.plan,
        "classes": saved.origin.classes,
        "data": saved.origin.data,
        "network": saved.network,
        "machine": saved.machine,
        "tensors": digest(arrays),
        "history": [record.to_dict() for record in saved.history],
    }
    text = atomic.canonical_json(value)
    seal = xxhash.xxh3_128_hexdigest(text.encode())
    try:
        with atomic.new_file(path) as temporary:
            save_file(
                {name: np.asarray(array, order="C") for name, array in arrays.items()}, temporary, {_KEY: seal + text}
            )
    except (OSError, SafetensorError) as error:
        remedy = "go on with --resume" if path.exists() else "run the same command again"
        raise FeatstoreError(
            f"{path}: the checkpoint cannot be written ({_first_line(error)}); free some space and {remedy}"
        ) from None


class Checkpoint:
    """An open checkpoint file, whose description has been checked; ``read`` checks and returns the tensors."""

    def __init__(self, path: Path, file: Any, saved: Saved, seal: str) -> None:
        self.path, self.saved = path, saved
        self._file, self._seal = file, seal

    def require(self, origin: Origin, network: str) -> None:
        """Raise UsageError that names the difference if the checkpoint belongs to other settings, classes, data or
        weights.
        """
        mine = self.saved.origin
        changed = [
            f"{name} {_short(mine.plan.get(name))} instead of {_short(value)}"
            for name, value in origin.plan.items()
            if mine.plan.get(name) != value
        ]
        changed += [] if mine.plan.keys() <= origin.plan.keys() else ["unknown settings"]
        changed += ["other classes"] if mine.classes != origin.classes else []
        changed += ["other data (pictures, labels, split or views)"] if mine.data != origin.data else []
        changed += ["another network or other weights of its frozen part"] if self.saved.network != network else []
        if changed:
            more = f" and {len(changed) - 3:,} more" if len(changed) > 3 else ""
            raise UsageError(
                f"{self.path}: is of a run with {'; '.join(changed[:3])}{more}; give the same as before, or remove the file to start "
                "again"
            )

    def notice_of_machine(self, machine: Mapping[str, str]) -> str:
        """Return a notice for the user if the checkpoint was made with another ``machine`` (see Saved), "" otherwise."""
        mine = self.saved.machine
        changed = [
            f"{name} {_short(mine[name])} instead of {machine[name]}" for name in machine if mine[name] != machine[name]
        ]
        if not changed:
            return ""
        return (
            f"{self.path}: was made with {', '.join(changed)}; the run goes on, but its weights may differ in the last bits "
            "from those of an unbroken run"
        )

    def read(self, expected: Mapping[str, tuple[str, tuple[int, ...]]], optional: frozenset[str]) -> dict[str, Any]:
        """Return the tensors by name as arrays. Raises DamagedError if they differ from ``expected``.

        ``expected``: dtype (NumPy's name) and shape of each tensor. Names and shapes are compared before any tensor is
        read. Tensors in ``optional`` may be missing.
        """
        names = set(self._file.keys())
        if not (expected.keys() - optional <= names <= expected.keys()):
            wrong = sorted(names ^ expected.keys())[0]
            raise _damaged(self.path, f"its tensors are not those of this network ({_short(wrong)})")
        arrays = {}
        for name in sorted(names):
            dtype, shape = expected[name]
            described = self._file.get_slice(name)
            if tuple(described.get_shape()) != shape or described.get_dtype() != _DTYPES.get(dtype):
                raise _damaged(self.path, f"the tensor {_short(name)} has another shape or type than in this network")
            arrays[name] = self._file.get_tensor(name)
            if arrays[name].dtype.kind == "f" and not np.isfinite(arrays[name]).all():
                raise _damaged(self.path, f"the tensor {_short(name)} has values that are not finite")
        if digest(arrays) != self._seal:
            raise _damaged(self.path, "its tensors do not match their checksum")
        return arrays


_DTYPES: Final = {
    "float32": "F32",
    "float64": "F64",
    "float16": "F16",
    "int64": "I64",
    "int32": "I32",
    "uint8": "U8",
    "bool": "BOOL",
}


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Checkpoint]:
    """Open a checkpoint and check its description; no tensor is read yet.

    Raises DamagedError if the file is not a checkpoint, or damaged.
    """
    from safetensors import SafetensorError, safe_open

    # If the path were a pipe, safe_open would wait forever for a writer.
    atomic.open_regular(path, follow=False).close()
    try:
        with safe_open(path, "numpy") as file:
            text = (file.metadata() or {}).get(_KEY, "")
            yield Checkpoint(path, file, *_parsed(path, text))
    except SafetensorError as error:
        raise _damaged(path, _first_line(error)) from None


def _parsed(path: Path, text: str) -> tuple[Saved, str]:
    seal, text = text[:32], text[32:]
    if len(text) > atomic.LARGEST_JSON or xxhash.xxh3_128_hexdigest(text.encode("utf-8", "replace")) != seal:
        raise _damaged(path, "its description does not match its checksum")
    try:
        value = json.loads(text)
        if value["format"] != FORMAT:
            raise ValueError(f"format {_short(value['format'])}, where this featstore reads {FORMAT}")
        history = tuple(EpochRecord.from_dict(record) for record in value["history"])
        texts = [value[name] for name in ("classes", "data", "network", "tensors")]
        machine = {name: value["machine"][name] for name in MACHINE}
        texts += machine.values()
        if not isinstance(value["plan"], dict) or not all(isinstance(each, str) for each in texts):
            raise ValueError("its description has values of the wrong type")
        if not history or [record.epoch for record in history] != list(range(len(history))):
            raise ValueError("its epochs are not numbered from 0")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _damaged(path, _first_line(error)) from None
    return Saved(Origin(value["plan"], texts[0], texts[1]), texts[2], history, machine), texts[3]


def _damaged(path: Path, why: str) -> DamagedError:
    return DamagedError(f"{path}: no checkpoint of featstore, or damaged: {why}; remove the file to start again")


def _short(value: object) -> str:
    from featstore.text import printable

    text = printable(str(value))
    return text if len(text) <= 60 else text[:57] + "..."


def _first_line(error: BaseException) -> str:
    return _short(str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__)
