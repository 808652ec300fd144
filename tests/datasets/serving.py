"""A local HTTP server for archives, which simulates the faults of remote servers."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

from featstore.datasets import Archive, Dataset


@dataclass
class Server:
    """Settings and record of a test server. ``files``: content by name.

    ``requests``: the Range header of each received request, "" if there was none. ``ranges``: whether the server
    supports range requests. ``cut_after``: for each of the next answers, the number of bytes after which the server
    closes the connection. ``statuses``: HTTP error codes for the first requests.
    """

    address: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    ranges: bool = True
    cut_after: list[int] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)

    def archive(self, name: str, content: bytes, *, inside: str = "pictures", to: str = "") -> Archive:
        """Serve ``content`` under ``name``; return the archive as an entry of the data set registry."""
        self.files[name] = content
        sha256 = hashlib.sha256(content).hexdigest()
        return Archive(f"{self.address}/{name}", len(content), sha256, "made for the test", inside, to)

    def dataset(self, *archives: Archive) -> Dataset:
        """Return a registry entry of a data set that consists of ``archives``."""
        return Dataset("made", "made for the test", "class/file", "none", self.address, archives)


@contextlib.contextmanager
def serve() -> Iterator[Server]:
    """Yield a Server that answers on the loopback interface."""
    state = Server()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = state.files.get(self.path[1:])
            asked = self.headers.get("Range", "")
            state.requests.append(asked)
            if state.statuses or content is None:
                self.send_error(state.statuses.pop(0) if state.statuses else 404)
                return
            match = re.fullmatch(r"bytes=(\d+)-", asked) if state.ranges else None
            start = int(match[1]) if match else 0
            self.send_response(206 if match else 200)
            if match:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            stop = start + state.cut_after.pop(0) if state.cut_after else len(content)
            self.wfile.write(content[start:stop])

        def log_message(self, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        state.address = f"http://127.0.0.1:{running.server_port}"
        threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield state
        running.shutdown()
