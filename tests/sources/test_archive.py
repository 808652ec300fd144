from __future__ import annotations

import io
import os
import random
import tarfile
import tempfile
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featstore.errors import FeatstoreError, UsageError
from featstore.sources import ReadFailure, Source, open_source, read_picture
from featstore.sources.archive import TarSource
from featstore.sources.samples import sample_of

from .helpers import error_of, keys, whole


def tar(path: Path, files: list[tuple[str, bytes]], *, mtime: float = 7, form: int = tarfile.PAX_FORMAT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form, encoding="utf-8", errors="surrogateescape") as archive:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(data), mtime
            archive.addfile(info, io.BytesIO(data))
    return path


def contents(source: Source) -> list[tuple[bytes, bytes]]:
    read = []
    for chunk in source.chunks():
        locations = chunk.keys if chunk.locations is None else chunk.locations
        for key, location, offset, size in zip(chunk.keys, locations, chunk.offsets, chunk.sizes, strict=True):
            read.append((key, read_picture(source.root, location, int(offset), int(size), limit=1 << 20).data))
    return read


def test_archive_source_reads_webdataset_samples(tmp_path: Path):
    files = [
        ("./000.cls", b"3\n"),
        ("./000.jpg", b"picture"),
        ("./000.txt", b"a cat"),
        ("001.json", b'{"label": "dog", "split": "val", "n": 1}'),
        ("001.left.png", b"left"),
        ("001.right.PNG", b"right"),
        ("002.jpg", b"bare"),
        ("003.json", b'{"class": 4}'),
        ("003.cls", b"cls wins"),
        ("003.jpg", b"last"),
        ("readme.txt", b"orphan"),
        ("other.bin", b"?"),
        ("._003.jpg", b"hidden"),
        (".git/x", b"hidden"),
    ]
    source = open_source(tar(tmp_path / "a.tar", files))
    chunk = whole(source)
    assert source.kind == "tar"
    assert chunk.keys == [
        b"a.tar/" + name for name in (b"000.jpg", b"001.left.png", b"001.right.PNG", b"002.jpg", b"003.jpg")
    ]
    assert chunk.locations == [b"a.tar"] * 5
    assert chunk.labels == ["3", "dog", "dog", None, "cls wins"]
    assert chunk.splits == [None, "val", "val", None, None]
    json = '{"label": "dog", "split": "val", "n": 1}'
    assert chunk.metadata == {
        "txt": ["a cat", None, None, None, None],
        "json": [None, json, json, None, '{"class": 4}'],
    }
    assert chunk.sizes.tolist() == [7, 4, 5, 4, 4]
    assert chunk.mtimes.tolist() == [7_000_000_000] * 5
    assert source.ignored == 3
    assert [data for _, data in contents(source)] == [b"picture", b"left", b"right", b"bare", b"last"]


def test_option_all_files_reads_every_archive_member_except_label_files(tmp_path: Path):
    source = TarSource(tar(tmp_path / "a.tar", [("a.bin", b"x"), ("a.cls", b"1"), ("b.jpg", b"y")]), all_files=True)
    assert keys(source) == [b"a.tar/a.bin", b"a.tar/b.jpg"]
    assert whole(source).labels == ["1", None]


def test_archive_source_reads_a_folder_of_archives_in_sorted_order(tmp_path: Path):
    for name in ("b/1.tar", "a.tar", "b/0.tar"):
        tar(tmp_path / name, [("x.jpg", name.encode())])
    (tmp_path / "a_stats.json").write_text("{}")
    source = open_source(tmp_path)
    assert source.kind == "tar"
    assert source.root == tmp_path
    assert contents(source) == [
        (b"a.tar/x.jpg", b"a.tar"),
        (b"b/0.tar/x.jpg", b"b/0.tar"),
        (b"b/1.tar/x.jpg", b"b/1.tar"),
    ]
    assert [len(chunk) for chunk in source.chunks(2)] == [2, 1]
    (tmp_path / "b" / "picture.jpg").write_bytes(b"x")
    assert open_source(tmp_path).kind == "folder"


def test_root_option_sets_keys_and_locations_of_archive_members(tmp_path: Path):
    path = tar(tmp_path / "data" / "a.tar", [("x.jpg", b"1")])
    assert contents(open_source(path, root=tmp_path)) == [(b"data/a.tar/x.jpg", b"1")]
    (tmp_path / "other").mkdir()
    elsewhere = open_source(path, root=tmp_path / "other")
    assert whole(elsewhere).locations == [os.fsencode(path)]
    assert contents(elsewhere) == [(b"a.tar/x.jpg", b"1")]


