from __future__ import annotations

import os

import pytest

from featstore.stages.index import index
from featstore.stages.train import train
from tests.chain import make_store, names, write_coloured

EVIL = "<img src=x onerror=alert(1)>\"'&\n{{ 7*7 }}.png"
"""File name of a picture that tries to run a script, to close an attribute, and to be expanded as a template."""


@pytest.fixture(scope="session")
def hostile(tmp_path_factory):
    """Return a folder, a store, a trained head and an index; names of pictures and of a class contain HTML code."""
    place = tmp_path_factory.mktemp("hostile")
    folder = write_coloured(place / "p", [*names("train", 8), *names("val", 4)])
    for split in ("train", "val"):
        (folder / split / "bee").rename(folder / split / "<script>alert(2)<")
        (folder / split / "ant/00.png").rename(folder / split / "ant" / EVIL)
        os.rename(folder / split / "ant/01.png", os.fsencode(folder / split / "ant") + b"/\xff\xfe.png")
    store = make_store(folder, place / "s")
    trained = train(store, folds=3)
    return folder, store, trained, index(store).path
