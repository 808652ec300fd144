from __future__ import annotations

from collections.abc import Iterator

import pytest

from featstore import defaults
from tests.datasets.serving import Server, serve


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(defaults, "DOWNLOAD_PAUSE", 0.0)
    with serve() as running:
        yield running
