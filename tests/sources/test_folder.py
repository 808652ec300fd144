from __future__ import annotations

import os
import random
import re
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featstore.errors import UsageError
from featstore.sources import open_source
from featstore.sources.folder import FolderSource
from featstore.sources.tally import Tally

from .helpers import keys, whole, write


def test_folder_source_sorts_keys_by_their_bytes(tmp_path: Path):
    names = ["b.jpg", "a/z.jpg", "a/10.jpg", "a/9.jpg", "a.jpg", "B.JPG", "ä.jpg", "a/b/c.png"]
    expected = [b"B.JPG", b"a/10.jpg", b"a/9.jpg", b"a/b/c.png", b"a/z.jpg", b"a.jpg", b"b.jpg", "ä.jpg".encode()]
    for seed in range(3):
        random.Random(seed).shuffle(names)
        root = write(tmp_path / str(seed), names)
        assert keys(FolderSource(root)) == expected


def test_folder_source_reports_sizes_mtimes_and_its_description(tmp_path: Path):
    write(tmp_path, ["a.jpg", "b.jpg"], b"12345")
    os.utime(tmp_path / "b.jpg", ns=(5, 1_700_000_000_123_456_789))
    source = FolderSource(tmp_path)
    chunk = whole(source)
    assert chunk.sizes.tolist() == [5, 5]
    assert chunk.mtimes[1] == 1_700_000_000_123_456_789
    assert chunk.offsets.tolist() == [-1, -1]
    assert chunk.locations is None
    assert keys(source, rows=1) == keys(source) == [b"a.jpg", b"b.jpg"]
    assert source.describe() == {
        "kind": "folder",
        "location": str(tmp_path),
        "root": str(tmp_path),
        "layout": "flat",
    }


def test_folder_source_counts_hidden_and_other_files_as_ignored(tmp_path: Path):
    write(tmp_path, ["a.jpg", "notes.txt", ".DS_Store", "._a.jpg", ".cache/b.jpg", "sub/readme"])
    source = FolderSource(tmp_path)
    assert keys(source) == [b"a.jpg"]
    assert source.ignored == 3
    everything = FolderSource(tmp_path, all_files=True)
    assert keys(everything) == [b"a.jpg", b"notes.txt", b"sub/readme"]
    assert everything.ignored == 1


def test_folder_source_follows_symbolic_links_and_stops_at_loops(tmp_path: Path):
    root = write(tmp_path / "root", ["a/x.jpg"])
    write(tmp_path / "elsewhere", ["y.jpg"])
    (root / "a" / "up").symlink_to("..")
    (root / "b").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(root)
    (root / "linked.jpg").symlink_to("a/x.jpg")
    (root / "self").symlink_to("self")
    source = FolderSource(root)
    assert keys(source) == [b"a/x.jpg", b"b/y.jpg", b"linked.jpg"]
    assert source.ignored == 1


def test_broken_links_and_special_files_become_failures(tmp_path: Path):
    write(tmp_path, ["a.jpg", "full.jpg/b.jpg", "odd.jpg/notes.txt"])
    (tmp_path / "broken.jpg").symlink_to("nowhere")
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    (tmp_path / "parent.jpg").symlink_to(".")
    os.mkfifo(tmp_path / "fifo.jpg")
    (tmp_path / "empty.jpg").mkdir()
    chunk = whole(FolderSource(tmp_path))
    assert dict(zip(chunk.keys, chunk.sizes.tolist(), strict=True)) == {
        b"a.jpg": 1,
        b"broken.jpg": -1,
        b"empty.jpg": -1,
        b"fifo.jpg": -1,
        b"full.jpg/b.jpg": 1,
        b"loop.jpg": -1,
        b"odd.jpg": -1,
        b"parent.jpg": -1,
    }
    assert chunk.mtimes[1] == -1


def columns(root: Path, layout: str | None = None) -> tuple[str | None, list[tuple[str | None, str | None]]]:
    source = FolderSource(root, layout=layout)
    chunk = whole(source)
    return source.layout, list(zip(chunk.splits, chunk.labels, strict=True))


def test_folder_source_detects_the_layout_split_class(tmp_path: Path):
    write(tmp_path, ["Train/cat/1.jpg", "Train/cat/deep/2.jpg", "val/3.jpg", "docs/readme.txt", "README.md"])
    expected = [("Train", "cat"), ("Train", "cat"), ("val", None)]
    assert columns(tmp_path) == ("split/class", expected)
    assert columns(tmp_path, "split") == ("split", [("Train", None), ("Train", None), ("val", None)])
    assert columns(tmp_path, "class") == ("class", [(None, "Train"), (None, "Train"), (None, "val")])


