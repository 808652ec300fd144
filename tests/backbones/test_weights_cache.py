"""Weights downloaded from a local server: the file is intact, damaged, missing or already in the cache."""

from __future__ import annotations

import hashlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from featstore.backbones import load_backbone, weights_cache
from featstore.backbones.architectures import WeightsEntry
from featstore.backbones.weights_cache import cache_directory, fetch
from featstore.decode import Preprocessing
from featstore.errors import DamagedError, FeatstoreError, Notice

pytestmark = pytest.mark.filterwarnings("ignore::featstore.errors.Notice")

CONTENT = b"weights" * 1000
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    requests = 0

    def do_GET(self) -> None:
        type(self).requests += 1
        if "missing" in self.path:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(CONTENT[:100] if "short" in self.path else CONTENT)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    Handler.requests = 0
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def entry(url: str, sha256: str = DIGEST[:8]) -> WeightsEntry:
    return WeightsEntry("IMAGENET1K_V1", Preprocessing(256, 224), sha256, url)


def left_in_cache() -> list[str]:
    return sorted(path.name for path in cache_directory().iterdir()) if cache_directory().exists() else []


def test_downloaded_weights_are_verified_and_cached(server: str) -> None:
    weights = entry(f"{server}/net-{DIGEST[:8]}.pth")
    with pytest.warns(Notice, match=f"downloading the weights .* of net from {server}/net.*kept in "):
        file = fetch("net", weights)
    assert file == cache_directory() / f"net-{DIGEST[:8]}.pth"
    assert file.read_bytes() == CONTENT
    assert fetch("net", weights) == file
    assert Handler.requests == 1
    assert left_in_cache() == [file.name]


@pytest.mark.parametrize(
    ("path", "digest"), [("net-00000000.pth", "00000000"), (f"short-{DIGEST[:8]}.pth", DIGEST[:8])]
)
def test_download_with_a_wrong_digest_leaves_no_file(server: str, path: str, digest: str) -> None:
    with pytest.raises(DamagedError, match="cut short or is not the published file") as error:
        fetch("net", entry(f"{server}/{path}", digest))
    assert "\n" not in str(error.value)
    assert left_in_cache() == []


def test_refused_connection_error_names_alternatives_to_a_download(server: str) -> None:
    port = server.rpartition(":")[2]
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as closed:
        free = closed.server_port
    assert str(free) != port
    with pytest.raises(FeatstoreError) as error:
        fetch("net", entry(f"http://127.0.0.1:{free}/net-{DIGEST[:8]}.pth"))
    text = str(error.value)
    assert "\n" not in text
    for words in (
        "IMAGENET1K_V1 of net",
        "refused",
        str(cache_directory()),
        "--weights PATH",
        "efficientnet_lite0",
        "random:SEED",
    ):
        assert words in text
    assert left_in_cache() == []


def test_http_error_404_of_a_download_is_reported(server: str) -> None:
    with pytest.raises(FeatstoreError, match="Not Found"):
        fetch("net", entry(f"{server}/missing-{DIGEST[:8]}.pth"))


def test_a_damaged_file_in_the_cache_of_weights_is_not_used(server: str, own_cache: Path) -> None:
    own_cache.mkdir(parents=True)
    file = own_cache / f"net-{DIGEST[:8]}.pth"
    file.write_bytes(CONTENT[:-1] + b"!")
    with pytest.raises(DamagedError, match="delete it and run again") as error:
        fetch("net", entry(f"{server}/{file.name}"))
    assert str(file) in str(error.value)
    assert Handler.requests == 0


def test_unwritable_cache_of_weights_is_reported(server: str, own_cache: Path) -> None:
    own_cache.parent.parent.mkdir(parents=True)
    own_cache.parent.write_bytes(b"a file where the directory should be")
    with pytest.raises(FeatstoreError, match="TORCH_HOME"):
        fetch("net", entry(f"{server}/net-{DIGEST[:8]}.pth"))


def test_downloading_weights_without_a_home_directory_is_refused(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(weights_cache.torch.hub, "get_dir", lambda: "~/.cache/torch/hub")
    with pytest.raises(FeatstoreError, match="no home directory .* set TORCH_HOME"):
        load_backbone("mobilenet_v3_small")
    assert list(tmp_path.iterdir()) == []
