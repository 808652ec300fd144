"""Check an HTML page by parsing it, and in headless Chromium if a browser is installed."""

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
    """Parsed content of an HTML page: text, sizes of the embedded pictures, and everything that could load or run code.

    ``originals``: picture files that links point to; a browser opens them only after a click.
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
    """Return the parsed page; require balanced tags, and that the page loads no other file and runs no script."""
    page = Page()
    page.feed(Path(path).read_text(encoding="utf-8"))
    page.close()
    assert page.open_tags == []
    assert page.active == []
    # The only allowed addresses are embedded pictures and links within the page.
    assert all(address.startswith("data:image/") or address[1:] in page.places for address in page.addresses)
    return page


def require_shown(path: Path) -> None:
    """Require that all pictures of the page can be decoded, and that an installed browser shows them."""
    page = read(path)
    assert page.pictures
    assert min(min(size) for size in page.pictures) > 0
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        return
    # Open a copy of the page with an added script, which writes the number of pictures that the browser loaded into the
    # title.
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
