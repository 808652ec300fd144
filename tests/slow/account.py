"""Check that the times that ``extract`` reports add up, and that following its advice saves the promised time.

    python -m tests.slow.account PICTURES [--count 600] [--rounds 3] [--backbone efficientnet_lite0]

Runs ``featstore extract`` on ``count`` pictures with plain torch, and again with the first option that this run
advises. Two requirements: in every run of at least 10 s, the reported times add up to the measured time of the command
within 3 %. The advised runs are faster by at least half of the smallest promised saving (medians over the rounds). The
exit code is 1 if a requirement is missed.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click

from featstore.embed.pipeline import CLOCK, Timings
from featstore.stages.bench.pictures import gather
from featstore.stages.extract.advice import Saving, savings

WITHIN = 0.03
LONG = 10.0


def extract(folder: Path, store: Path, *options: str) -> tuple[float, dict[str, Any]]:
    """Run ``featstore extract``; return the seconds that the command took, and its JSON report."""
    command = [sys.executable, "-m", "featstore", "extract", str(folder), str(store), "--json", *options]
    started = time.perf_counter()
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
    return time.perf_counter() - started, json.loads(output)


def first_saving(report: dict[str, Any], workers: int) -> Saving:
    """Return the largest saving of time that the advice in ``report`` promises.

    The extraction used plain torch and exact decoding.
    """
    engine = {"engine": "torch", "device": "cpu", "precision": "fp32"}
    return savings(Timings(**report["timings"]), engine, "pillow", workers)[0]


@click.command()
@click.argument("pictures", type=click.Path(exists=True))
@click.option("--count", default=600, show_default=True)
@click.option("--rounds", default=3, show_default=True)
@click.option("--backbone", default="efficientnet_lite0", show_default=True)
def main(pictures: str, count: int, rounds: int, backbone: str) -> None:
    """Run ``featstore extract`` in rounds and print the times; exit with 1 if a requirement is missed."""
    missed = False
    seconds: dict[str, list[float]] = {"torch": [], "advised": []}
    options: list[str] = []
    saving = None
    with tempfile.TemporaryDirectory(prefix="account-") as name:
        folder = Path(name) / "pictures"
        folder.mkdir()
        gather(pictures, count, folder)
        for number in range(2 * rounds):
            what = "advised" if number % 2 else "torch"
            given = options if number % 2 else ["--engine", "torch"]
            clock, report = extract(folder, Path(name) / f"{number}.store", "--backbone", backbone, *given)
            seconds[what].append(clock)
            named = sum(report["timings"][stage] for stage in CLOCK)
            off = abs(named - clock) / clock
            bad = clock >= LONG and off > WITHIN
            missed |= bad
            click.echo(f"{what} {given}: {clock:.1f} s, named {named:.1f} s ({off:.1%} off){' MISSED' if bad else ''}")
            before = {stage: round(report["timings"][stage], 1) for stage in ("startup", "verifying", "forward")}
            click.echo(f"  seconds: {before}")
            if report["advice"]:
                click.echo(f"  {report['advice']}")
            if saving is None:
                saving = first_saving(report, os.cpu_count() or 1)
                options = saving.option.partition(" (")[0].split()
                if options[0] != "--engine":
                    options = ["--engine", "torch", *options]
    assert saving is not None
    saved = statistics.median(seconds["torch"]) - statistics.median(seconds["advised"])
    bad = saved < saving.least / 2
    click.echo(f"promised: {saving}; saved: {saved:.1f} s{' MISSED' if bad else ''}")
    sys.exit(missed or bad)


if __name__ == "__main__":
    main()
