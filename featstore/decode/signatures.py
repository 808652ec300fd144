"""Describe a file that is not a readable picture by its first bytes, for the failure message."""

from __future__ import annotations

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
_HEIF_BRANDS: Final = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1")


def is_heif(data: bytes) -> bool:
    """Tell whether ``data`` begins as a HEIF file does, HEIC among them."""
    return data[4:8] == b"ftyp" and data[8:12] in _HEIF_BRANDS


def describe(data: bytes) -> tuple[str, str]:
    """Return (reason, message) for unrecognised ``data``; see DecodeFailure for the reasons."""
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
