"""Fixed format of feature maps: ``tests/golden/maps`` has maps of an inner layer and padded pictures.

The function ``make`` wrote the store when the format was final; the store must stay readable.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from featstore.errors import UsageError
from featstore.store import FeatureStore, Identity
from featstore.store import manifest as manifests
from featstore.store.manifest import Manifest
from featstore.store.repair.manifest import rebuilt_manifest
from featstore.store.repair.verify import verify_store
from tests.store.building import Pictures, build, identity

GOLDEN = Path(__file__).parents[1] / "golden/maps"
FINGERPRINT = "ca56fa6dc1a50b3c928c03209538f3e94d11d2a32d897e60cecb791fedf34b95"


def made_of() -> Identity:
    steps = {"resize": 8, "crop": 8, "fit": "pad"}
    return identity(preprocessing=steps, layer="output of layer3", pool="none", shape=(1, 2, 2))


def make(path: Path) -> None:
    """Write the stored example, the "golden" store of feature maps."""
    build(path, Pictures({b"ant/1.jpg": 1, b"bee/2.jpg": 2}, {b"ant/1.jpg": "ant"}), identity=made_of())
    shutil.rmtree(path / "work", ignore_errors=True)


def check(path: Path) -> None:
    store = FeatureStore.open(path)
    assert verify_store(path).problems == []
    assert store.identity == made_of()
    assert store.identity.fingerprint == FINGERPRINT
    assert Manifest.read(path).requires == ("fit", "layer")
    assert store.features().reshape(-1, *store.identity.shape).shape == (2, 1, 2, 2)


def test_featstore_reads_the_golden_store_of_maps():
    check(GOLDEN)


def test_featstore_writes_the_identity_of_the_golden_store_of_maps(tmp_path):
    make(tmp_path / "s")
    check(tmp_path / "s")
    ours, golden = (json.loads((path / "featstore.json").read_text()) for path in (tmp_path / "s", GOLDEN))
    assert {**ours, "store_id": "", "created": "", "checksum": ""} == {
        **golden,
        "store_id": "",
        "created": "",
        "checksum": "",
    }


def test_older_featstore_refuses_a_store_with_fit_and_layer(monkeypatch):
    monkeypatch.setattr(manifests, "KNOWN_FEATURES", frozenset({"follow", "history", "undo"}))
    with pytest.raises(UsageError, match=r"needs a newer featstore \(fit, layer\)"):
        FeatureStore.open(GOLDEN)


def test_manifest_rebuilt_by_repair_still_requires_support_for_fit_and_layer(tmp_path):
    shutil.copytree(GOLDEN, tmp_path / "s")
    (tmp_path / "s/featstore.json").unlink()
    rebuilt = rebuilt_manifest(tmp_path / "s")
    assert (rebuilt.requires, rebuilt.identity) == (("fit", "layer"), made_of())
