from __future__ import annotations

import itertools
import os
import shutil
import threading

import numpy as np
import pytest
import torch
from PIL import Image

from featstore import defaults
from featstore.decode import decode
from featstore.embed import loader
from featstore.embed.pipeline import CLOCK
from featstore.errors import IdentityError, UsageError
from featstore.sources import open_source
from featstore.store import FeatureStore
from featstore.store.claims import Claims
from featstore.store.repair.verify import verify_store
from tests.made import extract, picture, tiny_backbone, write_pictures

NAMES = [
    f"{label}/{number:02d}.{ending}" for label in ("ant", "bee") for number, ending in enumerate(["jpg", "png"] * 5)
]


@pytest.fixture
def folder(tmp_path):
    return write_pictures(tmp_path / "pictures", NAMES)


def run(folder, store, **options):
    options = {"backbone": tiny_backbone(), "engine": "torch", "batch": 4, "unit_rows": 7, **options}
    return extract(folder, store, **options)


def by_key(store):
    return dict(zip(store.keys, store.features(), strict=True))


def assert_same(one, other):
    assert list(one.keys) == list(other.keys)
    assert one.ids.tolist() == other.ids.tolist()
    assert one.features().tobytes() == other.features().tobytes()
    assert one.sha256.tobytes() == other.sha256.tobytes()
    assert one.labels.tolist() == other.labels.tolist()


def test_vectors_equal_the_output_of_the_network_in_torch(folder, tmp_path):
    report = run(folder, tmp_path / "s")
    store = FeatureStore.open(tmp_path / "s")
    assert (report.images, report.vectors, report.failures, report.pending) == (20, 20, 0, 0)
    assert list(store.keys) == sorted(NAMES)
    assert store.labels.tolist() == ["ant"] * 10 + ["bee"] * 10
    backbone = tiny_backbone()
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (backbone.preprocessing.mean, backbone.preprocessing.std))
    for key, vector in by_key(store).items():
        pixels = torch.from_numpy(decode((folder / key).read_bytes(), backbone.preprocessing)).permute(2, 0, 1)
        with torch.inference_mode():
            expected = backbone.module(((pixels / 255 - mean) / std)[None])[0].numpy()
        np.testing.assert_allclose(vector, expected, rtol=1e-5, atol=1e-6)


def test_second_extraction_makes_no_forward_pass_and_changes_no_file(folder, tmp_path):
    run(folder, tmp_path / "s")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "s").rglob("*.h5")}
    report = run(folder, tmp_path / "s")
    assert report.timings["forwarded"] == 0
    assert (report.change.unchanged, report.new_vectors) == (20, 0)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "s").rglob("*.h5")} == before


def test_next_extraction_extracts_changed_pictures_and_removes_deleted_ones(folder, tmp_path):
    run(folder, tmp_path / "s")
    write_pictures(folder, ["ant/x.jpg", "bee/y.png"], seed=90)
    picture(77).save(folder / "ant/00.jpg")
    os.unlink(folder / "bee/01.png")
    report = run(folder, tmp_path / "s")
    assert report.timings["forwarded"] == 3
    change = report.change
    assert (change.added, change.changed, change.removed, change.unchanged) == (2, 1, 1, 18)
    fresh = run(folder, tmp_path / "fresh")
    assert fresh.images == report.images == 21
    one, other = by_key(FeatureStore.open(tmp_path / "s")), by_key(FeatureStore.open(tmp_path / "fresh"))
    assert one.keys() == other.keys()
    for key in one:
        # The two stores were made with batches of different sizes, so the last bits may differ.
        np.testing.assert_allclose(one[key], other[key], rtol=1e-5, atol=1e-6)
    assert verify_store(tmp_path / "s").problems == []


