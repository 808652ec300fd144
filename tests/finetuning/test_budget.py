from __future__ import annotations

import shutil
import time

import numpy as np
import pytest
import torch
from torch import nn

from featstore.finetuning import budget
from featstore.finetuning.budget import (
    LEAST_WORK,
    Choice,
    Rates,
    cache_bytes,
    cache_limit,
    choose,
    measure,
    multiply_adds,
    size_text,
)

RATES = Rates(making=100.0, live=80.0, cached=400.0)


def test_cache_breaks_even_when_saved_time_equals_the_time_to_fill_the_cache():
    # A cache of four views of 1,000 pictures and of 100 held-out pictures takes 41 s to fill. Each epoch then saves
    # 13.75 - 2.75 s: reading and the frozen layers for all pictures, also for the held-out ones.
    saved = 1100 / 80 - 1100 / 400
    assert RATES.break_even(4, 1000, 100) == pytest.approx(41 / saved)


def test_cache_that_saves_no_time_never_breaks_even():
    assert Rates(100.0, 80.0, 70.0).break_even(1, 1000, 0) is None


@pytest.mark.parametrize(
    ("views", "needed", "work", "asked", "cached", "reason"),
    [
        (4, 10, LEAST_WORK, False, True, "cached (10 bytes for 4 views; the most is 25% of the free disk = 100 bytes)"),
        (10, 10, LEAST_WORK, False, False, "live: a cache (10 bytes for 10 views) would serve one epoch for each view"),
        (4, 10, LEAST_WORK - 1, False, False, "live: a cache (10 bytes for 4 views) would save only 99 multiply-adds"),
        (10, 10, 0, True, True, "cached (10 bytes for 10 views; the most is 100 bytes), as asked"),
        (4, 1000, LEAST_WORK, False, False, "live: a cache would take 1 kB for 4 views"),
        (4, 1000, LEAST_WORK, True, False, "live: a cache would take 1 kB for 4 views, and the most is 100 bytes"),
    ],
)
@pytest.mark.parametrize("pays", [4.0, 12.0, None])
def test_choice_of_cached_or_live_inputs_does_not_depend_on_measured_times(
    pays, views, needed, work, asked, cached, reason
):
    choice = choose(RATES, pays, 10, views, needed, 100, work, asked=asked)
    assert choice.cached == cached
    assert choice.reason.startswith(reason)
    assert choice.reason.endswith(
        "a cache never pays" if pays is None else f"a cache pays after {pays:.1f} of 10 epochs"
    )
    assert Choice.from_dict(choice.to_dict()) == choice


def test_multiply_adds_of_a_convolution_are_counted_for_one_picture():
    assert multiply_adds(nn.Conv2d(3, 8, 3, padding=1), 10) == 10 * 10 * 8 * 3 * 3 * 3


def test_cache_size_counts_all_views_and_the_float32_held_out_pictures():
    assert cache_bytes((320, 7, 7), 1000, 100, 8, "float16") == 320 * 49 * (8 * 1000 * 2 + 100 * 4)
    assert cache_bytes((10,), 1000, 0, 1, "float32") == 40_000


def test_default_cache_limit_is_a_fraction_of_the_free_disk_space(tmp_path):
    free = shutil.disk_usage(tmp_path).free
    assert cache_limit(tmp_path / "m.cache", None) == pytest.approx(free / 4, rel=0.2)
    assert cache_limit(tmp_path / "m.cache", 12345) == 12345


def test_activations_of_an_earlier_run_count_as_free_disk_space(tmp_path):
    (tmp_path / "m.cache" / "view-1").mkdir(parents=True)
    with open(tmp_path / "m.cache" / "view-1" / "shard", "wb") as file:
        file.truncate(1 << 42)  # The file has a hole and takes no space.
    assert cache_limit(tmp_path / "m.cache", None) > (1 << 42) / 4


def test_cache_sizes_are_printed_with_units():
    assert [size_text(size) for size in (12, 1500, 2_340_000, 12e9)] == ["12 bytes", "1.5 kB", "2.34 MB", "12 GB"]


class Examples:
    """Ten examples whose activations are their row numbers, computed live (without a cache).

    ``ahead``: seconds of work on all batches that is done before the first batch is ready.
    """

    def __init__(self, ahead: float = 0.0) -> None:
        self.ahead = ahead

    def batches(self, rows, epoch, size):
        time.sleep(self.ahead)
        for start in range(0, len(rows), size):
            yield torch.from_numpy(rows[start : start + size]), rows[start : start + size]


@pytest.mark.parametrize("size", [3, 10, 50])
def test_epoch_times_are_measured_with_live_and_with_cached_activations(size):
    seen = []
    rates = measure(Examples(), lambda inputs, rows: seen.append((inputs.tolist(), rows.tolist())), np.arange(10), size)
    assert min(rates.to_dict().values()) > 0
    first, *measured = seen
    assert len(first[1]) == min(size, 10)
    half = len(measured) // 2
    assert measured[:half] == measured[half:]
    assert [row for _, rows in measured[:half] for row in rows] == list(range(10))
    assert all(inputs == rows for inputs, rows in seen)


def test_measured_rate_includes_the_decoding_time_of_pictures_decoded_in_advance():
    rates = measure(Examples(ahead=0.03), lambda inputs, rows: None, np.arange(10), 3)
    assert rates.live <= 10 / 0.03
    assert rates.making <= 10 / 0.03
    assert rates.cached > 10 / 0.03


def test_slow_step_of_the_live_measurement_is_bounded_by_reading_and_step_one_after_the_other():
    calls = []

    def step(inputs, rows):
        calls.append(rows)
        if len(calls) == 3:  # the second of the three steps of the live measurement; the first call is not measured
            time.sleep(0.2)

    rates = measure(Examples(), step, np.arange(9), 3)
    assert len(calls) == 7
    assert 1 / rates.live <= 1 / rates.making + 1 / rates.cached + 1e-9
    assert rates.live > 9 / 0.2


def test_rates_include_work_that_a_gpu_has_not_finished(monkeypatch):
    started = []

    def wait(device):
        time.sleep(0.02 * len(started))
        started.clear()

    monkeypatch.setattr(budget, "_wait_for", wait)
    rates = measure(Examples(), lambda inputs, rows: started.append(rows), np.arange(9), 3)
    assert max(rates.live, rates.cached) <= 9 / 0.06


def test_waiting_for_a_gpu_is_left_out_on_a_cpu(monkeypatch):
    waited = []
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    for device in (torch.device("cpu"), torch.device("cuda", 1)):
        budget._wait_for(device)
    assert waited == [torch.device("cuda", 1)]
