"""Extraction of regions of pictures (boxes from a table, or tiles).

Vectors equal those of saved crops, each picture is decoded once, and only changed regions are extracted again.
"""

from __future__ import annotations

import csv
import json
import tarfile
import threading
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from featstore.decode import DECODERS, load_rgb, regions, tiff
from featstore.errors import UsageError
from featstore.sources.regions import box_name
from featstore.stages.compact import compact
from featstore.stages.extract import ExtractOptions, extract_in_process, extract_supervised
from featstore.stages.extract.jobs import Job, extract_jobs
from featstore.stages.extract.trial import try_picture
from featstore.stages.label import label
from featstore.stages.remove import purge, remove, restore
from featstore.store import FeatureStore
from featstore.store.claims import work_folder
from featstore.store.culprits import write_culprit
from featstore.store.labels import set_columns
from featstore.store.manifest import Manifest
from featstore.store.pictures import Pictures
from featstore.store.repair.verify import verify_store
from tests.made import extract, picture, tiny_backbone

BOXES = ("x", "y", "w", "h")
HEADER = ["path", *BOXES, "label"]
NETWORK = tiny_backbone(1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six pictures, two of them turned by their EXIF orientation."""
    folder = tmp_path / "p"
    folder.mkdir()
    for number, orientation in enumerate((1, 6, 3, 1, 1, 1)):
        exif = Image.Exif()
        exif[0x0112] = orientation
        picture(number, (60 + number, 40)).save(folder / f"{number}.jpg", exif=exif)
    return folder


@pytest.fixture
def decoded(monkeypatch) -> list[int]:
    """Return a list to which each decoding of a picture appends the size of its file."""
    seen: list[int] = []

    def counted(data: bytes, **options: int):
        seen.append(len(data))
        return load_rgb(data, **options)

    monkeypatch.setattr(regions, "load_rgb", counted)
    return seen


def table(path: Path, rows: Iterable[tuple[object, ...]], header: list[str] = HEADER) -> Path:
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def some_boxes(count: int = 4) -> list[tuple[object, ...]]:
    random = np.random.default_rng(0)
    rows = [
        (f"{number}.jpg", *random.integers(0, 20, 2).tolist(), *random.integers(5, 18, 2).tolist(), f"c{number % 2}")
        for number in range(6)
        for _ in range(count)
    ]
    random.shuffle(rows)
    return [tuple(row) for row in rows]


def run(source: Path, store: Path, **options: object):
    return extract(source, store, **{"backbone": NETWORK, "batch": 5, "boxes": BOXES, **options})


def save_crops(store: FeatureStore, root: Path, folder: Path) -> None:
    """Save the regions of ``store`` as PNG files whose names sort in the order of the rows."""
    folder.mkdir()
    columns = [store.column(name).tolist() for name in ("parent", *BOXES)]
    for number, (parent, x, y, w, h) in enumerate(zip(*columns, strict=True)):
        load_rgb((root / parent).read_bytes()).crop((x, y, x + w, y + h)).save(folder / f"{number:05d}.png")


def features(store: Path) -> bytes:
    return np.asarray(FeatureStore.open(store).features()).tobytes()


@pytest.mark.parametrize("decode", ["exact", "fast"])
def test_vectors_of_regions_equal_those_of_crops_and_each_picture_is_decoded_once(folder, tmp_path, decoded, decode):
    source = table(folder / "t.csv", some_boxes())
    report = run(source, tmp_path / "s", decode=decode)
    assert (report.vectors, report.failures, len(decoded)) == (24, 0, 6)
    store = FeatureStore.open(tmp_path / "s")
    boxes = zip(*(store.column(name).tolist() for name in ("parent", *BOXES)), strict=True)
    assert store.keys[:] == ["{}#{},{},{},{}".format(*box) for box in boxes]
    save_crops(store, folder, tmp_path / "crops")
    extract(tmp_path / "crops", tmp_path / "c", backbone=NETWORK, batch=5, decode=decode)
    assert features(tmp_path / "c") == features(tmp_path / "s")
    assert Manifest.read(tmp_path / "s").requires == ("regions",)
    assert verify_store(tmp_path / "s").problems == []


def test_picture_with_more_regions_than_a_batch_is_decoded_once(folder, tmp_path, decoded):
    rows = [("0.jpg", number % 30, 0, 10, 10, "a") for number in range(23)]
    assert run(table(folder / "t.csv", rows), tmp_path / "s", batch=4).vectors == 23
    assert len(decoded) == 1


def test_only_changed_boxes_and_pictures_are_extracted_again(folder, tmp_path):
    rows = some_boxes()
    source = table(folder / "t.csv", [(*row, number) for number, row in enumerate(rows)], [*HEADER, "region"])
    run(source, tmp_path / "s")
    same = run(source, tmp_path / "s").change
    assert (same.unchanged, same.added, same.changed, same.removed) == (24, 0, 0, 0)
    rows[3] = (rows[3][0], 1, 2, 7, 8, rows[3][5])
    table(folder / "t.csv", [(*row, number) for number, row in enumerate(rows) if number != 5], [*HEADER, "region"])
    change = run(source, tmp_path / "s").change
    assert (change.unchanged, change.added, change.changed, change.removed) == (22, 0, 1, 1)
    picture(9, (60, 40)).save(folder / "4.jpg")
    change = run(source, tmp_path / "s").change
    own = sum(row[0] == "4.jpg" for number, row in enumerate(rows) if number != 5)
    assert (change.changed, change.unchanged) == (own, 23 - own)
    run(source, tmp_path / "new")
    pair = [FeatureStore.open(tmp_path / name) for name in ("s", "new")]
    orders = [np.argsort(list(store.keys)) for store in pair]
    np.testing.assert_allclose(*(np.asarray(s.features())[o] for s, o in zip(pair, orders, strict=True)), atol=1e-6)
    compact(tmp_path / "s")
    compacted = FeatureStore.open(tmp_path / "s")
    assert compacted.parents.tolist() == pair[0].parents.tolist()
    assert compacted.column("w").tolist() == pair[0].column("w").tolist()
    assert verify_store(tmp_path / "s").problems == []
    assert run(source, tmp_path / "s").change.unchanged == 23


def test_unnamed_boxes_keep_their_keys_if_table_lines_change(folder, tmp_path):
    rows = some_boxes()
    source = table(folder / "t.csv", rows)
    run(source, tmp_path / "s")
    before = FeatureStore.open(tmp_path / "s").to_pandas().set_index("key")
    table(folder / "t.csv", [("0.jpg", 0, 0, 9.50, 9, "new"), *rows[:0:-1]])
    change = run(source, tmp_path / "s").change
    assert (change.unchanged, change.added, change.changed, change.removed) == (23, 1, 0, 1)
    after = FeatureStore.open(tmp_path / "s").to_pandas().set_index("key")
    assert set(after.index) - set(before.index) == {"0.jpg#0,0,9.5,9"}
    kept = after.index.intersection(before.index)
    assert after.loc[kept, ["id", *BOXES]].equals(before.loc[kept, ["id", *BOXES]])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {},
            r"the key '0.jpg#1,2,5,5' is there more than once; name boxes that are equal by a column .*--region-column",
        ),
        ({"region_column": "label"}, "the key '0.jpg#a' is there more than once; name boxes that are equal"),
        ({"boxes": None}, "the key '0.jpg' is .*; if its lines are boxes of pictures, add --boxes x,y,w,h; otherwise"),
        (
            {"boxes": None, "tiles": 30},
            "the key '0.jpg#0,0,30,30' is .*; if its lines are boxes .*, add --boxes x,y,w,h, and leave --tiles out",
        ),
    ],
)
def test_error_for_duplicate_boxes_names_the_remedy(folder, tmp_path, options, message):
    source = table(folder / "t.csv", [("0.jpg", 1, 2, 5, 5, "a"), ("0.jpg", 1.0, 2, 5, 5, "a")])
    with pytest.raises(UsageError, match=message):
        run(source, tmp_path / "s", **options)


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ([12, 30.0, -0.0, 1e300], b"12,30,0,1e+300"),
        ([0.1, float("nan"), float("inf"), 2.50], b"0.1,nan,inf,2.5"),
    ],
)
def test_box_name_writes_each_number_with_the_fewest_decimals(values, name):
    assert box_name(values) == name


def test_unusable_boxes_become_failures_and_overhanging_boxes_are_clipped(folder, tmp_path):
    rows = [
        ("0.jpg", -5, -5, 20, 20, "clipped"),
        ("0.jpg", 200, 0, 5, 5, "outside"),
        ("0.jpg", 3, 3, 0, 5, "empty"),
        ("0.jpg", 3, 3, -4, 5, "negative"),
        ("0.jpg", 3, "nan", 4, 5, "nan"),
        ("0.jpg", "", "", "", "", "whole"),
        ("gone.jpg", 1, 1, 5, 5, "missing"),
        ("0.jpg", 1, 1, "1e30", 5, "far"),
    ]
    report = run(table(folder / "t.csv", rows), tmp_path / "s")
    store = FeatureStore.open(tmp_path / "s")
    assert dict(
        zip(store.labels.tolist(), zip(*(store.column(n).tolist() for n in BOXES), strict=True), strict=True)
    ) == {
        "clipped": (0, 0, 15, 15),
        "whole": (None,) * 4,
        "far": (1, 1, 59, 5),
    }
    failures = {key: failure.reason for key, failure in store.failures()}
    bad = ("200,0,5,5", "3,3,0,5", "3,3,-4,5", "3,nan,4,5")
    assert failures == {**{f"0.jpg#{box}": "bad-box" for box in bad}, "gone.jpg#1,1,5,5": "missing"}
    notes = "\n".join(report.notes)
    for text in (
        "2 boxes reach beyond their pictures and are clipped (the first: '0.jpg#-5,-5,20,20')",
        "1 box is outside its picture: a failure (the first: '0.jpg#200,0,5,5')",
        "2 boxes are without an area in pixels: failures",
        "1 box is with a value that is no number: a failure",
    ):
        assert text in notes
    assert "1 row without one" in report.read_as
    extract(folder, tmp_path / "whole", backbone=NETWORK, batch=5)
    whole = FeatureStore.open(tmp_path / "whole")
    mine = store.features(rows=store.index_of(["0.jpg"]))
    np.testing.assert_allclose(mine, whole.features(rows=whole.index_of(["0.jpg"])), atol=1e-6)


def test_boxes_in_fractions_are_recognised_unless_box_unit_is_given(folder, tmp_path):
    source = table(folder / "t.csv", [("0.jpg", 0.5, 0.25, 0.5, 0.5, "a"), ("2.jpg", 0, 0, 1.01, 1, "b")])
    report = run(source, tmp_path / "s")
    assert "boxes in shares of the picture (--box-unit changes it)" in report.read_as
    store = FeatureStore.open(tmp_path / "s")
    assert [store.column(name).tolist() for name in BOXES] == [[30, 0], [10, 0], [30, 62], [20, 40]]
    assert run(source, tmp_path / "pixels", box_unit="pixels").failures == 1


@pytest.mark.parametrize(
    ("options", "header", "message"),
    [
        ({"boxes": ("x", "y", "w")}, HEADER, "has to name four columns"),
        ({"boxes": ("x", "y", "w", "height")}, HEADER, "has no column 'height' for its boxes"),
        ({"tiles": 8}, HEADER, "exclude each other"),
        ({"boxes": None, "tiles": 8, "overlap": 8}, HEADER, "less than the tiles' side"),
        ({"boxes": None, "region_column": "label"}, HEADER, "name their columns with boxes"),
        ({"region_column": "label"}, HEADER, "line 2 has no name of its region"),
    ],
)
def test_extract_rejects_invalid_box_and_tile_options(folder, tmp_path, options, header, message):
    source = table(folder / "t.csv", [("0.jpg", 1, 1, 5, 5, "")], header)
    with pytest.raises(UsageError, match=message):
        run(source, tmp_path / "s", **options)


def test_extract_renames_table_columns_named_like_region_columns(folder, tmp_path):
    source = table(
        folder / "t.csv", [("0.jpg", 1, 2, 5, 6, "p"), ("1.jpg", 1, 2, 5, 6, "q")], ["path", *BOXES, "parent"]
    )
    report = run(source, tmp_path / "s")
    told = "of the table is called parent_ in the store: parent, x, y, w, h are those of its regions"
    assert (report.classes, report.notes) == (0, [f"the column parent {told}"])
    store = FeatureStore.open(tmp_path / "s")
    assert (store.column("parent_").tolist(), store.column("y").tolist()) == (["p", "q"], [2, 2])
    labels = table(folder / "l.csv", [(key, 7, 8, 9, 10, "a") for key in store.keys], ["key", *BOXES, "note"])
    report = label(tmp_path / "s", labels)
    assert (report.columns, FeatureStore.open(tmp_path / "s").labels.tolist()) == (
        ["x", "y", "w", "h", "note"],
        [None] * 2,
    )
    assert report.notes == [
        f"the columns x, y, w, h of the table are called x_, y_, w_, h_ {told.partition(' called parent_ ')[2]}"
    ]


def test_extract_rejects_text_in_place_of_a_number_in_a_box(folder, tmp_path):
    with pytest.raises(UsageError, match="line 3 has 'wide' as w, which is no number"):
        run(table(folder / "t.csv", [("0.jpg", 1, 1, 5, 5, ""), ("0.jpg", 1, 1, "wide", 5, "")]), tmp_path / "s")


def test_store_of_tiles_refuses_other_tile_options(folder, tmp_path):
    extract(folder, tmp_path / "s", backbone=NETWORK, tiles=16)
    for options in ({}, {"tiles": 17}, {"tiles": 16, "overlap": 4}):
        with pytest.raises(UsageError, match=r"has tiles of 16 pixels \(overlap 0\) of .* use the same options"):
            extract(folder, tmp_path / "s", backbone=NETWORK, **options)


def test_tiles_cover_each_picture_and_have_the_requested_size(folder, tmp_path, decoded):
    (folder / "damaged.jpg").write_bytes((folder / "0.jpg").read_bytes()[:-200])
    (folder / "text.jpg").write_bytes(b"no picture")
    picture(3, (10, 40)).save(folder / "thin.png")
    report = extract(folder, tmp_path / "s", backbone=NETWORK, tiles=16, overlap=4, layout="flat")
    store = FeatureStore.open(tmp_path / "s")
    assert len(decoded) == 9
    assert report.read_as.endswith("9 pictures cut into 112 tiles of 16 x 16 pixels with an overlap of 4")
    boxes = {parent: [] for parent in store.parents}
    for parent, *box in zip(store.parents, *(store.column(name).tolist() for name in BOXES), strict=True):
        boxes[parent].append(tuple(box))
    assert {box[2:] for parent, own in boxes.items() for box in own if parent != "thin.png"} == {(16, 16)}
    assert boxes["thin.png"] == [(0, 0, 10, 16), (0, 12, 10, 16), (0, 24, 10, 16)]
    for parent, own in boxes.items():
        covered = np.zeros(load_rgb((folder / parent).read_bytes()).size[::-1], bool)
        for x, y, w, h in own:
            covered[y : y + h, x : x + w] = True
        assert covered.all()
    failed = {key.partition("#")[0]: failure.reason for key, failure in store.failures()}
    assert failed == {"damaged.jpg": "truncated", "text.jpg": "not-a-picture"}
    assert "thin.png#0,12,10,16" in list(store.keys)


def test_extract_reads_boxes_from_a_coco_file(folder, tmp_path):
    data = {
        "images": [
            {"id": 7, "file_name": "0.jpg"},
            {"id": 8, "file_name": "gone.jpg"},
            {"id": 9, "file_name": "1.jpg"},
        ],
        "categories": [{"id": 1, "name": "ant"}],
        "annotations": [
            {"id": 1, "image_id": 8, "category_id": 1, "bbox": [1, 1, 5, 5], "score": 0.5},
            {"id": 2, "image_id": 7, "category_id": 1, "bbox": [1.2, 1, 5, 5.6], "segmentation": [[1, 2, 3]]},
            {"id": 3, "image_id": 7, "category_id": 44, "bbox": [2, 2, 50, 5], "score": 1},
        ],
    }
    path = tmp_path / "a.json"
    path.write_text(json.dumps(data))
    report = run(path, tmp_path / "s", boxes=None, root=str(folder))
    store = FeatureStore.open(tmp_path / "s")
    assert store.keys[:] == ["0.jpg#2", "0.jpg#3"]
    assert (store.labels.tolist(), store.column("score").tolist()) == (["ant", None], [None, 1.0])
    assert [store.column(name).tolist() for name in BOXES] == [[1, 2], [1, 2], [5, 50], [6, 5]]
    assert [(key, failure.reason) for key, failure in store.failures()] == [("gone.jpg#1", "missing")]
    notes = "\n".join(report.notes)
    assert "1 annotation has a category that the file does not name (the first: 44): no label" in notes
    assert "1 picture has no annotation, and so no row" in notes


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is no JSON"),
        ("[1]", "is no object with images and annotations"),
        ('{"images": []}', "has no list of annotations"),
        ('{"images": [], "annotations": []}', "has no annotations"),
        ('{"images": [], "annotations": [{"image_id": 5}]}', "annotation 0 is of the image 5, which is not among"),
        ('{"images": [{"id": 1}], "annotations": [{"image_id": 1}]}', "image 0 has no file_name"),
        (
            '{"images": [{"id": 1, "file_name": "a"}], "annotations": [{"image_id": 1, "id": 3, "bbox": [1]}]}',
            "the bbox of the annotation 3 is no list of four numbers",
        ),
        (
            '{"images": [{"id": 1}, {"id": 1}], "annotations": []}',
            "2 of its images have the id 1; give each an id of its own",
        ),
        (
            '{"images": [{"id": 1, "file_name": "a"}], "annotations": [{"image_id": 1, "id": 3, "bbox": [1, 1, 2, 2]}, '
            '{"image_id": 1, "id": 3, "bbox": [1, 1, 3, 3]}]}',
            "the key 'a#3' is there more than once; give each annotation an id of its own, or remove the doubled one",
        ),
        ('{"images": [{"id": [1]}], "annotations": []}', "has images whose id is no number or text"),
    ],
)
def test_extract_rejects_json_that_is_not_coco(tmp_path, text, message):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(UsageError, match=message):
        run(tmp_path / "a.json", tmp_path / "s", boxes=None)


def test_regions_of_a_store_can_be_extracted_with_another_backbone(folder, tmp_path, decoded):
    source = table(folder / "t.csv", some_boxes(2))
    run(source, tmp_path / "old")
    run(tmp_path / "old", tmp_path / "new", backbone=tiny_backbone(2, name="other"), boxes=None)
    run(source, tmp_path / "own", backbone=tiny_backbone(2, name="other"))
    old, new = FeatureStore.open(tmp_path / "old"), FeatureStore.open(tmp_path / "new")
    assert (old.keys[:], old.parents.tolist()) == (new.keys[:], new.parents.tolist())
    assert features(tmp_path / "new") == features(tmp_path / "own")
    assert len(decoded) == 18


def test_extraction_into_two_stores_decodes_each_picture_with_regions_once(folder, tmp_path, decoded):
    source, networks = table(folder / "t.csv", some_boxes()), [NETWORK, tiny_backbone(2, name="other")]
    options = [ExtractOptions(backbone=each, batch=4, boxes=BOXES) for each in networks]
    extract_jobs([Job(source, tmp_path / each.backbone.name, each) for each in options])
    assert len(decoded) == 6
    for each in options:
        extract_in_process(source, tmp_path / "own" / each.backbone.name, each)
        assert features(tmp_path / "own" / each.backbone.name) == features(tmp_path / each.backbone.name)


def test_html_pages_show_the_region_instead_of_the_whole_picture(folder, tmp_path):
    run(table(folder / "t.csv", [("1.jpg", 3, 4, 10, 20, "a")]), tmp_path / "s")
    pictures = Pictures(FeatureStore.open(tmp_path / "s"))
    shown = np.asarray(pictures("1.jpg#3,4,10,20"))
    assert (shown == np.asarray(load_rgb((folder / "1.jpg").read_bytes()))[4:24, 3:13]).all()
    assert pictures.address("1.jpg#3,4,10,20").endswith("/1.jpg")


def test_older_versions_can_read_a_store_without_regions(folder, tmp_path):
    extract_in_process(folder, tmp_path / "s", ExtractOptions(backbone=NETWORK))
    store = FeatureStore.open(tmp_path / "s")
    assert (Manifest.read(tmp_path / "s").requires, store.has_regions) == ((), False)
    assert "parent" not in store.columns
    assert store.parents.tolist() == store.keys[:]


def test_crash_of_the_decoder_fails_all_regions_of_a_picture(folder, tmp_path, decoded):
    rows = [(f"{number}.jpg", at, 1, 5, 5, "a") for number in range(3) for at in range(4)]
    stop = threading.Event()
    stop.set()
    run(table(folder / "t.csv", rows), tmp_path / "s", stop=stop)
    work_folder(tmp_path / "s", 0).mkdir(parents=True)
    write_culprit(tmp_path / "s", 0, 5, "decoder-died", "it died")
    assert run(folder / "t.csv", tmp_path / "s", batch=2).reasons == {"decoder-died": 4}
    assert len(decoded) == 2
    assert {key[:5] for key, _ in FeatureStore.open(tmp_path / "s").failures()} == {"1.jpg"}


@pytest.mark.parametrize(("region", "reason"), [([1, 1, 5, 5, 5], ""), ([], ""), ([99, 1, 5, 5, 5], "bad-box")])
def test_suspected_region_is_decoded_alone_with_its_box_and_decoder(folder, decoded, region, reason):
    limits = {"preprocessing": NETWORK.preprocessing.to_dict(), "max_pixels": 1 << 20, "max_bytes": 1 << 20}
    for decoder in DECODERS.values():
        assert try_picture(str(folder), "0.jpg", -1, -1, **limits, decoder=decoder, region=region) == reason
    assert len(decoded) == 2
    assert try_picture(str(folder), "0.jpg", -1, -1, **limits, decoder="", region=region) == ""


def test_pictures_in_archives_are_cut_into_tiles(folder, tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.add(folder / "1.jpg", "1.jpg")
    report = extract(tmp_path / "a.tar", tmp_path / "s", backbone=NETWORK, tiles=20)
    assert (report.vectors, report.failures) == (2 * 4, 0)
    extract(folder, tmp_path / "own", backbone=NETWORK, tiles=20, layout="flat")
    own = FeatureStore.open(tmp_path / "own")
    rows = np.flatnonzero(own.parents == "1.jpg")
    np.testing.assert_allclose(FeatureStore.open(tmp_path / "s").features(), own.features(rows=rows), atol=1e-6)


def test_tiles_of_a_large_tiff_are_read_in_parts(folder, tmp_path, monkeypatch, decoded):
    tifffile = pytest.importorskip("tifffile")
    pixels = np.random.default_rng(0).integers(0, 255, (50, 70, 3), np.uint8)
    (tmp_path / "t").mkdir()
    tifffile.imwrite(tmp_path / "t/a.tif", pixels, tile=(16, 16), photometric="rgb")
    extract(tmp_path / "t", tmp_path / "whole", backbone=NETWORK, tiles=20)
    assert len(decoded) == 1
    monkeypatch.setattr(tiff, "STREAMED_PIXELS", 1)
    # The picture exceeds max_pixels and its file exceeds max_bytes, but each tile is within max_pixels.
    report = extract(tmp_path / "t", tmp_path / "s", backbone=NETWORK, tiles=20, max_pixels=400, max_bytes=100)
    assert (report.vectors, report.failures, len(decoded)) == (12, 0, 1)
    assert features(tmp_path / "s") == features(tmp_path / "whole")
    assert (FeatureStore.open(tmp_path / "s").sha256 == FeatureStore.open(tmp_path / "whole").sha256).all()


@pytest.mark.slow
@pytest.mark.usefixtures("warm_workers")
def test_second_supervised_extraction_extracts_no_unchanged_box(folder, tmp_path):
    source = table(folder / "t.csv", some_boxes(2))
    options = {"backbone": "efficientnet_lite0", "boxes": BOXES}
    report = extract_supervised(source, tmp_path / "s", ExtractOptions(**options))
    assert (report.vectors, report.failures) == (12, 0)
    again = extract_supervised(source, tmp_path / "s", ExtractOptions(**options))
    assert (again.change.unchanged, again.new_vectors) == (12, 0)


def test_remove_takes_one_region_or_all_regions_of_a_picture(folder, tmp_path):
    source = table(folder / "t.csv", some_boxes())
    run(source, tmp_path / "s")
    own = [key for key in FeatureStore.open(tmp_path / "s").keys if key.startswith("1.jpg")]
    assert remove(tmp_path / "s", own[2:3]).copies == 0
    assert remove(tmp_path / "s", ["4.jpg"]).removed == 4
    added = table(folder / "t.csv", [*some_boxes(), ("1.jpg", 1, 1, 9, 9, "c1"), ("4.jpg", 1, 1, 9, 9, "c0")])
    assert run(added, tmp_path / "s").reasons == {"removed": 1}
    keys = set(FeatureStore.open(tmp_path / "s").keys)
    assert {key for key in keys if key.startswith("1.jpg")} == {*own, "1.jpg#1,1,9,9"} - {own[2]}
    assert not any(key.startswith("4.jpg") for key in keys)


def test_remaining_regions_keep_their_boxes_after_other_regions_were_removed(folder, tmp_path):
    source = table(folder / "t.csv", some_boxes())
    run(source, tmp_path / "s")
    before = FeatureStore.open(tmp_path / "s").to_pandas().set_index("key")
    remove(tmp_path / "s", [before.index[5]])
    assert run(source, tmp_path / "s").change.unchanged == 23
    after = FeatureStore.open(tmp_path / "s").to_pandas().set_index("key")
    assert after.equals(before.loc[after.index])


def test_removing_restoring_or_purging_a_picture_key_applies_to_all_its_regions(folder, tmp_path):
    rows = [*some_boxes(2), ("0.jpg", "", "", "", "", "whole")]
    source, store = table(folder / "t.csv", rows), tmp_path / "s"
    run(source, store)
    assert remove(store, ["0.jpg"]).removed == 3
    again = remove(store, ["0.jpg"])
    assert (again.removed, again.before) == (0, 1)
    assert purge(store, ["0.jpg"]).purged == 3
    assert purge(store, ["0.jpg"]).purged == 0
    assert (run(source, store).change.denied, restore(store, ["0.jpg"])) == (3, 3)
    assert run(source, store).change.added == 3


def test_renaming_a_file_does_not_restore_its_removed_tiles(folder, tmp_path):
    options = {"backbone": NETWORK, "tiles": 30}
    extract(folder, tmp_path / "s", **options)
    remove(tmp_path / "s", ["0.jpg", "1.jpg#0,0,30,30"])
    (folder / "0.jpg").rename(folder / "other.jpg")
    report = extract(folder, tmp_path / "s", **options)
    assert (report.change.added, report.change.changed, report.change.denied) == (4, 0, 1)
    assert report.reasons == {"removed": 4}


@pytest.mark.parametrize("compacted", [False, True])
def test_purging_a_picture_key_erases_regions_deleted_from_the_table(folder, tmp_path, compacted):
    rows = some_boxes(2)
    run(table(folder / "t.csv", rows), tmp_path / "s")
    run(table(folder / "t.csv", [row for row in rows if row[0] != "0.jpg"]), tmp_path / "s")
    if compacted:
        compact(tmp_path / "s")
    report = purge(tmp_path / "s", ["0.jpg"])
    assert (report.removal.removed, report.removal.gone, report.denied) == (0, 2, 2)
    left = [path for path in (tmp_path / "s").rglob("*.h5") if b"0.jpg" in path.read_bytes()]
    assert left == []
    assert run(table(folder / "t.csv", rows), tmp_path / "s").change.denied == 2
    with pytest.raises(UsageError, match="the key '9.jpg' is not in the store"):
        remove(tmp_path / "s", ["9.jpg"])


def test_label_refuses_a_picture_key_and_names_the_region_keys(folder, tmp_path):
    source = table(folder / "t.csv", [(f"{at // 2}.jpg", at, 1, 5, 5, "c") for at in range(4)])
    run(source, tmp_path / "s")
    report = set_columns(tmp_path / "s", [b"0.jpg#1,1,5,5", b"0.jpg", b"none.jpg"], {"label": ["a", "b", "c"]})
    assert (report.matched, report.unknown) == (1, 2)
    told = "1 key is that of a picture of which only regions are in the store: name these, as '0.jpg#0,1,5,5' for one of '0.jpg'"
    assert told in report.notes
    with pytest.raises(UsageError, match="2 keys are those of pictures of which only regions"):
        set_columns(tmp_path / "s", [b"0.jpg", b"1.jpg"], {"label": ["b", "c"]})
