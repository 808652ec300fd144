from __future__ import annotations

import math

import pytest

from featstore.errors import UsageError
from featstore.pages.epochs import epoch_curves
from featstore.pages.finetune import write_finetune_page
from featstore.stages.finetune import FinetuneReport
from tests.page_reading import read
from tests.stages.finetuning import tuned, write_store


def test_epoch_curves_omit_nan_values_and_mark_the_level_of_the_frozen_head():
    drawn = epoch_curves(
        "Macro F1",
        {"training": [(1, 0.5), (2, 0.75)], "held out": [(0, 0.4), (1, math.nan), (2, 0.9)]},
        share=True,
        level=0.4,
    )
    svg = str(drawn.svg())
    for title in ("training, epoch 1: 50.00 %", "training, epoch 2: 75.00 %", "held out, epoch 0: 40.00 %"):
        assert title in svg
    assert "epoch 1: nan" not in svg
    assert "macro F1" in svg
    assert svg.count("ideal") == 1


def test_loss_curves_show_no_percentages_and_need_at_least_two_epochs():
    svg = str(epoch_curves("Loss", {"training": [(1, 2.5), (2, 0.123456)]}, share=False).svg())
    assert "training, epoch 2: 0.1235" in svg
    assert "%" not in svg.replace("100%", "")
    assert epoch_curves("Loss", {"training": [(1, 2.5)], "held out": []}, share=False) is None


@pytest.mark.slow
def test_finetune_page_compares_the_tuned_network_with_the_frozen_head(tmp_path):
    report = tuned(write_store(tmp_path), tmp_path / "m", cache="none")
    assert write_finetune_page(report, tmp_path / "page.html") == []
    read(tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    for part in (
        "squeezenet1_1 fine-tuned on s",
        "frozen up to and including features.11",
        "frozen head",
        "held out, epoch 2: ",
        "McNemar p = ",
        "live: without a cache, as asked",
        str(tmp_path / "m"),
    ):
        assert part in text


def test_page_of_an_interrupted_finetune_run_is_refused(tmp_path):
    with pytest.raises(UsageError, match="interrupted; resume it first"):
        write_finetune_page(FinetuneReport("m", "s", None, 1, 5), tmp_path / "page.html")
