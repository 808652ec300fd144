"""Parse sizes and times with units, such as 4G or 5ms; the functions are callbacks of click options."""

from __future__ import annotations

import re
from collections.abc import Callable

import click

_BYTES = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}


def to_bytes(_: click.Context, __: click.Parameter, value: str | None) -> int | None:
    """Convert a size such as 4G, 1.5 GiB or 512M (powers of 1024) to a number of bytes."""
    if value is None:
        return None
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([kmgt]?)(?:i?b)?", value.strip().lower())
    size = 0 if found is None else int(float(found[1]) * _BYTES[found[2]])
    if not size:
        raise click.BadParameter(f"{value!r} is no size; write one such as 4G or 512M")
    return size


def to_bytes_of_at_least(least: int) -> Callable[[click.Context, click.Parameter, str | None], int | None]:
    """Return a callback for click that converts sizes as to_bytes does and refuses sizes below ``least`` bytes."""

    def parse(context: click.Context, parameter: click.Parameter, value: str | None) -> int | None:
        size = to_bytes(context, parameter, value)
        if size is not None and size < least:
            raise click.BadParameter(f"{value!r} is less than {least >> 20}M; write a size such as 512M or 4G")
        return size

    return parse


def to_seconds(_: click.Context, __: click.Parameter, value: str | None) -> float | None:
    """Convert a time such as 5ms, 200us or 0.1s to seconds."""
    if value is None:
        return None
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*(us|ms|s)", value.strip().lower())
    seconds = 0.0 if found is None else float(found[1]) * _SECONDS[found[2]]
    if not seconds:
        raise click.BadParameter(f"{value!r} is no time; write one such as 5ms or 0.1s")
    return seconds
