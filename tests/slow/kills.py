"""Kill commands that write files at 200 random points, run them again and compare the results with uninterrupted runs.

python -m tests.slow.kills [COUNT] [SEED] [ENGINE]

Prints a table; takes about three minutes. ENGINE: by default torch, the only engine with which the script can count the
pictures that go through the network a second time.
"""

from __future__ import annotations

import sys

from tests.faults import workplace
from tests.faults.killing import run, table

if __name__ == "__main__":
    workplace.engine = sys.argv[3] if len(sys.argv) > 3 else workplace.COUNTED
    results = run(int(sys.argv[1]) if len(sys.argv) > 1 else 200, int(sys.argv[2]) if len(sys.argv) > 2 else 1)
    print(f"engine {workplace.engine}")
    print(table(results))
    bad = [r for r in results if r["lost"] or r["doubled"] or r["different"] or r["problems"]]
    print(*bad, sep="\n")
    sys.exit(1 if bad else 0)
