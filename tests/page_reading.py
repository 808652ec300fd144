"""Check a page: in headless Chromium if it is installed, otherwise by parsing it."""

from __future__ import annotations

import base64
import io
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote_to_bytes

from PIL import Image

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
_VOID = {"meta", "img", "br", "wbr", "circle", "line", "rect", "polyline"}


@dataclass
class Page(HTMLParser):
    """Content of a page: its text, the sizes of its pictures, and everything that could load or run code.

    ``originals``: the files that its links lead to, which a browser opens on a click only.
    """

    text: str = ""
    pictures: list[tuple[int, int]] = field(default_factory=list)
    addresses: list[str] = field(default_factory=list)
    active: list[str] = field(default_factory=list)
    open_tags: list[str] = field(default_factory=list)
    places: set[str] = field(default_factory=set)
    originals: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)

    def handle_starttag(self, tag, attributes):
        if tag not in _VOID:
            self.open_tags.append(tag)
        if tag in ("script", "iframe", "object", "embed", "form", "link", "base", "audio", "video"):
            self.active.append(tag)
        for name, value in attributes:
            if name.startswith("on") or (value or "").strip().lower().startswith("javascript:"):
                self.active.append(f"{tag} {name}={value}")
            if name == "id":
                self.places.add(value)
            if tag == "a" and name == "href" and value.startswith("file:///"):
                self.originals.append(os.fsdecode(unquote_to_bytes(value.removeprefix("file://"))))
            elif name in ("src", "href", "srcset", "data", "action", "poster"):
                self.addresses.append(value)
                if tag == "img" and value.startswith("data:image/"):
                    image = Image.open(io.BytesIO(base64.b64decode(value.split(",", 1)[1], validate=True)))
                    image.load()
                    self.pictures.append(image.size)

    def handle_endtag(self, tag):
        if tag not in _VOID:
            assert self.open_tags.pop() == tag, f"</{tag}> closes nothing"

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in _VOID:
            self.handle_endtag(tag)

    def handle_data(self, data):
        if self.open_tags and self.open_tags[-1] != "style":
            self.text += data


def read(path: Path) -> Page:
    """Parse a page, and require that it is whole, loads nothing from elsewhere and runs nothing."""
    page = Page()
    page.feed(Path(path).read_text(encoding="utf-8"))
    page.close()
    assert page.open_tags == []
    assert page.active == []
    # Links within the page, and embedded pictures, are allowed.
    assert all(address.startswith("data:image/") or address[1:] in page.places for address in page.addresses)
    return page


def require_shown(path: Path) -> None:
    """Require that a browser shows every picture of the page; without a browser, that each of them decodes."""
    page = read(path)
    assert page.pictures
    assert min(min(size) for size in page.pictures) > 0
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        return
    # Only a script can tell whether pictures were loaded, so
    # open a copy with a script that writes the number of pictures that the browser could show into the title.
    text = Path(path).read_text(encoding="utf-8")
    policy = text.index("<meta http-equiv")
    text = text[:policy] + text[text.index("\n", policy) :]
    script = (
        "<script>addEventListener('load', () => { const all = [...document.images];"
        "document.title = 'shown ' + all.filter(i => i.complete && i.naturalWidth > 0).length + ' of ' + all.length })</script>"
    )
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "page.html"
        copy.write_text(text.replace("</body>", script + "</body>"), encoding="utf-8")
        command = [
            *(browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
            *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
            *(f"--user-data-dir={folder}/profile", "--virtual-time-budget=5000", "--dump-dom", copy.as_uri()),
        ]
        result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    count = len(page.pictures)
    assert f"<title>shown {count} of {count}</title>" in result.stdout
