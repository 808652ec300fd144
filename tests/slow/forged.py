"""Run every verb on forged stores, heads and indexes with valid checksums, and look for harm.

python -m tests.slow.forged [--count 1000] [--seed 1] [--only store|head|index]

Nothing outside the named store or index may be made, opened for writing, changed or deleted; no verb may hang for 60 s,
take 2 GiB or end in a traceback. Prints the violations, and the number of forgeries of each kind.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from pathlib import Path

from tests.faults.forging import attack, prepare
from tests.faults.sandbox import limit_this_process


def main(count: int, seed: int, only: str | None) -> int:
    """Print the violations that were found; return their number."""
    limit_this_process()
    tried, runs, found = Counter[str](), 0, 0
    with tempfile.TemporaryDirectory(prefix="featstore-forged-") as name:
        master = prepare(Path(name) / "master")
        for number in range(count):
            for what, how, verb, wrong in attack(master, number, seed, Path(name)):
                if only is not None and what != only:
                    break
                runs += 1
                tried[what] += verb[0] == "info"
                if wrong:
                    found += 1
                    print(f"{number}: {what}: {how!r}: {' '.join(verb)}: {'; '.join(wrong)}", flush=True)
            if number % 10 == 9:
                print(f"... {number + 1} forgeries, {runs} runs, {found} finds", flush=True)
    print(f"{dict(tried)} forged, {runs} verbs run, {found} did harm")
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", choices=["store", "head", "index"])
    options = parser.parse_args()
    sys.exit(1 if main(options.count, options.seed, options.only) else 0)
