"""The command ``featstore bench``: its options and its output."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from featstore import defaults
from featstore.cli.network import PRECISIONS, batch_option, device_option, geometry_options
from featstore.cli.output import columns, json_option, say, show
from featstore.errors import UsageError

if TYPE_CHECKING:
    from featstore.stages.bench import Measured, SpeedReport, StorageReport

_TEMPORARY = ""


@click.command()
@click.argument("pictures", required=False, type=click.Path())
@click.option(
    "--backbone", default=defaults.BACKBONE, show_default=True, help="A backbone's name (see featstore backbones)."
)
@click.option("--weights", help="As in extract; default: random:0, untrained weights, which are as fast as others.")
@click.option("--engine", "engines", multiple=True, help="Engine to measure; repeat for more (default: all available).")
@device_option
@click.option("--precision", type=PRECISIONS, default="auto", show_default=True)
@geometry_options
@click.option(
    "--count",
    type=click.IntRange(1),
    default=defaults.BENCH_PICTURES,
    show_default=True,
    help="Number of pictures to sample; if PICTURES has fewer, they are repeated.",
)
@batch_option
@click.option("--workers", type=click.IntRange(1), help="Decoding threads (default: one per core).")
@click.option("--rounds", type=click.IntRange(1), default=defaults.BENCH_ROUNDS, show_default=True)
@click.option(
    "--store",
    is_flag=False,
    flag_value=_TEMPORARY,
    metavar="[DIR]",
    help="Measure the store instead, on the disk of DIR (default: the temporary folder's).",
)
@click.option(
    "--megabytes",
    type=click.IntRange(1),
    default=defaults.BENCH_MEGABYTES,
    show_default=True,
    help="With --store: MiB of vectors to write and read.",
)
@json_option
def bench(pictures: str | None, store: str | None, megabytes: int, rounds: int, as_json: bool, **options: Any) -> None:
    """Measure this machine on PICTURES: each engine, decoding, extractions, and the loop of tutorials.

    The loop of tutorials processes one picture at a time with Pillow, torchvision's transforms and plain torch.
    PICTURES is a source as in extract; by default two photographs included in scikit-learn are repeated. Everything
    is measured once per round, each measurement in a fresh process; the output has medians, minima and maxima.
    Five rounds take about 10 minutes for resnet50 on a CPU; use --engine, --count and --rounds to shorten the run.

    \b
    Examples:
      featstore bench
      featstore bench pictures/ --backbone efficientnet_lite0
      featstore bench pictures/ --engine openvino --rounds 3 --json
      featstore bench pictures/ --size 384 --fit pad --layer layer3
      featstore bench --store /mnt/features
    """
    from featstore.stages.bench import bench as run
    from featstore.stages.bench import bench_store

    if store is not None and pictures is not None:
        raise UsageError("--store measures the store alone; leave PICTURES out")
    with _clean_up_on_sigterm():
        if store is not None:
            stored = bench_store(store or None, megabytes=megabytes, rounds=rounds, tell=_tell(rounds, "MB"))
            show(stored.to_dict(), _of_store(stored), as_json)
        else:
            report = run(pictures, rounds=rounds, tell=_tell(rounds, "pictures"), **options)
            show(report.to_dict(), _of_pictures(report), as_json)


@contextlib.contextmanager
def _clean_up_on_sigterm() -> Iterator[None]:
    """Inside the context, make SIGTERM exit Python normally, so that the temporary folder is deleted."""
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _tell(rounds: int, unit: str) -> Any:
    def tell(number: int, name: str, rate: float) -> None:
        say(f"round {number} of {rounds}: {name}: {rate:,.1f} {unit} a second", err=True)

    return tell


def _figures(measured: Measured) -> tuple[str, str, str]:
    return f"{measured.median:,.1f}", f"{min(measured.rates):,.1f}", f"{max(measured.rates):,.1f}"


def _of_pictures(report: SpeedReport) -> str:
    machine = report.machine
    rows = []
    for each in report.contenders:
        shares = report.shares[each.name]
        of = [f"{shares[name]:.3f}" if name in shares else "" for name in ("of_forward", "of_ceiling")]
        rows.append((each.name, *_figures(each), f"{shares['times_tutorial']:.2f}", *of))
    header = ("pictures a second", "median", "least", "greatest", "x tutorial", "of forward", "of ceiling")
    lines = [
        f"{report.backbone} ({report.weights}), {report.pictures:,} pictures, {report.rounds} rounds; "
        f"{machine['device_name']}, {machine['cores']} cores, torch {machine['torch']}",
        columns(rows, header),
        "of forward: of the bare forward of the same engine; of ceiling: of what decoding and network leave together",
    ]
    if report.unreadable:
        lines.append(f"{report.unreadable:,} pictures could not be read and take no part")
    return "\n".join([*lines, *report.notes])


def _of_store(report: StorageReport) -> str:
    rows = [(each.name, *_figures(each)) for each in report.contenders]
    lines = [
        f"{report.directory}: {report.megabytes:,} MiB of {report.dimension}-d vectors, {report.rounds} rounds",
        columns(rows, ("MB a second", "median", "least", "greatest")),
    ]
    lines += [
        f"{dtype}: a shard is written at {shares['write']:.3f} of write() and fsync, scanned at {shares['scan']:.3f} of a "
        f"memory map; {report.gathered:,} scattered rows take {shares['gather_us']:.1f} us a row "
        f"(memory map: {shares['plain_gather_us']:.1f})"
        for dtype, shares in report.shares.items()
    ]
    return "\n".join(lines)