def test_failures_have_a_reason_and_are_retried_on_request(folder, tmp_path):
    (folder / "ant/02.jpg").write_bytes((folder / "ant/02.jpg").read_bytes()[:300])
    (folder / "bee/bad.png").write_bytes(b"<html>")
    (folder / "bee/empty.png").write_bytes(b"")
    report = run(folder, tmp_path / "s")
    assert (report.images, report.vectors, report.failures) == (22, 19, 3)
    store = FeatureStore.open(tmp_path / "s")
    assert {key: failure.reason for key, failure in store.failures()} == {
        "ant/02.jpg": "truncated",
        "bee/bad.png": "not-a-picture",
        "bee/empty.png": "empty",
    }
    assert run(folder, tmp_path / "s").new_failures == 0
    report = run(folder, tmp_path / "s", retry_failures=True)
    assert (report.change.retried, report.new_failures, report.failures, report.images) == (3, 3, 3, 22)
    picture(5).save(folder / "bee/bad.png")
    report = run(folder, tmp_path / "s", retry_failures=True)
    assert (report.vectors, report.failures, report.images) == (20, 2, 22)


def test_extract_stores_table_columns_and_counts_missing_files(folder, tmp_path):
    table = tmp_path / "table.csv"
    table.write_text(
        "id,file,species,age,note\nA,pictures/ant/00.jpg,ant,3,x\nB,pictures/nowhere.jpg,bee,4,\nC,pictures/bee/00.jpg,bee,,y\n"
    )
    report = run(open_source(table, label_column="species"), tmp_path / "s")
    assert (report.vectors, report.failures) == (2, 1)
    store = FeatureStore.open(tmp_path / "s")
    frame = store.to_pandas()
    assert frame["key"].tolist() == ["A", "C"]
    assert frame["label"].tolist() == ["ant", "bee"]
    assert frame["note"].tolist() == ["x", "y"]
    assert frame["age"].tolist()[0] == 3
    assert frame["age"].isna().tolist() == [False, True]
    (failed,) = store.failures()
    assert (failed[0], failed[1].reason) == ("B", "missing")
    # Create the missing picture B and change the label of C: only B is extracted; C only gets the new label.
    shutil.copy(folder / "ant/01.png", folder / "nowhere.jpg")
    table.write_text(table.read_text().replace("C,pictures/bee/00.jpg,bee", "C,pictures/bee/00.jpg,wasp"))
    report = run(open_source(table, label_column="species"), tmp_path / "s")
    assert (report.new_vectors, report.vectors, report.change.relabelled) == (1, 3, 1)
    labels = dict(zip(FeatureStore.open(tmp_path / "s").keys, FeatureStore.open(tmp_path / "s").labels, strict=True))
    assert labels == {"A": "ant", "B": "bee", "C": "wasp"}


def test_extract_option_root_finds_moved_pictures(folder, tmp_path):
    run(folder, tmp_path / "s")
    write_pictures(folder, ["ant/new.jpg"], seed=50)
    os.rename(folder, tmp_path / "elsewhere")
    report = run(open_source(folder, root=tmp_path / "elsewhere"), tmp_path / "s")
    assert (report.change.unchanged, report.change.added, report.new_vectors, report.change.removed) == (20, 1, 1, 0)


def test_second_source_adds_only_pictures_with_new_keys(folder, tmp_path):
    run(folder, tmp_path / "s")
    more = write_pictures(tmp_path / "more", ["cat/1.jpg", "cat/2.jpg"], seed=40)
    report = run(more, tmp_path / "s")
    assert (report.images, report.change.removed) == (22, 0)
    clash = write_pictures(tmp_path / "clash", ["ant/00.jpg"], seed=60)
    with pytest.raises(UsageError, match=r"1 key of .*clash is in the store already, from .*pictures.*ant/00.jpg"):
        run(clash, tmp_path / "s")


def test_extraction_with_option_rehash_compares_content_instead_of_size_and_mtime(folder, tmp_path):
    run(folder, tmp_path / "s")
    for name in NAMES:
        os.utime(folder / name, ns=(1, 1))
    changed = folder / "ant/00.jpg"
    before = os.stat(changed)
    data = bytearray(changed.read_bytes())
    report = run(folder, tmp_path / "s", rehash=True)
    assert (report.change.unchanged, report.timings["forwarded"]) == (20, 0)
    # The previous run recorded the new times of the files, so a run without --rehash finds no changed picture.
    assert run(folder, tmp_path / "s").change.unchanged == 20
    picture(70).save(changed)
    data = changed.read_bytes()[: before.st_size].ljust(before.st_size, b"\0")
    changed.write_bytes(data)
    os.utime(changed, ns=(1, 1))
    assert run(folder, tmp_path / "s").change.unchanged == 20
    assert run(folder, tmp_path / "s", rehash=True).change.changed == 1


