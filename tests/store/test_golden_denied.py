"""Fixed format of the denylist: a stored example with removed, restored and purged pictures stays readable.

The function ``make`` wrote ``tests/golden/denied`` when the format was final.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from featstore.errors import UsageError
from featstore.stages.remove import purge, remove, restore
from featstore.store import FeatureStore
from featstore.store import manifest as manifests
from featstore.store.denylist import Denylist
from featstore.store.manifest import Manifest
from featstore.store.repair.verify import verify_store
from tests.store.building import Pictures, build, plan
from tests.store.test_golden import layout

GOLDEN = Path(__file__).parents[1] / "golden" / "denied"
CONTENT = {f"{label}/{number}.jpg".encode(): number for label in ("ant", "bee") for number in range(3)}


def make(path: Path) -> None:
    """Write a store with one purged picture, one removed picture, and one picture removed and restored."""
    build(path, Pictures(dict(CONTENT), {key: key[:3].decode() for key in CONTENT}))
    purge(path, ["ant/1.jpg"])
    remove(path, ["ant/2.jpg", "bee/1.jpg"])
    restore(path, ["bee/1.jpg"])
    shutil.rmtree(path / "work", ignore_errors=True)


def check(path: Path) -> None:
    store = FeatureStore.open(path)
    assert verify_store(path).problems == []
    assert Manifest.read(path).requires == ("denylist", "history")
    assert list(store.keys) == ["ant/0.jpg", "bee/0.jpg", "bee/2.jpg"]
    denylist = Denylist.of(store._plan)
    keys = [b"ant/0.jpg", b"ant/1.jpg", b"ant/2.jpg", b"bee/1.jpg"]
    assert denylist.denies_keys(keys).tolist() == [False, True, True, False]
    assert denylist.purged.tolist() == [True, False]
    assert not any(b"ant/1.jpg" in file.read_bytes() for file in path.rglob("*.h5"))
    assert list(FeatureStore.open(path, at=(1, 1)).keys) == [
        "ant/0.jpg",
        "ant/2.jpg",
        "bee/0.jpg",
        "bee/1.jpg",
        "bee/2.jpg",
    ]


def test_featstore_reads_the_golden_denylist(tmp_path: Path):
    check(GOLDEN)
    shutil.copytree(GOLDEN, tmp_path / "s")
    assert plan(tmp_path / "s", Pictures(dict(CONTENT))).denied == 2


def test_featstore_writes_the_layout_of_the_golden_denylist(tmp_path: Path):
    make(tmp_path / "s")
    check(tmp_path / "s")
    assert layout(tmp_path / "s") == layout(GOLDEN)


def test_older_featstore_refuses_a_store_with_a_denylist(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(manifests, "KNOWN_FEATURES", manifests.KNOWN_FEATURES - {"denylist"})
    with pytest.raises(UsageError, match=r"needs a newer featstore \(denylist\)"):
        FeatureStore.open(GOLDEN)
