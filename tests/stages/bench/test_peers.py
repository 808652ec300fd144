"""Tests of the other libraries that bench compares with. They are tested only if they are installed; CI installs
none."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from featstore.stages.bench import peers
from featstore.stages.bench.rounds import apart
from featstore.stages.bench.speed import _PEERS, _peers
from tests.made import write_pictures


def test_bench_lists_only_installed_libraries_that_have_the_backbone(monkeypatch):
    there = {"img2vec": find_spec("img2vec_pytorch"), "timm": find_spec("timm")}
    assert peers.at_hand("resnet50") == [name for name, found in there.items() if found is not None]
    assert peers.at_hand("efficientnet_lite9") == []
    monkeypatch.setattr(peers, "find_spec", lambda name: None)
    assert peers.at_hand("resnet50") == []


@pytest.mark.slow
def test_every_installed_library_returns_vectors_of_all_pictures(tmp_path):
    folder = write_pictures(tmp_path / "pictures", ["a.png", "b.jpg"])
    model = {"folder": str(folder), "backbone": "resnet18", "weights": "random:0"}
    contenders = _peers(list(_PEERS), model, {"device": "cpu", "batch": 2, "precision": "auto"})
    assert [contender.name for contender in contenders] == list(_PEERS.values())
    assert all(hasattr(peers, contender.function.rpartition(":")[2]) for contender in contenders)
    at_hand = {_PEERS[name] for name in peers.at_hand("resnet18")}
    for contender in contenders:
        if contender.name in at_hand:
            # Use a fresh process, like the command: the data loader of timm forks, which is unsafe in a process with
            # threads.
            found = apart(contender.function, contender.arguments, contender.name)
            assert found["rate"] > 0
            assert found["dimension"] == 512
