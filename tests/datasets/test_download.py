from __future__ import annotations

import dataclasses
import socket
import threading
from pathlib import Path

import numpy as np
import pytest

from featstore import defaults
from featstore.datasets import Archive
from featstore.datasets.download import download
from featstore.errors import DamagedError, FeatstoreError
from tests.datasets.serving import Server

CONTENT = np.random.default_rng(0).bytes(300_000)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_download_of_a_file_reports_its_bytes(server: Server, tmp_path: Path) -> None:
    told: list[int] = []
    download(server.archive("a.zip", CONTENT), tmp_path / "a.zip", told.append)
    assert (tmp_path / "a.zip").read_bytes() == CONTENT
    assert (told[0], told[-1]) == (0, len(CONTENT))
    assert told == sorted(told)
    assert names(tmp_path) == ["a.zip"]


def test_existing_file_is_verified_instead_of_downloaded(server: Server, tmp_path: Path) -> None:
    archive = server.archive("a.zip", CONTENT)
    (tmp_path / "a.zip").write_bytes(CONTENT)
    download(archive, tmp_path / "a.zip", lambda have: None)
    assert server.requests == []
    (tmp_path / "a.zip").write_bytes(CONTENT[:-1] + b"x")
    with pytest.raises(DamagedError, match="delete it and run again"):
        download(archive, tmp_path / "a.zip", lambda have: None)


def test_broken_download_continues_at_the_first_missing_byte(server: Server, tmp_path: Path) -> None:
    server.cut_after = [100_000, 50_000]
    download(server.archive("a.zip", CONTENT), tmp_path / "a.zip", lambda have: None)
    assert (tmp_path / "a.zip").read_bytes() == CONTENT
    assert server.requests == ["", "bytes=100000-", "bytes=150000-"]


def test_partial_download_is_resumed_by_a_later_call(server: Server, tmp_path: Path) -> None:
    archive = server.archive("a.zip", CONTENT)
    server.cut_after = [100_000, *[0] * defaults.DOWNLOAD_ATTEMPTS]
    with pytest.raises(FeatstoreError, match="100,000 of 300,000 bytes are here"):
        download(archive, tmp_path / "a.zip", lambda have: None)
    assert names(tmp_path) == ["a.zip.part"]
    server.requests.clear()
    told: list[int] = []
    download(archive, tmp_path / "a.zip", told.append)
    assert server.requests == ["bytes=100000-"]
    assert told[0] == 100_000
    assert (tmp_path / "a.zip").read_bytes() == CONTENT


def test_download_from_a_server_without_ranges_starts_again(server: Server, tmp_path: Path) -> None:
    server.ranges, server.cut_after = False, [100_000]
    download(server.archive("a.zip", CONTENT), tmp_path / "a.zip", lambda have: None)
    assert (tmp_path / "a.zip").read_bytes() == CONTENT
    assert server.requests == ["", "bytes=100000-"]


def test_download_fails_if_a_server_without_ranges_always_closes_early(server: Server, tmp_path: Path) -> None:
    server.ranges, server.cut_after = False, [100_000] * 50
    with pytest.raises(FeatstoreError, match="cannot be downloaded"):
        download(server.archive("a.zip", CONTENT), tmp_path / "a.zip", lambda have: None)
    assert len(server.requests) == 1 + defaults.DOWNLOAD_ATTEMPTS


def test_a_file_with_the_wrong_digest_is_not_kept(server: Server, tmp_path: Path) -> None:
    archive = server.archive("a.zip", CONTENT)
    server.files["a.zip"] = CONTENT[:-1] + bytes([CONTENT[-1] ^ 1])
    with pytest.raises(DamagedError, match="not the published file") as error:
        download(archive, tmp_path / "a.zip", lambda have: None)
    assert "\n" not in str(error.value)
    assert names(tmp_path) == []


def test_file_of_the_wrong_size_is_refused_before_the_download(server: Server, tmp_path: Path) -> None:
    archive = server.archive("a.zip", CONTENT)
    server.files["a.zip"] = CONTENT * 2
    with pytest.raises(DamagedError, match="600,000 bytes instead of 300,000"):
        download(archive, tmp_path / "a.zip", lambda have: None)
    assert (tmp_path / "a.zip.part").stat().st_size == 0


def test_damaged_partial_file_is_downloaded_again(server: Server, tmp_path: Path) -> None:
    archive = server.archive("a.zip", CONTENT)
    (tmp_path / "a.zip.part").write_bytes(b"x" * 100_000)
    download(archive, tmp_path / "a.zip", lambda have: None)
    assert (tmp_path / "a.zip").read_bytes() == CONTENT
    assert server.requests == ["bytes=100000-", ""]


@pytest.mark.parametrize("size", [len(CONTENT), len(CONTENT) + 1])
def test_wrong_partial_file_of_full_size_is_downloaded_again(server: Server, tmp_path: Path, size: int) -> None:
    (tmp_path / "a.zip.part").write_bytes(b"x" * size)
    download(server.archive("a.zip", CONTENT), tmp_path / "a.zip", lambda have: None)
    assert (tmp_path / "a.zip").read_bytes() == CONTENT
    assert server.requests == [""]


def test_download_retries_server_errors_but_not_a_missing_file(server: Server, tmp_path: Path) -> None:
    server.statuses = [503, 429]
    download(server.archive("a.zip", CONTENT), tmp_path / "a.zip", lambda have: None)
    assert len(server.requests) == 3
    server.requests.clear()
    archive = server.archive("b.zip", CONTENT)
    del server.files["b.zip"]
    with pytest.raises(FeatstoreError, match=r"HTTP 404; 0 of 300,000 bytes are here"):
        download(archive, tmp_path / "b.zip", lambda have: None)
    assert len(server.requests) == 1


def test_refused_connection_gives_a_one_line_error_with_the_reason(server: Server, tmp_path: Path) -> None:
    archive = server.archive("a.zip", CONTENT)
    closed = dataclasses.replace(archive, url="http://127.0.0.1:9/a.zip")
    with pytest.raises(FeatstoreError, match="refused") as error:
        download(closed, tmp_path / "a.zip", lambda have: None)
    assert "\n" not in str(error.value)
    assert str(tmp_path) in str(error.value)


def test_text_from_a_server_is_escaped_in_messages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(defaults, "DOWNLOAD_ATTEMPTS", 1)
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"\x1b[2Jowned 200\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/a.zip"
        with pytest.raises(FeatstoreError, match="owned") as error:
            download(Archive(url, 10, "0" * 64, "", "", ""), tmp_path / "a.zip", lambda have: None)
        thread.join()
    assert str(error.value).isprintable()


def test_download_fails_after_the_timeout_if_the_server_sends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(defaults, "DOWNLOAD_TIMEOUT", 0.05)
    monkeypatch.setattr(defaults, "DOWNLOAD_ATTEMPTS", 1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/a.zip"
        with pytest.raises(FeatstoreError, match="timed out"):
            download(Archive(url, 10, "0" * 64, "", "", ""), tmp_path / "a.zip", lambda have: None)
