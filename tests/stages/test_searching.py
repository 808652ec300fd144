from __future__ import annotations

import json
import shutil

import pytest

from featstore.errors import IdentityError, UsageError
from featstore.indexing import index_store
from featstore.searching import search
from tests.chain import make_store, names, write_coloured
from tests.made import tiny_backbone


def test_a_picture_finds_itself_and_its_class(chain):
    paths = [chain.folder / "val/ant/02.png", chain.folder / "train/bee/05.png"]
    report = search(chain.index, paths, k=4, backbone=tiny_backbone())
    assert (report.rows, report.failures, report.notes) == (30, 0, [])
    assert [query.neighbours[0].key for query in report.queries] == ["val/ant/02.png", "train/bee/05.png"]
    for query, label in zip(report.queries, ("ant", "bee"), strict=True):
        assert query.neighbours[0].score == pytest.approx(1, abs=1e-5)
        scores = [found.score for found in query.neighbours]
        assert scores == sorted(scores, reverse=True)
        assert [found.label for found in query.neighbours] == [label] * 4
    json.dumps(report.to_dict(), allow_nan=False)


def test_more_neighbours_than_there_are_and_pictures_that_cannot_be_read(chain, tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"<html>")
    report = search(
        chain.index, [tmp_path / "bad.jpg", chain.folder / "val/ant/00.png"], k=99, backbone=tiny_backbone()
    )
    assert report.failures == 1
    assert (report.queries[0].reason, report.queries[0].neighbours) == ("not-a-picture", [])
    assert len(report.queries[1].neighbours) == 30


def test_a_store_that_has_grown_or_gone_is_said(tmp_path):
    folder = write_coloured(tmp_path / "p", names("", 3))
    store = make_store(folder, tmp_path / "s")
    index = index_store(store).path
    query = folder / "ant/00.png"
    write_coloured(folder, ["ant/70.png"], seed=3)
    make_store(folder, store)
    (note,) = search(index, query, backbone=tiny_backbone()).notes
    assert "1 pictures are not in the index" in note
    # Index and store moved together: found again by the store's name.
    shutil.copytree(store, tmp_path / "moved/s")
    for end in ("", ".featstore"):
        shutil.copy(index + end, tmp_path / f"moved/s.faiss{end}")
    shutil.rmtree(store)
    report = search(tmp_path / "moved/s.faiss", query, backbone=tiny_backbone())
    assert report.store is not None
    assert report.store.path == tmp_path / "moved/s"
    report = search(index, query, backbone=tiny_backbone())
    assert report.store is None
    assert "not there any more" in report.notes[0]


def test_what_cannot_be_asked_for(chain, tmp_path):
    with pytest.raises(IdentityError, match="weights"):
        search(chain.index, chain.folder, backbone=tiny_backbone(3))
    with pytest.raises(UsageError, match="no such index"):
        search(tmp_path / "none.faiss", chain.folder)
    with pytest.raises(UsageError, match="nothing to look up"):
        search(chain.index, [])
    with pytest.raises(UsageError, match="at least 1"):
        search(chain.index, chain.folder, k=0)
