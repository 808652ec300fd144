"""Parsing of sizes ("30K") and times ("1s") in command-line options."""

from __future__ import annotations

import click
import pytest

from featstore.cli.quantities import to_bytes, to_seconds


@pytest.mark.parametrize(("text", "size"), [("4G", 4 << 30), ("1.5 MiB", 3 << 19), ("512m", 512 << 20), ("7", 7)])
def test_sizes_in_options_are_parsed_with_their_units(text, size):
    assert to_bytes(None, None, text) == size


@pytest.mark.parametrize(("text", "seconds"), [("5ms", 0.005), ("200 us", 0.0002), ("1.5s", 1.5)])
def test_times_in_options_are_parsed_with_their_units(text, seconds):
    assert to_seconds(None, None, text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "0", "4X", "-1G", "1e3", "five"])
def test_invalid_sizes_and_times_in_options_are_rejected(text):
    for convert in (to_bytes, to_seconds):
        with pytest.raises(click.BadParameter, match="write one such as"):
            convert(None, None, text)
