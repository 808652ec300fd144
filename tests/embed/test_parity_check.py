"""Drift (difference of features from plain torch) is measured, recorded, and limited during an extraction."""

from __future__ import annotations

import numpy as np
import pytest

from featstore import defaults
from featstore.engines import describe_excess, open_engine
from featstore.engines.openvino import OpenVinoEngine
from featstore.engines.parity import BOUNDS
from featstore.errors import FeatstoreError
from featstore.stages.info import describe_store
from featstore.store import FeatureStore
from tests.engines.tiny import needs_openvino_in_bf16
from tests.made import extract, tiny_backbone, write_pictures

NAMES = [f"{number:02d}.png" for number in range(24)]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(defaults, "DRIFT_RUN", 20)
    return write_pictures(tmp_path / "pictures", NAMES)


def drifts(store):
    return [made.get("drift") for unit in FeatureStore.open(store).provenance().values() for made in unit]


def test_long_extraction_records_how_far_its_engine_drifts_from_plain_torch(folder, tmp_path):
    extract(folder, tmp_path / "s", backbone=tiny_backbone(), engine="openvino", unit_rows=7)
    recorded = drifts(tmp_path / "s")
    assert len(recorded) == 4
    # The drift is measured once per extraction, on the pictures of the first shard, here 7.
    assert all(one == recorded[0] for one in recorded)
    assert recorded[0]["pictures"] == 7
    assert 0 < recorded[0]["greatest_difference"] < 1e-3
    assert recorded[0]["cosine_min"] > 0.999999
    (made,) = describe_store(tmp_path / "s")["made_by"]
    assert made["drift"] == recorded[0]["greatest_difference"]


def test_recorded_engine_drift_equals_that_of_the_stored_vectors(folder, tmp_path):
    backbone = tiny_backbone()
    extract(folder, tmp_path / "s", backbone=backbone, engine="torch-folded", precision="bf16")
    extract(folder, tmp_path / "plain", backbone=backbone, engine="torch")
    ours, theirs = (FeatureStore.open(tmp_path / name).features().astype(np.float64) for name in ("s", "plain"))
    chosen = np.unique(np.linspace(0, 23, defaults.DRIFT_PICTURES).astype(int))
    ours, theirs = ours[chosen], theirs[chosen]
    greatest = np.abs(ours - theirs).max() / np.sqrt(theirs.var(axis=0).mean())
    (recorded,) = drifts(tmp_path / "s")
    assert recorded["greatest_difference"] == pytest.approx(greatest, rel=1e-3)
    assert recorded["greatest_difference"] > 1e-3
    assert drifts(tmp_path / "plain") == [None]


def test_extractions_of_few_readable_pictures_record_no_engine_drift(folder, tmp_path, monkeypatch):
    for name in NAMES[1:]:
        (folder / name).write_bytes(b"no picture")
    report = extract(folder, tmp_path / "s", backbone=tiny_backbone(), engine="openvino")
    assert (report.vectors, report.failures) == (1, 23)
    assert drifts(tmp_path / "s") == [None]
    monkeypatch.setattr(defaults, "DRIFT_RUN", 25)
    extract(folder, tmp_path / "short", backbone=tiny_backbone(), engine="openvino")
    assert drifts(tmp_path / "short") == [None]


def test_inexact_engine_is_refused_before_any_vector_is_stored(folder, tmp_path, monkeypatch):
    whole = OpenVinoEngine.__init__

    def other_weights(self, backbone, precision="fp32", **options):
        whole(self, tiny_backbone(seed=5), precision, **options)

    monkeypatch.setattr(OpenVinoEngine, "__init__", other_weights)
    with pytest.raises(FeatstoreError, match="openvino is not exact on this machine: .* use --engine torch"):
        extract(folder, tmp_path / "s", backbone=tiny_backbone(), engine="openvino")
    store = FeatureStore.open(tmp_path / "s")
    assert (store.counts.vectors, store.counts.pending) == (0, 24)
    extract(folder, tmp_path / "s", backbone=tiny_backbone(), engine="torch")
    assert FeatureStore.open(tmp_path / "s").counts.vectors == 24
    assert open_engine(tiny_backbone(), engine="torch").precision == "fp32"


@pytest.mark.parametrize(
    "options",
    [
        {"engine": "openvino-int8"},
        pytest.param({"engine": "openvino", "precision": "bf16"}, marks=needs_openvino_in_bf16),
    ],
)
def test_engine_above_its_drift_bound_is_refused_before_any_vector_is_stored(folder, tmp_path, monkeypatch, options):
    other, submit = open_engine(tiny_backbone(seed=5), device="cpu", **options), OpenVinoEngine.submit
    monkeypatch.setattr(OpenVinoEngine, "submit", lambda self, pictures: submit(other, pictures))
    with pytest.raises(FeatstoreError, match="does not keep to its class .*: typically .* make a new store") as error:
        extract(folder, tmp_path / "s", backbone=tiny_backbone(), **options)
    assert "\n" not in str(error.value)
    assert FeatureStore.open(tmp_path / "s").counts.vectors == 0


@pytest.mark.parametrize("precision", BOUNDS)
def test_each_precision_class_has_a_maximum_engine_drift(precision):
    name, bound = BOUNDS[precision]
    assert describe_excess(precision, {name: bound}) == ""
    assert f"where {bound:g} are allowed" in describe_excess(precision, {name: 1.01 * bound})