def test_stopped_and_continued_extraction_gives_bit_identical_vectors(folder, tmp_path):
    run(folder, tmp_path / "whole", batch=2)
    stop = threading.Event()
    late = {(folder / name).read_bytes() for name in sorted(NAMES)[8:]}

    def held_back(data, preprocessing, *, max_pixels):
        assert data not in late or stop.wait(60)
        return decode(data, preprocessing, max_pixels=max_pixels)

    def tell(progress):
        if progress.done >= 2:
            stop.set()

    report = run(folder, tmp_path / "s", batch=2, stop=stop, progress=tell, workers=20, decoder=held_back)
    assert report.stopped
    assert 0 < report.new_vectors < 20
    done = report.new_vectors
    report = run(folder, tmp_path / "s", batch=2)
    assert report.timings["forwarded"] == 20 - done
    assert_same(FeatureStore.open(tmp_path / "s"), FeatureStore.open(tmp_path / "whole"))
    assert os.listdir(tmp_path / "s" / "work") == []


def test_extracting_two_halves_of_a_folder_makes_the_same_store_as_one_extraction(folder, tmp_path):
    run(folder, tmp_path / "whole")
    first = run(folder, tmp_path / "s", units=(0, 2))
    assert (first.vectors, first.pending) == (13, 7)
    second = run(folder, tmp_path / "s", units=(1, 2))
    assert (second.new_vectors, second.pending) == (7, 0)
    assert_same(FeatureStore.open(tmp_path / "s"), FeatureStore.open(tmp_path / "whole"))