def test_links_and_special_members_of_an_archive_become_failures(tmp_path: Path):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        for name, kind, link in (
            ("link.jpg", tarfile.SYMTYPE, "/etc/passwd"),
            ("hard.jpg", tarfile.LNKTYPE, "plain.jpg"),
            ("fifo.jpg", tarfile.FIFOTYPE, ""),
            ("null.jpg", tarfile.CHRTYPE, ""),
            ("directory.jpg", tarfile.DIRTYPE, ""),
            ("/absolute.jpg", tarfile.REGTYPE, ""),
            ("a/../../up.jpg", tarfile.REGTYPE, ""),
            ("plain.jpg", tarfile.REGTYPE, ""),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.size = kind, link, 2 if kind == tarfile.REGTYPE else 0
            archive.addfile(info, io.BytesIO(b"xy"))
    chunk = whole(open_source(path))
    sizes = dict(zip((key.removeprefix(b"a.tar/") for key in chunk.keys), chunk.sizes.tolist(), strict=True))
    bad = (b"link.jpg", b"hard.jpg", b"fifo.jpg", b"null.jpg", b"/absolute.jpg", b"a/../../up.jpg")
    assert sizes == {**dict.fromkeys(bad, -1), b"plain.jpg": 2}
    for offset, size in zip(chunk.offsets[:-1], chunk.sizes[:-1], strict=True):
        with pytest.raises(ReadFailure) as caught:
            read_picture(tmp_path, b"a.tar", int(offset), int(size), limit=100)
        assert caught.value.reason == "not-a-file"


def damaged(path: Path) -> str:
    with pytest.raises(FeatstoreError, match="is no whole tar archive") as caught:
        keys(open_source(path))
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_archive_source_rejects_a_truncated_archive(tmp_path: Path):
    path = tar(tmp_path / "a.tar", [(f"{i}.jpg", b"x" * 700) for i in range(3)])
    content = path.read_bytes()
    end = 3 * (512 + 1024)
    for length in (*range(0, end + 512, 256), end + 511):
        path.write_bytes(content[:length])
        damaged(path)
    path.write_bytes(content[: end + 512])
    assert len(keys(open_source(path))) == 3


def test_archive_source_rejects_damaged_and_concatenated_archives(tmp_path: Path):
    path = tar(tmp_path / "a.tar", [(f"{i}.jpg", b"x" * 700) for i in range(3)])
    content = path.read_bytes()
    flipped = bytearray(content)
    flipped[1536 + 100] ^= 1
    path.write_bytes(flipped)
    assert "damaged header" in damaged(path)
    path.write_bytes(content + content)
    assert "data after the end-of-archive marker" in damaged(path)
    path.write_bytes(content[:1536] + bytes(1024) + content[1536:])
    damaged(path)
    path.write_bytes(b"\xff\xd8\xff" * 1000)
    damaged(path)


@pytest.mark.parametrize("size", [b"-1024", b"-512", b"99999999999999", b"1e3", b"x"])
def test_malformed_size_in_an_archive_header_causes_no_crash(tmp_path: Path, size: bytes):
    record = b"size=" + size + b"\n"
    record = b"%d %s" % (len(record) + 3, record)
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        extended = tarfile.TarInfo("x")
        extended.type, extended.size = tarfile.XHDTYPE, len(record)
        for info, data in ((tarfile.TarInfo("first.jpg"), b""), (extended, record), (tarfile.TarInfo("a.jpg"), b"")):
            archive.addfile(info, io.BytesIO(data))
    error = error_of(lambda: whole(open_source(path)))
    if error is None:
        # tarfile reads a malformed size as 0.
        assert size in (b"1e3", b"x")
        assert whole(open_source(path)).sizes.tolist() == [0, 0]
    else:
        assert "is no whole tar archive" in str(error)


def test_huge_size_in_an_archive_header_allocates_no_memory(tmp_path: Path):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        info = tarfile.TarInfo("x")
        info.type, info.size = tarfile.GNUTYPE_LONGNAME, 0
        archive.addfile(info)
    content = bytearray(path.read_bytes())
    huge = tarfile.TarInfo("x")
    huge.type, huge.size = tarfile.GNUTYPE_LONGNAME, 1 << 32
    content[:512] = huge.tobuf()[:512]
    path.write_bytes(content)
    os.truncate(path, (1 << 32) + 4096)
    tracemalloc.start()
    try:
        damaged(path)
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


def test_archive_source_rejects_compressed_archives(tmp_path: Path):
    with tarfile.open(tmp_path / "a.tar", "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("a.jpg"))
    with pytest.raises(UsageError, match="is compressed; decompress it first"):
        open_source(tmp_path / "a.tar")
    (tmp_path / "a.tar").rename(tmp_path / "a.tar.gz")
    with pytest.raises(UsageError, match="is compressed; decompress it first"):
        open_source(tmp_path / "a.tar.gz")


def test_archive_source_does_not_block_on_a_fifo(tmp_path: Path):
    os.mkfifo(tmp_path / "a.tar")
    with pytest.raises(UsageError, match="is no file"):
        open_source(tmp_path / "a.tar")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([("a.json", b"{"), ("a.jpg", b"x")], "a.json is no JSON"),
        ([("a.json", b"[" * 100_000), ("a.jpg", b"x")], "a.json is no JSON"),
        ([("a.cls", b"1"), ("a.cls", b"2"), ("a.jpg", b"x")], "second .cls"),
        ([("a.txt", b"x"), ("b.bin", b"y")], "holds no pictures; 2 files"),
        ([], "holds no pictures"),
    ],
)
def test_archive_source_rejects_unreadable_labels_and_missing_pictures(
    tmp_path: Path, files: list[tuple[str, bytes]], message: str
):
    with pytest.raises(UsageError, match=message):
        keys(open_source(tar(tmp_path / "a.tar", files)))


