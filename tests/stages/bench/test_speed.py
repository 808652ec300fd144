from __future__ import annotations

import json
import tempfile

import pytest
from click.testing import CliRunner

from featstore.cli import featstore
from featstore.decode import load_rgb
from featstore.errors import UsageError
from featstore.stages.bench import Measured, bench, peers
from featstore.stages.bench.pictures import gather
from featstore.stages.bench.speed import _shares
from tests.made import write_pictures


def test_bench_draws_the_same_sample_of_pictures_and_counts_unreadable_ones(tmp_path):
    pictures = write_pictures(tmp_path / "pictures", [f"{number}.png" for number in range(9)])
    (pictures / "bad.jpg").write_bytes(b"<html>")
    for name in ("a", "b", "all"):
        (tmp_path / name).mkdir()
    distinct, unreadable = gather(pictures, 4, tmp_path / "a")
    assert distinct + unreadable == 4
    assert gather(pictures, 4, tmp_path / "b") == (distinct, unreadable)
    drawn = [[file.read_bytes() for file in sorted((tmp_path / name).iterdir())] for name in "ab"]
    assert drawn[0] == drawn[1]
    assert len(drawn[0]) == 4
    # If more than the nine readable pictures are requested, ``gather`` starts again with the first picture.
    assert gather(pictures, 12, tmp_path / "all") == (9, 1)
    every = [file.read_bytes() for file in sorted((tmp_path / "all").iterdir())]
    assert len(set(every)) == 9
    assert every[9:] == every[:3]


def test_bench_uses_bundled_photographs_by_default(tmp_path):
    assert gather(None, 3, tmp_path) == (2, 0)
    assert {load_rgb(file.read_bytes()).size for file in tmp_path.iterdir()} == {(640, 427)}


def test_source_without_a_readable_picture_is_a_usage_error(tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"<html>")
    (tmp_path / "out").mkdir()
    with pytest.raises(UsageError, match="none of its pictures can be read"):
        gather(tmp_path / "bad.jpg", 2, tmp_path / "out")


def test_bench_compares_extraction_speed_with_the_limit_set_by_decoding_and_network():
    rates = {
        "forward, torch": [10, 20, 30],
        "decoding, exact": [40, 20, 30],
        "end to end, torch, exact": [4, 10, 15],
        "tutorial loop": [2, 5, 3],
    }
    measured = {name: Measured(name, [float(rate) for rate in found], {}) for name, found in rates.items()}
    shares = _shares(measured, on_cpu=True)
    assert shares["forward, torch"] == {"times_tutorial": 5}
    # On a CPU, decoding and network share the cores: the limit in the first round is 1 / (1/40 + 1/10) = 8 pictures per
    # second, then 10 and 15. On a GPU the slower of the two is the limit: 10, 20 and 30.
    expected = {"times_tutorial": 2, "of_forward": 0.5, "of_ceiling": 1}
    assert shares["end to end, torch, exact"] == pytest.approx(expected)
    assert _shares(measured, on_cpu=False)["end to end, torch, exact"]["of_ceiling"] == pytest.approx(0.5)


@pytest.mark.slow
def test_bench_report_contains_every_measured_part(in_this_process, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    # Leave other libraries out, because not every machine has them; test_peers.py tests them.
    monkeypatch.setattr(peers, "at_hand", lambda backbone: [])
    result = CliRunner().invoke(
        featstore,
        "bench --backbone efficientnet_lite0 --engine torch-folded --device cpu --count 2 --batch 2 --workers 1 "
        "--rounds 1 --json",
        standalone_mode=False,
    )
    assert result.exception is None
    report = json.loads(result.stdout)
    names = [
        "as matrix products, fp32",
        "forward, torch-folded",
        "decoding, exact",
        "decoding, fast",
        "end to end, torch-folded, exact",
        "end to end, torch-folded, fast",
        "tutorial loop",
    ]
    assert [each["name"] for each in report["contenders"]] == names
    assert result.stderr.count("round 1 of 1: ") == len(names)
    assert (report["pictures"], report["distinct"], report["unreadable"], report["rounds"]) == (2, 2, 0, 1)
    by_name = {each["name"]: each for each in report["contenders"]}
    for each in by_name.values():
        assert each["rates"] == [each["median"]]
        assert each["median"] > 0
    assert (by_name[names[1]]["engine"], by_name[names[1]]["precision"]) == ("torch-folded", "fp32")
    assert [by_name[name]["decoder"] for name in names[2:4]] == ["pillow", "pillow-torch"]
    for name in names[4:6]:
        assert (by_name[name]["vectors"], by_name[name]["failures"]) == (2, 0)
        assert by_name[name]["timings"]["forwarded"] == 2
        assert set(report["shares"][name]) == {"times_tutorial", "of_forward", "of_ceiling"}
    products = by_name[names[0]]
    # EfficientNet-Lite0 has 407 million multiply-adds (README of its authors). A multiply-add counts as two operations.
    assert products["operations_per_picture"] == pytest.approx(2 * 407e6, rel=0.06)
    assert products["median"] == pytest.approx(products["operations_per_second"] / products["operations_per_picture"])
    assert report["shares"]["tutorial loop"] == {"times_tutorial": 1}
    assert any("untrained" in note for note in report["notes"])
    assert any("scikit-learn" in note for note in report["notes"])
    assert any("not measured" in note and "timm" in note for note in report["notes"])
    assert not list(tmp_path.glob("featstore-*"))


def test_bench_rejects_an_unknown_engine_and_zero_rounds(in_this_process):
    with pytest.raises(UsageError, match="no engine 'abacus' here; there are torch, torch-folded"):
        bench(engines=["abacus"], device="cpu")
    with pytest.raises(UsageError, match="at least 1"):
        bench(rounds=0)