def test_two_concurrent_extractions_extract_each_picture_once(folder, tmp_path):
    run(folder, tmp_path / "whole")
    reports = []
    threads = [
        threading.Thread(target=lambda: reports.append(run(folder, tmp_path / "s", workers=1))) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [report.pending for report in reports] == [0, 0]
    assert_same(FeatureStore.open(tmp_path / "s"), FeatureStore.open(tmp_path / "whole"))
    assert sum(report.timings["forwarded"] for report in reports) == 20


@pytest.mark.parametrize(
    ("options", "difference"),
    [
        ({"backbone": tiny_backbone(1)}, "weights [0-9a-f]{12}, not [0-9a-f]{12}"),
        ({"backbone": tiny_backbone(name="other")}, "backbone tiny, not other"),
        ({"backbone": tiny_backbone(dimension=9)}, "dimension 8, not 9"),
        ({"dtype": "float16"}, "dtype float32, not float16"),
    ],
)
def test_extraction_with_another_backbone_or_dtype_is_refused(folder, tmp_path, options, difference):
    run(folder, tmp_path / "s")
    with pytest.raises(IdentityError, match=difference) as raised:
        run(folder, tmp_path / "s", **options)
    assert "\n" not in str(raised.value)
    assert FeatureStore.open(tmp_path / "s").counts.images == 20


def test_store_records_the_torch_versions_of_its_extractions(folder, tmp_path, monkeypatch):
    run(folder, tmp_path / "s")
    write_pictures(folder, ["ant/new.jpg"], seed=50)
    monkeypatch.setattr(torch, "__version__", "99.0")
    run(folder, tmp_path / "s")
    made = [made["torch"] for unit in FeatureStore.open(tmp_path / "s").provenance().values() for made in unit]
    assert made[-1] == "99.0"
    assert made[0] != "99.0"


def test_extract_stores_float16_vectors_with_option_dtype(folder, tmp_path):
    run(folder, tmp_path / "s", dtype="float16")
    run(folder, tmp_path / "f4")
    half, full = FeatureStore.open(tmp_path / "s"), FeatureStore.open(tmp_path / "f4")
    assert half.features().dtype == np.float16
    np.testing.assert_array_equal(half.features(), full.features().astype(np.float16))


def test_extract_does_not_change_a_folder_that_is_no_store(folder, tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("x")
    with pytest.raises(UsageError, match="exists and is no feature store"):
        run(folder, tmp_path / "home")
    assert os.listdir(tmp_path / "home") == ["thesis.txt"]


def test_extract_refuses_duplicate_keys_and_empty_sources(folder, tmp_path):
    table = tmp_path / "t.csv"
    table.write_text("path\n" + "pictures/ant/00.jpg\n" * 2)
    with pytest.raises(UsageError, match="the key 'pictures/ant/00.jpg' is there more than once"):
        run(table, tmp_path / "s")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="holds no pictures"):
        run(tmp_path / "empty", tmp_path / "s2")
    assert FeatureStore.open(tmp_path / "s").counts.images == 0


def test_pictures_pending_in_a_missing_folder_stay_pending_when_another_folder_is_extracted(folder, tmp_path):
    stop = threading.Event()
    stop.set()
    run(folder, tmp_path / "s", stop=stop)
    os.rename(folder, tmp_path / "away")
    other = write_pictures(tmp_path / "other", ["x/1.jpg"], seed=3)
    report = run(other, tmp_path / "s")
    assert (report.vectors, report.failures, report.pending) == (1, 0, 20)


def test_pictures_above_the_limits_of_pixels_or_bytes_become_failures(folder, tmp_path):
    Image.new("RGB", (300, 200)).save(folder / "ant/big.png")
    report = run(folder, tmp_path / "s", max_pixels=50_000)
    assert report.reasons == {"too-many-pixels": 1}
    report = run(folder, tmp_path / "s2", max_bytes=100)
    assert report.reasons == {"too-large": 21}


def test_next_extraction_uses_the_precision_of_the_store_by_default(folder, tmp_path):
    run(folder, tmp_path / "s", precision="bf16", engine="torch-folded")
    write_pictures(folder, ["ant/new.jpg"], seed=50)
    report = run(folder, tmp_path / "s", engine="torch-folded")
    assert (report.new_vectors, FeatureStore.open(tmp_path / "s").identity.precision) == (1, "bf16")
    with pytest.raises(IdentityError, match="precision bf16, not fp32"):
        run(folder, tmp_path / "s", precision="fp32")


def test_extraction_uses_more_threads_to_read_than_to_decode(folder, tmp_path, monkeypatch):
    """Make each of the first eight reads wait for the other seven, so that the run ends only if eight threads read at
    once.
    """
    real, together, lock = loader.read_picture, threading.Barrier(8), threading.Lock()
    reads, decoding, most = itertools.count(), 0, 0

    def read(*arguments, **options):
        if next(reads) < 8:
            together.wait(60)
        return real(*arguments, **options)

    def counted(data, preprocessing, *, max_pixels):
        nonlocal decoding, most
        with lock:
            decoding += 1
            most = max(most, decoding)
        pixels = decode(data, preprocessing, max_pixels=max_pixels)
        with lock:
            decoding -= 1
        return pixels

    monkeypatch.setattr(loader, "read_picture", read)
    assert run(folder, tmp_path / "s", workers=1, decoder=counted).vectors == 20
    assert most == 1


def test_timings_add_up_to_the_duration_of_the_extraction(folder, tmp_path):
    report = run(folder, tmp_path / "s")
    timings = report.timings
    threads = {"read", "decode", "write", "load_processor", "processor", "forwarded"}
    assert set(timings) == {*CLOCK, *threads}
    assert sum(timings[name] for name in CLOCK) == pytest.approx(report.seconds, rel=0.03, abs=0.05)
    assert min(timings[name] for name in ("startup", "planning", "forward", "closing")) > 0
    assert timings["load_processor"] <= timings["processor"] + 0.02
    assert report.advice == ""


def test_timings_include_engine_check_and_waiting_for_processes(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(defaults, "DRIFT_RUN", 1)
    stop = threading.Event()
    stop.set()
    run(folder, tmp_path / "s", stop=stop, unit_rows=100)
    with Claims(tmp_path / "s") as claims:
        claims.take(0)
        threading.Timer(0.5, claims.release, [0]).start()
        timings = run(folder, tmp_path / "s", engine="torch-folded", unit_rows=100).timings
    assert timings["others"] >= 0.4
    assert timings["verifying"] > 0


def without_networks(monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError("a network was loaded")

    monkeypatch.setattr("featstore.embed.recipe.Request.load", refuse)


@pytest.mark.parametrize("options", [{}, {"backbone": "SqueezeNet1_1", "weights": "random:3", "dtype": "float32", "decode": "exact", "precision": "fp32", "engine": "compile", "device": "cuda"}])  # fmt: skip
def test_extraction_without_new_pictures_loads_no_network(folder, tmp_path, monkeypatch, options):
    extract(folder, tmp_path / "s", backbone="squeezenet1_1", weights="random:3")
    without_networks(monkeypatch)
    report = extract(folder, tmp_path / "s", **options)
    assert (report.change.unchanged, report.new_vectors, report.vectors) == (20, 0, 20)
    os.unlink(folder / NAMES[0])
    report = extract(folder, tmp_path / "s", **options)
    assert (report.change.removed, report.vectors) == (1, 19)


@pytest.mark.parametrize(
    "options",
    [
        {"backbone": "resnet18"},
        {"weights": "random:4"},
        {"dtype": "float16"},
        {"decode": "fast"},
        {"precision": "bf16"},
        {"engine": "openvino-int8"},
        {"engine": "compiled"},
        {"device": "gpu"},
    ],
)
@pytest.mark.slow
def test_extract_rejects_options_that_differ_from_the_store(folder, tmp_path, options):
    extract(folder, tmp_path / "s", backbone="squeezenet1_1", weights="random:3")
    write_pictures(tmp_path / "other", ["ant/x.jpg"], seed=90)
    with pytest.raises(UsageError):
        extract(tmp_path / "other", tmp_path / "s", **options)
    assert FeatureStore.open(tmp_path / "s").counts.images == 20


@pytest.mark.parametrize("first", ["an empty folder", "a doubled key"])
@pytest.mark.slow
def test_store_without_vectors_after_a_failed_extraction_accepts_another_backbone(folder, tmp_path, first):
    (tmp_path / "empty").mkdir()
    (tmp_path / "doubled.csv").write_text("path\n" + "pictures/ant/00.jpg\n" * 2)
    with pytest.raises(UsageError):
        extract(tmp_path / ("empty" if first == "an empty folder" else "doubled.csv"), tmp_path / "s", backbone="squeezenet1_1", weights="random:3", unit_rows=7)  # fmt: skip
    report = extract(folder, tmp_path / "s", backbone="resnet18", weights="random:0", dtype="float16", unit_rows=9)
    assert report.vectors == 20
    store = FeatureStore.open(tmp_path / "s")
    assert (store.identity.backbone, store.identity.dtype, store._manifest.unit_rows) == ("resnet18", "float16", 9)


@pytest.mark.slow
def test_next_extraction_refuses_another_backbone_before_loading(folder, tmp_path):
    extract(folder, tmp_path / "s", backbone="squeezenet1_1", weights="random:3", dtype="float16")
    write_pictures(folder, ["ant/new.jpg"], seed=50)
    report = extract(folder, tmp_path / "s")
    assert (report.new_vectors, report.vectors) == (1, 21)
    # The error must come before the backbone is loaded: loading resnet50 would download its weights.
    with pytest.raises(IdentityError, match="s has features of squeezenet1_1, not resnet50; leave --backbone out"):
        extract(folder, tmp_path / "s", backbone="resnet50")


@pytest.mark.slow
def test_next_extraction_with_new_pictures_requires_the_weights_file_of_the_user(folder, tmp_path):
    from featstore.backbones import load_backbone

    module = load_backbone("squeezenet1_1", "random:0").module
    torch.save({name: value.clone() for name, value in module.state_dict().items()}, tmp_path / "mine.pth")
    options = {"backbone": "squeezenet1_1", "weights": str(tmp_path / "mine.pth")}
    extract(folder, tmp_path / "s", **options)
    assert extract(folder, tmp_path / "s").new_vectors == 0
    write_pictures(folder, ["ant/new.jpg"], seed=50)
    with pytest.raises(UsageError, match=r"s: was made with the weights mine\.pth; name their file with --weights"):
        extract(folder, tmp_path / "s")
    assert extract(folder, tmp_path / "s", **options).new_vectors == 1