def test_json_file_in_an_archive_without_its_picture_is_not_parsed(tmp_path: Path):
    source = open_source(tar(tmp_path / "a.tar", [("annotations.json", b"no json"), ("a.jpg", b"x")]))
    assert keys(source) == [b"a.tar/a.jpg"]
    assert source.ignored == 1


@pytest.mark.slow
def test_archive_label_applies_to_all_10005_pictures_of_its_sample(tmp_path: Path):
    files = [("img.cls", b"7"), *((f"img.{i}.jpg", b"") for i in range(10_005))]
    chunk = whole(open_source(tar(tmp_path / "a.tar", files)))
    assert len(chunk) == 10_005
    assert set(chunk.labels) == {"7"}
    late = whole(open_source(tar(tmp_path / "a.tar", [*files[1:], ("img.cls", b"8")])))
    assert (len(late), set(late.labels)) == (10_005, {"8"})


@pytest.mark.slow
def test_listing_an_archive_of_many_members_takes_little_memory(tmp_path: Path):
    peaks = []
    for count in (1000, 4000):
        source = open_source(
            tar(tmp_path / "a.tar", [(f"{i:06}.jpg", b"") for i in range(count)], form=tarfile.USTAR_FORMAT)
        )
        tracemalloc.start()
        assert sum(len(chunk) for chunk in source.chunks(250)) == count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (b"a/b.c/d.seg.png", (b"a/b.c/d", b"seg.png")),
        (b"000.JPG", (b"000", b"jpg")),
        (b"a/none", (b"a/none", b"")),
    ],
)
def test_name_of_an_archive_member_is_split_at_its_first_dot(name: bytes, expected: tuple[bytes, bytes]):
    assert sample_of(name) == expected


part = st.binary(min_size=1, max_size=8).map(lambda name: b"_" + name.translate(None, b"\0/"))


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.lists(part, min_size=1, max_size=3), st.integers(0, 1100)), min_size=1, max_size=4),
    st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]),
    st.floats(0, 2e9),
    st.booleans(),
)
def test_archive_members_with_names_of_any_bytes_are_read_unchanged(
    members: list[tuple[list[bytes], int]], form: int, mtime: float, long: bool
):
    files = [
        (os.fsdecode(b"/".join([b"x" * 150 * long + part for part in parts]) + b".jpg"), bytes([65 + index]) * size)
        for index, (parts, size) in enumerate(members)
    ]
    with tempfile.TemporaryDirectory() as directory:
        path = tar(
            Path(directory, "o\nd d.tar"), files, mtime=mtime if form == tarfile.PAX_FORMAT else int(mtime), form=form
        )
        source = open_source(path)
        chunk = whole(source)
        assert chunk.keys == [b"o\nd d.tar/" + os.fsencode(name) for name, _ in files]
        assert chunk.sizes.tolist() == [len(data) for _, data in files]
        assert all(abs(found / 1e9 - mtime) <= 1 for found in chunk.mtimes.tolist())
        for index, (_, data) in enumerate(files):
            if data:
                offset, size = int(chunk.offsets[index]), int(chunk.sizes[index])
                picture = read_picture(source.root, b"o\nd d.tar", offset, size, limit=2000)
                assert (picture.data, picture.mtime_ns) == (data, chunk.mtimes[index])


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_damaged_archive_gives_all_pictures_or_a_one_line_error(data: st.DataObject):
    with tempfile.TemporaryDirectory() as directory:
        path = tar(Path(directory, "a.tar"), [("ä" * 60 + ".jpg", b"x"), ("b.jpg", b"y"), ("b.cls", b"1")])
        content = bytearray(path.read_bytes()[: 9 * 512])
        for _ in range(data.draw(st.integers(1, 3))):
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
        path.write_bytes(content)
        error = error_of(lambda: open_source(path))
        if error is None:
            found: list[bytes] = []
            error = error_of(lambda: found.extend(keys(open_source(path))))
            assert len(found) <= 2
        assert error is None or str(error).isprintable()


