"""Kill a purge at random points, run it again, and search all files for data that should be erased (two minutes).

python -m tests.slow.purge_kills --kills 50
"""

from __future__ import annotations

import argparse
import sys

from tests.faults.purging import run

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    trials = run(arguments.kills, arguments.seed)
    bad = [trial for trial in trials if trial["problems"] or trial["different"] or trial["found"]]
    print(f"{len(trials)} purges, {sum(trial['kills'] for trial in trials)} kills, {len(bad)} of them wrong afterwards")
    print(*bad, sep="\n")
    sys.exit(1 if bad else 0)
