"""Run every command on forged stores, heads, indexes and files of other programs, and look for harm.

python -m tests.slow.forged [--count 1000] [--seed 1] [--first 0] [--jobs CORES] [--each KIND]...

A forgery is a file with changed content and valid checksums. Harm is one of these: a command makes, opens for writing,
changes or deletes a file that it may not change; hangs for 60 s; takes 2 GiB; ends with a traceback; prints a control
character; prints an error but reports success; or imports a module that a forgery names. Prints the cases of harm, and
times. A thousand forgeries take about 25 minutes on two cores. --each: make COUNT forgeries of every given KIND instead
of kinds at random.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from tests.faults.attacks import attack, prepare
from tests.faults.forging import KINDS
from tests.faults.sandbox import Ground, limit_this_process

_master: Ground | None = None
_folder = Path()


def _begin(folder: Path, kinds: tuple[str, ...]) -> None:
    """Prepare a worker process: make its own copy of the files, and discard what FAISS prints."""
    global _master, _folder
    limit_this_process()
    silent = os.open(os.devnull, os.O_RDWR)
    for stream in (1, 2):
        os.dup2(silent, stream)
    _folder = folder / str(os.getpid())
    _master = prepare(_folder, kinds or tuple(KINDS))


def _attack(number: int, seed: int, kinds: tuple[str, ...]) -> list[tuple[str, str, str, list[str], float]]:
    """Run all commands on one forgery; return (kind, change, command, violations, seconds) for each command."""
    assert _master is not None
    found, before = [], time.perf_counter()
    for what, how, verb, wrong in attack(_master, _folder, number, seed, kinds or tuple(KINDS)):
        found.append((what, how, verb, wrong, time.perf_counter() - before))
        before = time.perf_counter()
    return found


def _outcomes(options: argparse.Namespace) -> Iterator[tuple[int, list[tuple[str, str, str, list[str], float]]]]:
    # Keep the files in memory (/dev/shm), where fsync takes no time.
    memory = Path("/dev/shm")
    each = options.each or [None]
    numbers = [number for number in range(options.first, options.first + options.count) for _ in each]
    kinds = [() if kind is None else (kind,) for kind in each] * options.count
    with (
        tempfile.TemporaryDirectory(prefix="featstore-forged-", dir=memory if memory.is_dir() else None) as name,
        ProcessPoolExecutor(
            options.jobs,
            multiprocessing.get_context("fork"),
            initializer=_begin,
            initargs=(Path(name), tuple(options.each)),
        ) as pool,
    ):
        yield from zip(numbers, pool.map(_attack, numbers, [options.seed] * len(numbers), kinds), strict=True)


def main(options: argparse.Namespace) -> int:
    """Print the cases of harm and a summary; return the number of cases."""
    forged, runs, seconds, found = Counter[str](), Counter[str](), Counter[str](), 0
    started = time.perf_counter()
    for number, outcomes in _outcomes(options):
        for what, how, verb, wrong, took in outcomes:
            runs[verb] += 1
            seconds[verb] += took
            if wrong:
                found += 1
                print(f"{number}: {what}: {how!r}: {verb}: {'; '.join(wrong)}", flush=True)
        forged[outcomes[0][0]] += 1
        if number % 50 == 49:
            print(f"... {number + 1} forgeries, {runs.total()} runs, {found} finds", flush=True)
    for verb, took in seconds.most_common():
        print(f"{took / runs[verb]:7.2f} s {runs[verb]:>5} times  {verb}")
    minutes, used = (time.perf_counter() - started) / 60, resource.getrusage(resource.RUSAGE_CHILDREN)
    print(
        f"{dict(forged)} forged, {runs.total()} verbs run in {minutes:.1f} min "
        f"({(used.ru_utime + used.ru_stime) / 60:.1f} min of processor time), {found} did harm"
    )
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--each", action="append", default=[], choices=KINDS)
    sys.exit(1 if main(parser.parse_args()) else 0)