@pytest.mark.parametrize("seed", range(3))
def test_archive_labels_may_come_before_or_after_their_pictures(tmp_path: Path, seed: int):
    files = [(f"{n:02}.jpg", b"x") for n in range(20)] + [(f"{n:02}.cls", str(n % 3).encode()) for n in range(20)]
    random.Random(seed).shuffle(files)
    source = TarSource(tar(tmp_path / "a.tar", files))
    chunk = whole(source)
    assert {key[6:8]: label for key, label in zip(chunk.keys, chunk.labels, strict=True)} == {
        b"%02d" % n: str(n % 3) for n in range(20)
    }
    assert (source.ignored, source.read_as[:9]) == (0, "3 classes")


def test_archive_labels_match_pictures_whose_names_contain_dots(tmp_path: Path):
    files = [
        ("img_v1.0.jpg", b""), ("img_v1.0.cls", b"a"),
        ("img_v1.1.jpg", b""), ("img_v1.1.cls", b"b"),
        ("x.left.jpg", b""), ("x.cls", b"c"),
        ("d.1/2.3.jpg", b""), ("d.1/2.3.json", b'{"label": "d"}'),
    ]  # fmt: skip
    for order in (files, files[1::2] + files[::2]):
        chunk = whole(TarSource(tar(tmp_path / "a.tar", order)))
        labels = dict(zip(chunk.keys, chunk.labels, strict=True))
        assert labels == {
            b"a.tar/img_v1.0.jpg": "a", b"a.tar/img_v1.1.jpg": "b", b"a.tar/x.left.jpg": "c", b"a.tar/d.1/2.3.jpg": "d",
        }  # fmt: skip


def test_layout_option_reads_classes_from_folders_of_an_archive(tmp_path: Path):
    path = tar(tmp_path / "a.tar", [("ant/1.jpg", b""), ("bee/2.jpg", b"")])
    source = TarSource(path)
    assert whole(source).labels == [None, None]
    assert any("folders such as ant, which --layout class" in note for note in source.notes)
    assert whole(open_source(path, layout="class")).labels == ["ant", "bee"]
    path = tar(tmp_path / "b.tar", [("train/ant/1.jpg", b""), ("train/bee/2.jpg", b""), ("train/bee/2.cls", b"wasp")])
    chunk = whole(open_source(path, layout="split/class"))
    assert (chunk.labels, chunk.splits) == (["ant", "wasp"], ["train", "train"])


@pytest.mark.parametrize("value", ["[1, 0]", '{"name": "cat"}'])
def test_archive_rejects_lists_and_objects_as_json_labels(tmp_path: Path, value: str):
    path = tar(tmp_path / "a.tar", [("a.jpg", b""), ("a.json", f'{{"label": {value}, "species": "cat"}}'.encode())])
    with pytest.raises(UsageError, match=r"a.json has a label that is a (list|struct).*--label-column ''"):
        whole(open_source(path))
    assert whole(open_source(path, label_column="")).labels == [None]
    assert whole(open_source(path, label_column="species")).labels == ["cat"]


def test_json_labels_in_an_archive_are_found_under_usual_column_names(tmp_path: Path):
    path = tar(tmp_path / "a.tar", [("a.jpg", b""), ("a.json", b'{"Category": 3.0, "subset": "val", "y": 9}')])
    chunk = whole(open_source(path))
    assert (chunk.labels, chunk.splits) == (["3"], ["val"])


def test_archive_labels_without_a_picture_count_as_ignored(tmp_path: Path):
    source = TarSource(tar(tmp_path / "a.tar", [("a.jpg", b""), ("a.cls", b"x"), ("b.cls", b"y")]))
    whole(source)
    assert source.ignored == 1
    assert any("1 .cls file belongs to no picture" in note for note in source.notes)


@pytest.mark.parametrize(
    ("start", "words"), [(b"PK\x03\x04", "is a zip archive; unpack it"), (b"Rar!\x1a", "is a rar archive")]
)
def test_zip_and_rar_archives_are_not_read_as_lists_of_paths(tmp_path: Path, start: bytes, words: str):
    (tmp_path / "a.zip").write_bytes(start + bytes(100))
    with pytest.raises(UsageError, match=words):
        open_source(tmp_path / "a.zip")


def test_archive_labels_match_pictures_named_in_another_unicode_form(tmp_path: Path):
    files = [("caf\u00e9.jpg", b""), ("cafe\u0301.cls", b"3"), ("b.jpg", b""), ("b.cls", b"\xef\xbb\xbf3\r\n")]
    for order in (files, files[::2] + files[1::2]):
        assert whole(TarSource(tar(tmp_path / "a.tar", order))).labels == ["3", "3"]
