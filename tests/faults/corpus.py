"""Write a folder of damaged, unusual and hostile picture files, and return their expected outcomes.

As a command, extract FOLDER into STORE and print the outcomes:

python -m tests.faults.corpus FOLDER STORE
"""

from __future__ import annotations

import io
import json
import os
import resource
import socket
import struct
import sys
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.made import picture

VECTOR = "vector"
MAX_MEMORY = 512 << 20


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def png(width: int, height: int, *, bits: int = 1, data: bytes | None = None) -> bytes:
    """Return a gray PNG file with the given size in its header; ``data``: the uncompressed pixel rows, by default all
    zero."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    rows = bytes((width * bits + 7) // 8 + 1) * height if data is None else data
    head = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")


def make(folder: Path) -> dict[str, set[str]]:
    """Write the damaged and unusual picture files; return for each key the accepted outcomes: "vector", or reasons of a
    failure."""
    whole = picture(1, (48, 40))
    expected: dict[str, set[str]] = {}

    def put(name: str | bytes, data: bytes, *outcomes: str) -> None:
        path = os.path.join(os.fsencode(folder), os.fsencode(name))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(data)
        expected[os.fsdecode(os.fsencode(name))] = set(outcomes)

    jpeg = encoded(whole, "JPEG")
    for length in range(0, len(jpeg), max(10, len(jpeg) // 60)):
        outcome = {0: ("empty", "not-a-picture")}.get(length, ("truncated", "corrupt", "not-a-picture"))
        put(f"cut/{length:05d}.jpg", jpeg[:length], *outcome)
    put("zeros.jpg", bytes(5000), "not-a-picture")
    put("page.jpg", b"<!DOCTYPE html><html><body>404</body></html>", "not-a-picture")
    put("really-a-png.jpg", encoded(whole, "PNG"), VECTOR)
    put("cmyk.jpg", encoded(whole.convert("CMYK"), "JPEG"), VECTOR)
    put("16-bit.png", encoded(Image.fromarray(np.arange(1920, dtype=np.uint16).reshape(40, 48) * 30), "PNG"), VECTOR)
    put("1-bit.png", encoded(whole.convert("1"), "PNG"), VECTOR)
    put("palette.png", encoded(whole.convert("P"), "PNG", transparency=3), VECTOR)
    put(
        "float.tiff",
        encoded(Image.fromarray(np.linspace(0, 1, 1920, dtype=np.float32).reshape(40, 48)), "TIFF"),
        VECTOR,
    )
    several: dict[str, Any] = {"save_all": True, "append_images": [picture(2, (48, 40)), picture(3, (48, 40))]}
    for kind, name in (("TIFF", "pages.tiff"), ("GIF", "moving.gif"), ("WEBP", "moving.webp"), ("PNG", "moving.png")):
        put(name, encoded(whole, kind, **several), VECTOR)
    put("progressive.jpg", encoded(whole, "JPEG", progressive=True), VECTOR)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        put(f"orientation-{orientation}.jpg", encoded(whole, "JPEG", exif=exif), VECTOR)
    put("1x1.png", encoded(picture(4).resize((1, 1)), "PNG"), VECTOR)
    put("1x20000.png", encoded(picture(4).resize((1, 20000)), "PNG"), VECTOR)
    put("bomb.png", png(20000, 20000), "too-many-pixels")
    put("liar.png", png(60000, 60000, bits=8, data=b"\0" * 100), "too-many-pixels")
    put("short.png", png(3000, 3000, bits=8, data=b"\0" * 100), "truncated", "corrupt")
    put("icc.jpg", encoded(whole, "JPEG", icc_profile=b"\xff" * 200), VECTOR)
    put("exif.jpg", encoded(whole, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f" + b"\xff" * 60), VECTOR)
    put("two\nlines.png", encoded(whole, "PNG"), VECTOR)
    put(b"not \xff\xfe utf-8.png", encoded(whole, "PNG"), VECTOR)
    put("<b onclick=alert(1)>.png", encoded(whole, "PNG"), VECTOR)
    put("changing.jpg", jpeg, VECTOR, "changed-while-read", "truncated", "corrupt", "empty")
    (folder / "folder.jpg").mkdir()
    put("folder.jpg/inside.png", encoded(whole, "PNG"), VECTOR)
    os.mkfifo(folder / "fifo.jpg")
    expected["fifo.jpg"] = {"not-a-file"}
    os.symlink("/dev/zero", folder / "device.jpg")
    expected["device.jpg"] = {"not-a-file"}
    os.symlink("nowhere", folder / "dangling.jpg")
    expected["dangling.jpg"] = {"missing"}
    with socket.socket(socket.AF_UNIX) as listening:
        here = os.getcwd()
        os.chdir(folder)
        listening.bind("socket.jpg")
        os.chdir(here)
    expected["socket.jpg"] = {"not-a-file"}
    put("closed.png", encoded(whole, "PNG"), VECTOR if os.geteuid() == 0 else "permission")
    os.chmod(folder / "closed.png", 0)
    return expected


def main(folder: str, store: str) -> None:
    """Extract ``folder`` into ``store`` with the tiny backbone, and print what became of the pictures.

    Also print seconds, and by how much the peak memory grew during extraction.
    """
    from featstore.store import FeatureStore
    from tests.made import extract, tiny_backbone

    backbone = tiny_backbone()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    report = extract(folder, store, backbone=backbone, batch=8, workers=2, max_memory=MAX_MEMORY)
    seconds = time.perf_counter() - started
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10
    opened = FeatureStore.open(store)
    outcomes = dict.fromkeys(opened.keys, VECTOR)
    outcomes.update({key: failure.reason for key, failure in opened.failures()})
    messages = [failure.message for _, failure in opened.failures()]
    print(
        json.dumps(
            {
                "outcomes": outcomes,
                "messages": messages,
                "seconds": seconds,
                "peak": peak,
                "images": report.images,
                "ignored": report.ignored,
            }
        )
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