def test_folder_source_detects_the_layout_class(tmp_path: Path):
    write(tmp_path, ["train/1.jpg", "bus/2.jpg"])
    assert columns(tmp_path) == ("class", [(None, "bus"), (None, "train")])
    assert columns(tmp_path, "none") == ("none", [(None, None)] * 2)


def test_folder_source_detects_the_layout_flat(tmp_path: Path):
    write(tmp_path, ["1.jpg", "train/cat/2.jpg"])
    assert columns(tmp_path) == ("flat", [(None, None)] * 2)
    assert columns(tmp_path, "split/class") == ("split/class", [(None, None), ("train", "cat")])


def test_class_folder_names_may_be_any_bytes(tmp_path: Path):
    write(tmp_path, [b"a\nb/1.jpg", b"\xff/2.jpg"])
    chunk = whole(FolderSource(tmp_path))
    assert chunk.labels == ["a\nb", "\udcff"]


@pytest.mark.parametrize(
    ("names", "layout", "words"),
    [
        (
            ["ant/1.jpg", "bee/2.jpg", "top.jpg"],
            "flat",
            r"top\.jpg lies directly in the folder, so folders such as ant",
        ),
        (
            ["train/ant/1.jpg", "val/ant/2.jpg", "more/3.jpg"],
            "class",
            "train is taken for a class, since more beside it",
        ),
        (["1.jpg", "docs/notes.txt"], "flat", None),
        (["train/ant/1.jpg", "docs/notes.txt"], "split/class", None),
        (["train/notes.txt", "ant/1.jpg"], "class", None),
    ],
)
def test_note_explains_why_classes_or_splits_were_not_detected(
    tmp_path: Path, names: list[str], layout: str, words: str | None
):
    source = FolderSource(write(tmp_path, names))
    assert source.layout == layout
    assert len(source.notes) == (words is not None)
    assert words is None or re.match(words, source.notes[0])
    assert FolderSource(tmp_path, layout="class").notes == []


def test_folder_source_rejects_an_unknown_layout(tmp_path: Path):
    with pytest.raises(UsageError, match="split/class, class"):
        FolderSource(tmp_path, layout="tree")


def test_error_for_an_empty_folder_counts_ignored_files(tmp_path: Path):
    write(tmp_path, ["a.txt", "b/c.json"])
    with pytest.raises(UsageError, match=r"holds no pictures; 2 files of other names"):
        list(FolderSource(tmp_path).chunks())


def test_folder_source_reports_a_folder_that_cannot_be_listed(tmp_path: Path):
    write(tmp_path, ["a/1.jpg", "b/2.jpg"])
    source = FolderSource(tmp_path)
    (tmp_path / "b").chmod(0)
    root = os.geteuid() == 0
    if root:
        # Root may list any directory, so switch to another user, after giving that user access to the folder.
        for directory in (tmp_path, *tmp_path.parents):
            if directory.name.startswith(("test_", "popen-", "pytest-")):
                directory.chmod(0o755)
        os.seteuid(65534)
    try:
        with pytest.raises(UsageError, match="b: cannot be listed"):
            list(source.chunks())
    finally:
        if root:
            os.seteuid(0)
        (tmp_path / "b").chmod(0o755)


@pytest.mark.slow
def test_folder_source_reads_a_tree_of_1100_nested_folders(tmp_path: Path):
    directory = str(tmp_path)
    for _ in range(1100):
        directory += "/d"
        os.mkdir(directory)
    Path(directory, "x.jpg").write_bytes(b"x")
    assert keys(open_source(tmp_path)) == [b"d/" * 1100 + b"x.jpg"]
    # Delete the files here, because shutil.rmtree, which removes the temporary folders, is recursive.
    os.unlink(directory + "/x.jpg")
    os.removedirs(directory)


part = st.binary(min_size=1, max_size=6).filter(lambda name: not set(name) & {0, 0x2F} and not name.startswith(b"."))


@settings(deadline=None, max_examples=50)
@given(st.sets(st.tuples(st.lists(part, max_size=2), part.map(lambda name: name + b".jpg")).map(
    lambda pair: b"/".join([*(name + b"_" for name in pair[0]), pair[1]])), min_size=1, max_size=8))  # fmt: skip
def test_folder_source_finds_files_of_any_name_once_and_sorted(names: set[bytes]):
    with tempfile.TemporaryDirectory() as directory:
        made = set()
        for name in names:
            try:
                write(Path(directory), [name])
            except OSError:
                continue  # Skip names that the file system rejects.
            made.add(name)
        if made:
            found = keys(FolderSource(Path(directory)))
            assert sorted(found) == sorted(made)
            assert found == sorted(made, key=lambda name: name.split(b"/"))


