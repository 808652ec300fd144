"""Samples of a WebDataset archive: find the members with the labels and texts of a picture."""

from __future__ import annotations

import codecs
import io
import json
import os
from typing import Any, Final, NamedTuple

from featstore.errors import UsageError
from featstore.sources.base import NoLabel, label_text
from featstore.sources.table import LABEL_NAMES, SPLIT_NAMES, no_label_message
from featstore.text import composed, shown, to_bytes, to_text

SIDECARS: Final = (b"cls", b"json", b"txt")
SIDECAR_LIMIT: Final = 16 << 20
_LABEL_NAMES: Final = LABEL_NAMES[:-1]
"""Usual names of the label in a .json file: LABEL_NAMES without y, which is usually a coordinate in .json files."""


class Member(NamedTuple):
    """A member of an archive.

    ``size``: -1 unless the member is a regular file with a relative name without "..". ``offset``: start of its data.
    """

    name: bytes
    size: int
    mtime: int
    offset: int


Sidecars = dict[tuple[bytes, bytes], Member]
"""Dict of the members with labels and texts. Keys: (name without last extension, last extension in lower case)."""


def duplicate_member_message(path: bytes, member: Member) -> str:
    """Return the error message for a sample that has two label or text members with the same extension."""
    extension = shown(ending_of(member.name)[1])
    return f"{shown(path)}: {shown(member.name)} is the second .{extension} of its sample; make the archive anew"


def ending_of(name: bytes) -> tuple[bytes, bytes]:
    """Return a member's name without the last extension, and the last extension in lower case."""
    stem, _, extension = name.rpartition(b".")
    return (_composed(stem), extension.lower()) if stem and b"/" not in extension else (_composed(name), b"")


def closest(name: bytes, extension: bytes, sidecars: Sidecars) -> Member | None:
    """Return the member with ``extension`` in ``sidecars`` whose name has most in common with the picture ``name``.

    For a.b.jpg, a.b.cls comes before a.cls. Returns None if there is no such member.
    """
    if not sidecars:
        return None
    stem, _ = ending_of(name)
    sample, _ = sample_of(name)
    while len(stem) >= len(sample):
        if (stem, extension) in sidecars:
            return sidecars[stem, extension]
        if stem == sample:
            break
        stem = stem.rpartition(b".")[0]
    return None


def sample_of(name: bytes) -> tuple[bytes, bytes]:
    """Split a member's name at the first dot of its file name: sample, and extension in lower case (as WebDataset)."""
    directory, slash, file = name.rpartition(b"/")
    stem, _, extension = file.partition(b".")
    return _composed(directory + slash + stem), extension.lower()


def _composed(name: bytes) -> bytes:
    """Return a name in Unicode form NFC, so that names of pictures and labels from different systems are equal."""
    return name if name.isascii() else to_bytes(composed(to_text(name)))


def read_text(path: bytes, file: io.FileIO, member: Member) -> str:
    """Return the text of a member of the archive ``file``. Raises UsageError unless it is a small regular file."""
    if not 0 <= member.size <= SIDECAR_LIMIT:
        where = f"{shown(path)}: {shown(member.name)}"
        raise UsageError(f"{where} is no plain file of at most {SIDECAR_LIMIT:,} bytes; make the archive anew")
    return to_text(os.pread(file.fileno(), member.size, member.offset).removeprefix(codecs.BOM_UTF8))


def _json(path: bytes, member: Member, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        where = f"{shown(path)}: {shown(member.name)}"
        raise UsageError(f"{where} is no JSON ({error}); mend it or leave it out") from None
    return value if isinstance(value, dict) else {}


def labels_of(
    path: bytes, own: dict[bytes, tuple[Member, str]], label_name: str | None, split_name: str | None
) -> tuple[str | None, str | None]:
    """Return label and split of a picture from its .cls file (label only) and its .json file.

    In .json, label and split are the fields ``label_name`` and ``split_name``; if None, the fields with a usual name. A
    label in .cls takes precedence. Raises UsageError if a value cannot be a label.
    """
    wanted = (
        _LABEL_NAMES if label_name is None else (label_name,),
        SPLIT_NAMES if split_name is None else (split_name,),
    )
    label = label_text(own[b"cls"][1]) if b"cls" in own else None
    if b"json" not in own:
        return label, None
    member, text = own[b"json"]
    value = {str(name).lower(): value for name, value in _json(path, member, text).items()}
    found: list[str | None] = [label, None]
    for at, (what, names) in enumerate(zip(("label", "split"), wanted, strict=True)):
        if found[at] is None:
            given = next((value[name.lower()] for name in names if name.lower() in value), None)
            try:
                found[at] = label_text(given)
            except NoLabel as error:
                raise UsageError(no_label_message(to_text(path), shown(member.name), what, error)) from None
    return found[0], found[1]
