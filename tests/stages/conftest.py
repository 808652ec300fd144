from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from featstore.stages.index import index
from featstore.stages.train import TrainReport, train
from tests.chain import make_store, names, write_coloured


@dataclass(frozen=True)
class Chain:
    """A folder of pictures, and a store, head and index made from it; no test changes these files."""

    place: Path
    folder: Path
    store: Path
    trained: TrainReport
    index: Path


@pytest.fixture(scope="session")
def chain(tmp_path_factory):
    place = tmp_path_factory.mktemp("chain")
    folder = write_coloured(place / "pictures", names("train", 10) + names("val", 5))
    store = make_store(folder, place / "s")
    trained = train(store, folds=3)
    return Chain(place, folder, store, trained, Path(index(store).path))
