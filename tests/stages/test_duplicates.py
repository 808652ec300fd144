from __future__ import annotations

import json

import numpy as np
import pytest

from featstore.cli.duplicates import _lines
from featstore.errors import UsageError
from featstore.pages.duplicates import write_duplicates_page
from featstore.stages.duplicates import _joined, find_duplicates
from tests.page_reading import read
from tests.store import building
from tests.store.building import Pictures, build

CLOSE = {b"test/b/copy2.png": b"train/a/copy1.png", b"train/c/far.png": b"train/c/near.png"}


def vector(key: bytes, content: int) -> np.ndarray:
    """Return a random vector for ``key``; for a key in CLOSE, return a vector close to that of the key CLOSE[key]."""
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


def test_duplicates_are_grouped_and_listed_across_splits(store):
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
    assert 0.9 < report.leaks[2].centred_cosine < 1
    one, other = (report.store.features(rows=report.store.index_of([key]))[0] for key in sorted(shared[2][0]))
    assert report.leaks[2].cosine == pytest.approx(one @ other / np.linalg.norm(one) / np.linalg.norm(other), abs=1e-6)
    assert report.leaking == {"test": 2, "train": 3}
    assert report.notes == ["copies of one picture have different labels in 1 group: group 2"]
    told = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert told["groups"][0]["copies"][0]["centred_cosine"] == told["groups"][0]["copies"][0]["cosine"] == 1
    assert (told["equal_sets"], told["equal_copies"], told["near_groups"]) == (1, 3, 2)
    by_key = {copy.key: copy for group in report.groups for copy in group.copies}
    assert by_key["test/b/copy2.png"].cosine == report.leaks[2].cosine
    assert len({copy["sha256"] for copy in told["groups"][0]["copies"]}) == 1


def test_duplicates_at_a_high_threshold_have_equal_bytes(store):
    seen = []
    report = find_duplicates(store.path, threshold=0.99999, progress=lambda *at: seen.append(at))
    assert [group.equal for group in report.groups] == [True]
    assert seen[-1] == (47, 47)
    with pytest.raises(UsageError, match="threshold"):
        find_duplicates(store.path, threshold=0)


def test_pictures_with_equal_vectors_but_different_bytes_are_no_exact_copies(tmp_path):
    source = Pictures({b"a": 1, b"b": 1, b"c": 1})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(building, "vector", lambda key, content: np.ones(building.D, np.float32))
        patch.setattr(building, "sha256", lambda key, content: bytes(31) + (b"c" if key == b"c" else b"a"))
        report = find_duplicates(build(tmp_path / "s", source).path)
    assert [[copy.key for copy in group.copies] for group in report.groups] == [["a", "b"]]
    assert report.groups[0].copies[0].centred_cosine == 1
    assert (report.leaks, report.leaking) == ([], {})


def test_store_without_vectors_has_no_duplicates(tmp_path):
    report = find_duplicates(build(tmp_path / "s", Pictures({b"a": -1})).path)
    assert (report.groups, report.leaks, report.surplus) == ([], [], 0)


@pytest.fixture
def mixed(tmp_path):
    """Return the duplicates found in a store of 20 pictures.

    copy.jpg has the bytes of a.jpg, and a80.jpg is a near-duplicate of a.jpg. b.jpg and b2.jpg have the same bytes. The
    other 15 pictures are all different.
    """
    keys = [b"a.jpg", b"copy.jpg", b"a80.jpg", b"b.jpg", b"b2.jpg", *(b"%d.jpg" % number for number in range(15))]
    same = {b"copy.jpg": b"a.jpg", b"b2.jpg": b"b.jpg"}

    def vector(key: bytes, content: int) -> np.ndarray:
        alike = np.random.default_rng((*(b"a.jpg" if key == b"a80.jpg" else same.get(key, key)),)).normal(size=32)
        return (alike + 0.1 * (key == b"a80.jpg") * np.random.default_rng(1).normal(size=32)).astype(np.float32)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(building, "D", 32)
        patch.setattr(building, "vector", vector)
        patch.setattr(building, "sha256", lambda key, content: same.get(key, key).ljust(32))
        yield find_duplicates(build(tmp_path / "s", Pictures(dict.fromkeys(keys, 7))).path)


def test_duplicates_report_marks_pictures_of_equal_bytes(mixed, tmp_path):
    assert (mixed.equal_sets, mixed.equal_copies, mixed.near_groups, mixed.surplus) == (2, 4, 1, 3)
    told = mixed.to_dict()
    assert (told["equal_sets"], told["equal_copies"], told["near_groups"]) == (2, 4, 1)
    marks = [{copy["key"]: copy["equal_bytes"] for copy in group["copies"]} for group in told["groups"]]
    assert marks == [{"b.jpg": 1, "b2.jpg": 1}, {"a.jpg": 1, "copy.jpg": 1, "a80.jpg": None}]
    lines = _lines(mixed, None)
    assert "20 pictures; 2 groups of equal bytes (4 pictures), 1 group of near-duplicates" in lines[0]
    assert "group 2: near-duplicates, 2 of 3 with equal bytes" in lines
    assert sorted(line for line in lines if "jpg" in line)[-4:] == [
        *(f"  equal bytes     {key}" for key in ("a.jpg", "b.jpg", "b2.jpg", "copy.jpg"))
    ]
    (near,) = [line for line in lines if "a80.jpg" in line]
    (copy,) = [copy for copy in mixed.groups[1].copies if copy.equal_bytes is None]
    assert near == f"  {copy.centred_cosine:.4f}; {copy.cosine:.4f}  a80.jpg"
    write_duplicates_page(mixed, tmp_path / "page.html")
    text = read(tmp_path / "page.html").text
    assert "2 of 3 with equal bytes" in text
    # The explanation on the page states the measured share of copies that are found.
    assert "only 6 to 62 % of those at half size and quality 50" in text
    assert text.count("equal bytes") - text.count("groups of equal bytes") - text.count("with equal bytes") == 2 + 2 + 1
    assert f"centred cosine {copy.centred_cosine:.3f}, cosine {copy.cosine:.3f}" in text


def test_duplicate_groups_that_share_a_picture_are_merged():
    groups = [np.array(rows) for rows in ([4, 7], [1, 2], [2, 4], [8, 9], [5, 6])]
    assert [rows.tolist() for rows in _joined(groups)] == [[1, 2, 4, 7], [5, 6], [8, 9]]
    assert _joined([]) == []
