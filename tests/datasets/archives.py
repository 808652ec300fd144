"""Archives made in memory, including malicious ones."""

from __future__ import annotations

import io
import stat
import tarfile
import zipfile


def made_zip(members: dict[str, bytes], *, links: dict[str, str] | None = None) -> bytes:
    """Return a ZIP archive with ``members`` (name to content) and symbolic ``links`` (name to target)."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
        for name, target in (links or {}).items():
            entry = zipfile.ZipInfo(name)
            entry.create_system = 3
            entry.external_attr = (stat.S_IFLNK | 0o777) << 16
            archive.writestr(entry, target)
    return stream.getvalue()


def made_tgz(members: dict[str, bytes], *, odd: dict[str, bytes] | None = None, target: str = "/etc/passwd") -> bytes:
    """Return a .tgz with ``members`` (name to content) and ``odd`` members (name to a type such as tarfile.SYMTYPE)."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
        for name, kind in (odd or {}).items():
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = kind, target
            archive.addfile(entry)
    return stream.getvalue()
