"""A model folder, which ``featstore finetune`` writes: its files, and its description ``model.json``.

A model is a fine-tuned network with its head. Its folder holds ``model.json`` (architecture, cut, preprocessing,
classes, how the network was trained, size and SHA-256 of the other files), ``weights.safetensors`` (tensors of the
network without its classifier), ``model.head`` (the head, see featstore.heads.headfile), and ``metrics.csv`` (one line
an epoch, optional). Nothing in the folder is code, and nothing outside the folder is opened: links are refused.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Final

from featstore.errors import DamagedError, UsageError
from featstore.files import atomic

DESCRIPTION: Final = "model.json"
WEIGHTS: Final = "weights.safetensors"
HEAD: Final = "model.head"
METRICS: Final = "metrics.csv"
FORMAT: Final = 1
_LARGEST_DESCRIPTION: Final = 64 << 20
"""Maximum size of ``model.json`` in bytes; a larger description is neither written nor read."""
_LARGEST_METRICS: Final = 64 << 20
"""Maximum size of ``metrics.csv`` in bytes."""
_LARGEST_CLASSES: Final = 1_000_000
_FILES: Final = (DESCRIPTION, WEIGHTS, HEAD, METRICS)
_TEMPORARY: Final = re.compile(r"\.(" + "|".join(map(re.escape, _FILES)) + r")\.[0-9a-f]{12}\.tmp")
"""Pattern of the temporary names of the files of a model."""
_NAMED: Final = 60
"""Number of bytes of a model's name that are used in the name of its temporary folder."""
_DIGEST: Final = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class FileRecord:
    """Size in bytes and SHA-256 (hexadecimal) of a file in a model folder."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class Description:
    """The content of ``model.json``.

    ``architecture``: name of the backbone; ``layer``, ``pool``, ``shape``, ``dimension``, ``preprocessing`` (JSON) and
    ``digest`` (of the weights' values): as in Identity. ``transform_input``: the option of this name of torchvision's
    Inception and GoogLeNet, None for other networks. ``classes``: in the order of the probabilities; ``head``: kind of
    the head; ``record``: how the model was trained (JSON). ``files``: the other files by name.
    """

    architecture: str
    layer: str
    pool: str
    shape: tuple[int, ...]
    dimension: int
    preprocessing: dict[str, Any]
    transform_input: bool | None
    digest: str
    classes: list[str]
    head: str
    record: dict[str, Any]
    files: dict[str, FileRecord] = field(default_factory=dict)


def is_model(path: str | os.PathLike[str]) -> bool:
    """Return whether ``path`` is a model folder, judged by the names of the files in it."""
    name = os.fspath(path)
    return os.path.isdir(name) and all(os.path.lexists(os.path.join(name, part)) for part in (DESCRIPTION, WEIGHTS))


def record_of(file: Path) -> FileRecord:
    """Return size and SHA-256 of a regular file. Raises DamagedError for a link or another kind of file, OSError if
    reading fails.
    """
    with atomic.open_regular(file, follow=False) as stream:
        return FileRecord(os.fstat(stream.fileno()).st_size, hashlib.file_digest(stream, "sha256").hexdigest())


def write_description(folder: Path, description: Description) -> None:
    """Write ``model.json`` into ``folder``; sizes and SHA-256 are those of the files that are in the folder now.

    Raises UsageError if the description is larger than read_description accepts.
    """
    names = [name for name in (WEIGHTS, HEAD, METRICS) if os.path.lexists(folder / name)]
    value = asdict(description) | {"files": {name: asdict(record_of(folder / name)) for name in names}}
    atomic.write_json(folder / DESCRIPTION, {"format": FORMAT, **value})
    size = (folder / DESCRIPTION).stat().st_size
    if size > _LARGEST_DESCRIPTION:
        raise UsageError(
            f"{DESCRIPTION} of a model may have {_LARGEST_DESCRIPTION:,} bytes, and would have {size:,}: use shorter class "
            "names, or a shorter record of the training"
        )


def read_description(folder: Path) -> Description:
    """Read ``model.json`` of a model folder; check types and sizes of its values.

    Raises UsageError if ``folder`` is no model folder; DamagedError if the description is damaged or of a newer format;
    OSError if it cannot be read.
    """
    if not is_model(folder):
        raise UsageError(
            f"{folder}: is no model folder ({DESCRIPTION} and {WEIGHTS} are needed); featstore finetune makes one"
        )
    path = folder / DESCRIPTION
    value = atomic.parse_json(path, atomic.read_small(path, _LARGEST_DESCRIPTION, follow=False))
    if value.pop("format", None) != FORMAT:
        raise DamagedError(f"{path}: has another format than {FORMAT}, the one that this featstore reads")
    kinds = {"shape": list, "dimension": int, "preprocessing": dict, "classes": list, "record": dict, "files": dict}
    kinds |= dict.fromkeys(("architecture", "layer", "pool", "digest", "head"), str)
    if set(value) != {each.name for each in fields(Description)} or any(
        type(value[name]) is not kind for name, kind in kinds.items()
    ):
        raise DamagedError(f"{path}: its fields are not those of a model")
    classes, shape = value["classes"], value["shape"]
    sound = (
        2 <= len(classes) <= _LARGEST_CLASSES
        and all(type(name) is str for name in classes)
        and len(set(classes)) == len(classes)
        and len(shape) <= 3
        and all(type(number) is int and number > 0 for number in shape)
        and (value["transform_input"] is None or type(value["transform_input"]) is bool)
        and _DIGEST.fullmatch(value["digest"]) is not None
    )
    if not sound:
        raise DamagedError(f"{path}: its classes, shape or digest are damaged")
    return Description(**{**value, "shape": tuple(shape), "files": _files(value["files"], path)})


def _files(value: Mapping[str, Any], path: Path) -> dict[str, FileRecord]:
    found = {}
    for name, each in value.items():
        if (
            name not in (WEIGHTS, HEAD, METRICS)
            or not isinstance(each, dict)
            or set(each) != {"bytes", "sha256"}
            or type(each["bytes"]) is not int
            or type(each["sha256"]) is not str
        ):
            raise DamagedError(f"{path}: its list of files is damaged")
        found[name] = FileRecord(**each)
    if not {WEIGHTS, HEAD} <= set(found):
        raise DamagedError(f"{path}: its list of files lacks {WEIGHTS} or {HEAD}")
    return found


def check_file(folder: Path, name: str, description: Description, largest: int | None = None) -> Path:
    """Return the path of the file ``name`` in a model folder after checking its size and SHA-256.

    Raises DamagedError if the file is missing, a link, not a regular file, changed, or larger than ``largest`` bytes.
    """
    path, recorded = folder / name, description.files[name]
    largest = _LARGEST_METRICS if name == METRICS else largest
    try:
        with atomic.open_regular(path, follow=False) as stream:
            size = os.fstat(stream.fileno()).st_size
            if largest is not None and size > largest:
                raise DamagedError(f"{path}: has {size:,} bytes, where {largest:,} are the most here")
            if size != recorded.bytes:
                raise DamagedError(
                    f"{path}: has {size:,} bytes where {recorded.bytes:,} were written; copy the model again"
                )
    except FileNotFoundError:
        raise DamagedError(f"{path}: is missing; copy the whole model folder again") from None
    except IsADirectoryError:
        raise DamagedError(f"{path}: is a folder, where a file is needed") from None
    if record_of(path) != recorded:
        raise DamagedError(f"{path}: does not match the SHA-256 in {DESCRIPTION}; copy the model again")
    return path


def require_replaceable(path: Path, force: bool) -> None:
    """Raise UsageError if no model folder can be written to ``path``; for a check before a long computation.

    An existing model is replaced only with ``force``; anything else at ``path``, other than an empty folder, never.
    """
    atomic.require_place(path)
    if not os.path.lexists(path):
        return
    if os.path.islink(path) or not os.path.isdir(path):
        raise UsageError(f"{path}: exists and is no model folder; name another place")
    if is_model(path):
        if not force:
            raise UsageError(f"{path}: is a model already; name another place, or replace it with --force")
        odd = sorted(set(os.listdir(path)) - set(_FILES))
        if odd:
            raise UsageError(
                f"{path}: holds {odd[0]!r}, which is no part of a model; move it away, or name another place"
            )
    elif os.listdir(path):
        raise UsageError(f"{path}: is a folder with other files; name another place, where a new folder can be made")


@contextlib.contextmanager
def new_folder(path: Path, *, force: bool = False) -> Iterator[Path]:
    """Yield a new folder beside ``path``; on a clean exit sync its files and rename the folder to ``path``.

    With ``force`` the model at ``path`` is replaced; on Linux the two folders swap names in one step, so that a
    complete model is at ``path`` at every moment. On an error the new folder is removed and ``path`` is as before.
    Folders that killed writers left behind are removed, so the caller must hold the lock for writing ``path``.
    Raises the errors of ``require_replaceable``; OSError if writing fails.
    """
    path = Path(os.path.abspath(path))
    require_replaceable(path, force)
    _remove_leftovers(path)
    name = os.fsdecode(os.fsencode(path.name)[:_NAMED])
    temporary = path.with_name(f".{name}.{secrets.token_hex(6)}{atomic.TEMPORARY_SUFFIX}")
    temporary.mkdir()
    try:
        yield temporary
        for name in os.listdir(temporary):
            atomic.sync(temporary / name)
        atomic.sync(temporary)
        require_replaceable(path, force)
        if not is_model(path):
            os.rename(temporary, path)
        elif not _swapped(temporary, path):
            _replace(path, temporary)
        atomic.sync(path.parent)
    finally:
        # After a swap, the old model has the temporary name.
        shutil.rmtree(temporary, ignore_errors=True)


def _remove_leftovers(path: Path) -> None:
    """Remove the temporary folders that killed writers of the model ``path`` left behind.

    Folders with other files, and links, are kept. Nothing is removed if the name of ``path`` is too long: then the
    temporary folders of another model may have the same names.
    """
    if len(os.fsencode(path.name)) > _NAMED:
        return
    ours = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{12}}{re.escape(atomic.TEMPORARY_SUFFIX)}(\.before)?")
    for entry in list(os.scandir(path.parent)):
        found = ours.fullmatch(entry.name)
        # If ``path`` is missing, a folder *.before is the only copy of the earlier model, see _replace.
        if not found or not entry.is_dir(follow_symlinks=False) or (found[1] and not is_model(path)):
            continue
        if all(name in _FILES or _TEMPORARY.fullmatch(name) for name in os.listdir(entry.path)):
            shutil.rmtree(entry.path, ignore_errors=True)


def _replace(path: Path, new: Path) -> None:
    """Give the folder ``path`` another name, give its name to the folder ``new``, and remove the old folder."""
    before = new.with_name(f"{new.name}.before")
    os.rename(path, before)
    try:
        os.rename(new, path)
    except OSError:
        os.rename(before, path)
        raise
    shutil.rmtree(before, ignore_errors=True)


def _swapped(one: Path, other: Path) -> bool:
    """Swap the names of two folders in one step, by renameat2(2); return False if the system cannot."""
    try:
        rename: Any = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    here, exchange = -100, 2  # the values of AT_FDCWD and RENAME_EXCHANGE in Linux
    return bool(rename(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0)
