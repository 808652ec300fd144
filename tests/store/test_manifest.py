from __future__ import annotations

import json
from pathlib import Path

import pytest

from featstore.errors import DamagedError, IdentityError, UsageError
from featstore.files import atomic
from featstore.store.claims import Claims
from featstore.store.manifest import NAME, Manifest
from featstore.store.writer import open_for_writing, unit_rows_for
from tests.store.building import Pictures, identity, plan


def change(path, **changes):
    """Change fields of the manifest and update its checksum, as another version of featstore or an attacker could."""
    value = atomic.read_json(path / NAME)
    atomic.write_json(path / NAME, {**value, **changes})


def test_manifest_of_a_store_is_read_as_it_was_written(tmp_path):
    made = open_for_writing(tmp_path / "s", identity(), "w", 7)
    assert Manifest.read(tmp_path / "s") == made == open_for_writing(tmp_path / "s", identity(), "w")


def test_missing_store_is_reported_in_one_line(tmp_path):
    (tmp_path / "file").write_text("x")
    for place in (tmp_path, tmp_path / "none", tmp_path / "file", Path("a\0null byte")):
        with pytest.raises(UsageError, match="no feature store is here"):
            Manifest.read(place)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"requires": ["sparse"]}, r"needs a newer featstore \(sparse\)"),
        ({"version": 2}, r"needs a newer featstore \(format version 2\)"),
    ],
)
def test_store_that_requires_unknown_format_features_is_rejected(tmp_path, changes, words):
    open_for_writing(tmp_path / "s", identity(), "w")
    change(tmp_path / "s", **changes)
    with pytest.raises(UsageError, match=words):
        Manifest.read(tmp_path / "s")


@pytest.mark.parametrize(
    "changes",
    [
        {"format": "other"},
        {"identity": {}},
        {"identity": {**identity().to_dict(), "dimension": "8"}},
        {"identity": {**identity().to_dict(), "dimension": 1 << 40}},
        {"identity": {**identity().to_dict(), "dtype": "object"}},
        {"fingerprint": "0"},
        {"unit_rows": 0},
        {"epoch": "x"},
        {"epoch": -1},
        {"store_id": None, "fingerprint": None},
    ],
)
def test_inconsistent_manifest_of_a_store_is_reported_as_damaged(tmp_path, changes):
    open_for_writing(tmp_path / "s", identity(), "w")
    change(tmp_path / "s", **changes)
    with pytest.raises(DamagedError):
        Manifest.read(tmp_path / "s")


def test_manifest_of_a_store_is_plain_json(tmp_path):
    open_for_writing(tmp_path / "s", identity(), "w")
    value = json.loads((tmp_path / "s" / NAME).read_text())
    assert value["fingerprint"] == identity().fingerprint
    assert value["identity"]["dimension"] == 4


def test_fingerprint_of_a_feature_identity_depends_on_every_field():
    parts = {
        "backbone": "b",
        "layer": "l",
        "dimension": 5,
        "weights": "1",
        "preprocessing": {"crop": 9},
        "decoder": "d",
        "precision": "p",
        "dtype": "float16",
    }
    fingerprints = {identity(**{name: value}).fingerprint for name, value in parts.items()}
    assert len({*fingerprints, identity().fingerprint}) == len(parts) + 1


def test_error_for_writing_another_identity_names_the_differences(tmp_path):
    plan(tmp_path / "s", Pictures({b"a": 1}))
    with pytest.raises(IdentityError, match=r"precision fp32, not bf16; dtype float32, not float16"):
        open_for_writing(tmp_path / "s", identity(dtype="float16", precision="bf16"), "w")


def test_store_without_pictures_accepts_features_of_another_identity(tmp_path):
    first = open_for_writing(tmp_path / "s", identity(), "w")
    again = open_for_writing(tmp_path / "s", identity(dtype="float16"), "w2")
    assert (again.identity.dtype, again.weights_name) == ("float16", "w2")
    assert again.store_id != first.store_id
    assert Manifest.read(tmp_path / "s") == again
    with Claims(tmp_path / "s") as other:
        other.join()
        with pytest.raises(IdentityError):
            open_for_writing(tmp_path / "s", identity(), "w")


def test_units_hold_at_most_half_a_gibibyte_of_vectors():
    assert unit_rows_for(identity(dimension=2048)) == 65536
    assert unit_rows_for(identity(dimension=2048, dtype="float16")) == 131072
    assert unit_rows_for(identity(dimension=1280)) == 65536