@pytest.mark.parametrize(
    ("names", "layout", "labels"),
    [
        (
            ["training_set/cat/1.jpg", "test_set/dog/2.jpg"],
            "split/class",
            [("test_set", "dog"), ("training_set", "cat")],
        ),
        (["Train Images/cat/1.jpg", "val2017/dog/2.jpg"], "split/class", [("Train Images", "cat"), ("val2017", "dog")]),
        (["trainset/cat/1.jpg", "testset/dog/2.jpg"], "split/class", [("testset", "dog"), ("trainset", "cat")]),
        (
            ["seg_train/seg_train/sea/1.jpg", "seg_test/seg_test/sea/2.jpg"],
            "split/class",
            [("seg_test", "sea"), ("seg_train", "sea")],
        ),
        (
            ["hymenoptera_data/train/ant/1.jpg", "hymenoptera_data/val/bee/2.jpg"],
            "split/class",
            [("train", "ant"), ("val", "bee")],
        ),
        (["a/b/ant/1.jpg", "a/b/bee/2.jpg", "a/README.md"], "class", [(None, "ant"), (None, "bee")]),
        (["ant/1.jpg", "ant/site/2.jpg"], "class", [(None, "ant"), (None, "ant")]),
        (
            ["testing grounds/1.jpg", "crash test dummy/2.jpg"],
            "class",
            [(None, "crash test dummy"), (None, "testing grounds")],
        ),
        (["train/1.jpg", "test match/2.jpg"], "class", [(None, "test match"), (None, "train")]),
    ],
)
def test_folder_layout_is_detected_with_unusual_split_names(
    tmp_path: Path, names: list[str], layout: str, labels: list[object]
):
    assert columns(write(tmp_path, names)) == (layout, labels)


def test_note_suggests_option_layout_for_pictures_in_one_folder(tmp_path: Path):
    source = FolderSource(write(tmp_path, ["x/ant/1.jpg", "x/bee/2.jpg"]))
    whole(source)
    assert any("all pictures lie in x" in note and "--layout class" in note for note in source.notes)
    assert columns(tmp_path, "class") == ("class", [(None, "x"), (None, "x")])


def test_summary_of_a_source_counts_labels_and_splits(tmp_path: Path):
    source = FolderSource(write(tmp_path, ["train/ant/1.jpg", "train/bee/2.jpg", "val/ant/3.jpg", "val/4.jpg"]))
    whole(source)
    assert source.read_as == (
        "2 classes from the second folder of each path (1 of 4 without a label), 2 splits (train, val) from the first, "
        "layout split/class (--layout changes it)"
    )


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["cat/1.jpg", "Cat/2.jpg"], "look alike"),
        (["1/1.jpg", "01/2.jpg", "2/3.jpg"], "look alike"),
        (["nan/1.jpg", "ant/2.jpg"], "'nan' is read as a class"),
        (["ant/1.jpg", "bee/2.jpg", "@eaDir/3.jpg"], "'@eaDir' is a folder that a system made"),
        (["ant/1.jpg", "bee/site 3/2.jpg"], "folders below the class's own"),
        (["ant/1.jpg", "ant/2.jpg"], "one class only, 'ant'"),
        ([f"{n}/1.jpg" for n in range(20)], "is this an identifier"),
    ],
)
def test_folder_source_notes_class_names_that_may_be_mistakes(tmp_path: Path, names: list[str], words: str):
    source = FolderSource(write(tmp_path, names))
    whole(source)
    assert any(words in note for note in source.notes), source.notes


def test_class_folders_named_in_two_unicode_forms_are_one_class(tmp_path: Path):
    source = FolderSource(write(tmp_path, ["train/caf\u00e9/1.jpg", "val/cafe\u0301/2.jpg", "val/ant/3.jpg"]))
    assert set(whole(source).labels) == {"caf\u00e9", "ant"}


def test_error_for_a_folder_of_compressed_files_says_to_unpack_them(tmp_path: Path):
    write(tmp_path, ["a.tar.gz", "readme.txt"])
    with pytest.raises(UsageError, match=r"holds no pictures, but packed ones such as a.tar.gz: unpack them"):
        list(FolderSource(tmp_path).chunks())


def test_summary_of_a_source_lists_classes_in_natural_order(tmp_path: Path):
    names = [f"{split}/{kind}/1.jpg" for split in ("train", "test") for kind in ("1", "2", "10", "class 2", "class 10")]
    source = FolderSource(write(tmp_path, names))
    tally = Tally()
    list(tally.watch(source.chunks()))
    assert tally.classes == ["1", "2", "10", "class 2", "class 10"]
    tally = Tally()
    tally.add([], [f"fold {n}" for n in (10, 9, 2, 1)], 4)
    assert "4 splits (fold 1, fold 2, fold 9, fold 10)" in tally.line("", "", "")
