from __future__ import annotations

import json

import numpy as np
import pytest

from featstore.errors import UsageError
from featstore.stages.duplicates import find_duplicates
from tests.store import building
from tests.store.building import Pictures, build

CLOSE = {b"test/b/copy2.png": b"train/a/copy1.png", b"train/c/far.png": b"train/c/near.png"}


def vector(key: bytes, content: int) -> np.ndarray:
    """As building.vector, but a slightly changed one of another key for those in CLOSE."""
    alike = np.random.default_rng((content, *CLOSE.get(key, key))).normal(size=32)
    return (alike + 0.05 * np.random.default_rng((*key,)).normal(size=32)).astype(np.float32)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    names = [
        "train/a/equal1",
        "train/a/equal2",
        "test/a/equal3",
        "train/a/copy1",
        "test/b/copy2",
        "train/c/near",
        "train/c/far",
    ]
    keys = [f"{name}.png".encode() for name in [*names, *(f"other/d/{number:02d}" for number in range(40))]]
    source = Pictures(dict.fromkeys(keys, 7))
    source.labels = {key: key.split(b"/")[1].decode() for key in keys}
    source.splits = {key: key.split(b"/")[0].decode() for key in keys if not key.startswith(b"other")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(building, "D", 32)
        patch.setattr(building, "vector", lambda key, content: vector(b"e" if b"equal" in key else key, content))
        patch.setattr(building, "sha256", lambda key, content: (b"equal" if b"equal" in key else key)[-20:].ljust(32))
        return build(tmp_path_factory.mktemp("duplicates") / "s", source)


def test_copies_are_grouped_and_leaks_singled_out(store):
    report = find_duplicates(store.path)
    groups = [([copy.key for copy in group.copies], group.equal) for group in report.groups]
    assert sorted(groups[0][0]) == ["test/a/equal3.png", "train/a/equal1.png", "train/a/equal2.png"]
    assert groups[0][1]
    assert sorted(map(sorted, (keys for keys, _ in groups[1:]))) == [
        ["test/b/copy2.png", "train/a/copy1.png"],
        ["train/c/far.png", "train/c/near.png"],
    ]
    assert not any(equal for _, equal in groups[1:])
    assert report.surplus == 4
    shared = [({pair.one.key, pair.other.key}, pair.equal) for pair in report.leaks]
    assert len(shared) == 3
    assert all("test/a/equal3.png" in keys and equal for keys, equal in shared[:2])
    assert shared[2] == ({"test/b/copy2.png", "train/a/copy1.png"}, False)
    assert 0.9 < report.leaks[2].score < 1
    assert report.leaking == {"test": 2, "train": 3}
    assert report.notes == ["in 1 group copies of one picture have different labels"]
    told = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert told["groups"][0]["copies"][0]["score"] == 1
    assert len({copy["sha256"] for copy in told["groups"][0]["copies"]}) == 1


def test_a_higher_threshold_leaves_equal_bytes(store):
    seen = []
    report = find_duplicates(store.path, threshold=0.99999, progress=lambda *at: seen.append(at))
    assert [group.equal for group in report.groups] == [True]
    assert seen[-1] == (47, 47)
    with pytest.raises(UsageError, match="threshold"):
        find_duplicates(store.path, threshold=0)


def test_equal_bytes_are_found_where_the_features_say_nothing(tmp_path):
    source = Pictures({b"a": 1, b"b": 1, b"c": 1})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(building, "vector", lambda key, content: np.ones(building.D, np.float32))
        patch.setattr(building, "sha256", lambda key, content: bytes(31) + (b"c" if key == b"c" else b"a"))
        report = find_duplicates(build(tmp_path / "s", source).path)
    assert [[copy.key for copy in group.copies] for group in report.groups] == [["a", "b"]]
    assert report.groups[0].copies[0].score == 1
    assert (report.leaks, report.leaking) == ([], {})


def test_a_store_without_vectors_has_none(tmp_path):
    report = find_duplicates(build(tmp_path / "s", Pictures({b"a": -1})).path)
    assert (report.groups, report.leaks, report.surplus) == ([], [], 0)
