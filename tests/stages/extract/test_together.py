"""One run for several stores: each picture is decoded once, and each store equals that of a separate run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from featstore.embed import sharing
from featstore.errors import FeatstoreError, UsageError
from featstore.processes.in_hand import DECODING, Held, InHand
from featstore.stages.extract import ExtractOptions, extract_together
from featstore.stages.extract.jobs import Job, extract_jobs
from featstore.stages.extract.supervisor import supervise
from featstore.store import FeatureStore
from tests.made import extract, tiny_backbone, write_pictures

NETWORKS = [tiny_backbone(1), tiny_backbone(2, dimension=6, name="other"), tiny_backbone(3, dimension=5, name="third")]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = write_pictures(tmp_path / "p", [f"{label}/{number:02d}.png" for label in "ab" for number in range(12)])
    (folder / "a/05.png").write_bytes(b"no picture")
    # b/copy.png has the same bytes as a/00.png.
    (folder / "b/copy.png").write_bytes((folder / "a/00.png").read_bytes())
    return folder


@pytest.fixture
def decoded(monkeypatch) -> list[bytes]:
    """Return a list to which each decoding appends the bytes of the picture file."""
    seen: list[bytes] = []
    load = sharing.load_rgb

    def counted(data: bytes, **options: int):
        seen.append(data)
        return load(data, **options)

    monkeypatch.setattr(sharing, "load_rgb", counted)
    return seen


def jobs(folder: Path, place: Path, count: int = 2, **options: object) -> list[Job]:
    return [
        Job(folder, place / f"{number}.store", ExtractOptions(backbone=NETWORKS[number], batch=4, **options))
        for number in range(count)
    ]


def same(one: Path, other: Path) -> bool:
    """Return whether two stores have the same rows, bit for bit."""
    first, second = FeatureStore.open(one), FeatureStore.open(other)
    return (
        first.features().tobytes() == second.features().tobytes()
        and list(first.keys) == list(second.keys)
        and first.sha256.tobytes() == second.sha256.tobytes()
        and first.failures() == second.failures()
        and first.labels.tolist() == second.labels.tolist()
    )


@pytest.mark.parametrize("count", [2, 3])
def test_extraction_into_several_stores_decodes_each_picture_once_and_equals_separate_ones(
    folder: Path, tmp_path: Path, decoded, count
):
    reports = extract_jobs(jobs(folder, tmp_path, count))
    assert [(report.vectors, report.failures, report.pending) for report in reports] == [(24, 1, 0)] * count
    assert len(decoded) == 25
    for number in range(count):
        own = tmp_path / f"own{number}.store"
        extract(folder, own, backbone=NETWORKS[number], batch=4)
        assert same(tmp_path / f"{number}.store", own)


def test_extraction_into_two_stores_accepts_different_unit_sizes_and_decoders(folder: Path, tmp_path: Path, decoded):
    first, second = jobs(folder, tmp_path)
    options = [
        ExtractOptions(backbone=NETWORKS[0], batch=4, unit_rows=5),
        ExtractOptions(backbone=NETWORKS[1], batch=3, unit_rows=16, decode="fast"),
    ]
    extract_jobs([Job(folder, first.store, options[0]), Job(folder, second.store, options[1])])
    assert len(decoded) == 25
    extract(folder, tmp_path / "a", backbone=NETWORKS[0], batch=4, unit_rows=5)
    extract(folder, tmp_path / "b", backbone=NETWORKS[1], batch=3, unit_rows=16, decode="fast")
    assert same(first.store, tmp_path / "a")
    assert same(second.store, tmp_path / "b")


def test_extraction_into_two_stores_skips_a_store_that_is_up_to_date(folder: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(sharing, "_PATIENCE_SECONDS", 0.01)
    monkeypatch.setattr("featstore.defaults.SHARED_BYTES", 1)
    first, second = jobs(folder, tmp_path)
    extract(folder, first.store, backbone=NETWORKS[0], batch=4)
    write_pictures(folder, ["c/new.png"], seed=50)
    reports = extract_jobs([first, second])
    assert [report.new_vectors for report in reports] == [1, 25]
    extract(folder, tmp_path / "b", backbone=NETWORKS[1], batch=4)
    assert same(second.store, tmp_path / "b")


def test_extraction_into_two_stores_is_refused_if_one_has_features_of_another_identity(folder: Path, tmp_path: Path):
    first, second = jobs(folder, tmp_path)
    extract(folder, second.store, backbone=NETWORKS[2], batch=4)
    with pytest.raises(FeatstoreError, match="features of another identity"):
        extract_jobs([first, second])
    assert extract_jobs([first])[0].vectors == 24


@pytest.mark.parametrize(
    ("stores", "backbones", "words"),
    [
        (["a", "b"], ["x"], "backbone is given 1 times; give it once for each store"),
        (["a"], ["x", "y"], "1 store is named"),
        (["a", "./a"], ["x", "y"], "a store is named twice"),
    ],
)
def test_extraction_into_several_stores_needs_a_backbone_for_each_store(
    folder: Path, stores: list[str], backbones: list[str], words: str
):
    with pytest.raises(UsageError, match=words):
        extract_together(folder, stores, backbones=backbones)


@pytest.mark.slow
@pytest.mark.usefixtures("warm_workers")
def test_supervised_extraction_into_two_stores_equals_separate_extractions(folder: Path, tmp_path: Path):
    given = {"backbones": ["squeezenet1_1", "efficientnet_lite0"], "weights": ["random:0", "random:1"], "batch": 8}
    stores = [tmp_path / "a.store", tmp_path / "b.store"]
    seen = []
    reports = extract_together(folder, stores, progress=lambda now: seen.append((now.done, now.total)), **given)
    assert [(report.store, report.vectors, report.failures) for report in reports] == [
        (str(store), 24, 1) for store in stores
    ]
    assert seen[-1] == (50, 50)
    for at, store in enumerate(stores):
        own = tmp_path / f"own{at}"
        extract_together(folder, [own], backbones=[given["backbones"][at]], weights=[given["weights"][at]], batch=8)
        assert same(store, own)
    again = extract_together(folder, stores)
    assert [report.new_vectors for report in again] == [0, 0]
    assert np.isfinite(FeatureStore.open(stores[0]).features()).all()


@pytest.mark.slow
@pytest.mark.usefixtures("warm_workers")
def test_picture_that_crashes_the_decoder_is_a_failure_in_every_store(folder: Path, tmp_path: Path):
    (folder / "a/06.png").write_bytes(b"DIE")
    options = ExtractOptions(batch=4, unit_rows=8, workers=2)
    reports = supervise(
        folder,
        [(tmp_path / "a.store", options), (tmp_path / "b.store", options)],
        backbone_from="tests.faults.planted:backbone",
        decoder="tests.faults.planted:decode",
    )
    for report in reports:
        # The worker may die before its last progress report. Then ``new_vectors`` is too small and ``change.added`` may
        # be 0, so the test does not check them.
        assert (report.vectors, report.failures, report.pending) == (23, 2, 0)
        assert report.change.added in (0, 25)
        reasons = {key: failure.reason for key, failure in FeatureStore.open(report.store).failures()}
        assert reasons["a/06.png"] == "decoder-died"
    assert reports[0].restarts >= 1


def test_supervisor_sees_which_of_several_extractions_decodes_a_picture():
    whole = InHand.create(2)
    other = whole.of_run(3)
    other.hold(5, 6, DECODING)
    assert whole.held()[0] == Held(5, 6, DECODING, 3)
    other.free()
    assert whole.held() == [None, None]
    whole.close()
