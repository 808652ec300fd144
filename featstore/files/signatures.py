"""Distinguish pictures, archives and other files by their first bytes."""

from __future__ import annotations

import re
from typing import Final

_UNSUPPORTED: Final = (
    (b"%!PS", "PostScript"),
    (b"\xc5\xd0\xd3\xc6", "PostScript"),
    (b"8BPS", "Photoshop"),
    (b"\x00\x00\x01\x00", "icon"),
    (b"icns", "icon"),
    (b"gimp xcf", "GIMP"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\x00\x00\x00\x0cJXL ", "JPEG XL"),
    (b"v/1\x01", "OpenEXR"),
    (b"FUJIFILM", "raw camera"),
    (b"qoif", "QOI"),
)
_OTHERS: Final = (
    (b"%PDF", "a PDF document"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"\x89HDF", "an HDF5 file"),
    (b"version https://git-lfs", "a Git LFS pointer; run 'git lfs pull' to get the picture itself"),
    (b"RIFF", "a RIFF file (audio or video)"),
    (b"\x1aE\xdf\xa3", "a Matroska or WebM video"),
)
_PICTURES: Final = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|GIF8[79]a|RIFF.{4}WEBP|II\*\0|MM\0\*|II\+\0|MM\0\+|BM.{4}\0{4}|P[1-6]\s+[0-9#]"
    rb"|\0\0\0\x0cjP  |\xff\x4f\xff\x51|.{4}ftyp(?:avif|avis|hei|hev|mif1|msf1)",
    re.DOTALL,
)
SIGNATURE_BYTES: Final = 512
"""Number of bytes from the start of a file that is_picture and other_than_text need."""
_HEIF_BRANDS: Final = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1")


def is_picture(start: bytes) -> bool:
    """Return whether a file that begins with ``start`` is a picture of any known format."""
    return bool(_PICTURES.match(start)) or any(
        start.startswith(signature) for signature, name in _UNSUPPORTED if name != "icon"
    )


def other_than_text(start: bytes) -> str:
    """Return the kind of a file that begins with ``start``, such as "a tar archive"; "" if it may be a text file."""
    if is_picture(start):
        return "a picture"
    if start[257:262] == b"ustar":
        return "a tar archive"
    if start.startswith((b"PAR1", b"\x28\xb5\x2f\xfd", b"BZh", b"\xfd7zXZ")):
        return "a Parquet file" if start.startswith(b"PAR1") else "a compressed file"
    return next((name.partition(";")[0] for signature, name in _OTHERS if start.startswith(signature)), "")


def is_heif(data: bytes) -> bool:
    """Return whether ``data`` begins like a HEIF file, which includes HEIC."""
    return data[4:8] == b"ftyp" and data[8:12] in _HEIF_BRANDS


def describe(data: bytes) -> tuple[str, str]:
    """Return (reason, message) for file content that is not a readable picture; see DecodeFailure for the reasons."""
    if not data:
        return "not-a-picture", "the file is empty"
    if not any(data):
        return "not-a-picture", f"all {len(data):,} bytes are zero"
    for signature, name in _UNSUPPORTED:
        if data.startswith(signature):
            return "unsupported", f"a {name} file; convert it to JPEG or PNG"
    if data[4:8] == b"ftyp":
        if is_heif(data):
            return (
                "unsupported",
                "a HEIF file (HEIC); install image-featstore[heif] to read it, or convert it to JPEG or PNG",
            )
        return "not-a-picture", "an MP4 or other ISO media file"
    for signature, name in _OTHERS:
        if data.startswith(signature):
            return "not-a-picture", name
    start = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if b"<svg" in start:
        return "unsupported", "an SVG drawing; convert it to JPEG or PNG"
    if start.startswith((b"<!doctype", b"<html", b"<head", b"<body", b"<script")):
        return "not-a-picture", "an HTML page; a download may have saved an error page under this name"
    if start.startswith((b"<?xml", b"<")):
        return "not-a-picture", "an XML text"
    if start and all(32 <= byte < 127 or byte in b"\t\r\n" for byte in start):
        return "not-a-picture", "a text file"
    return "not-a-picture", f"no known picture format begins with the bytes {data[:8].hex(' ')}"
