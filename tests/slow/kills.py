"""200 kills at random points of the verbs that write, each continued and compared: a table (some three minutes).

python -m tests.slow.kills [COUNT] [SEED] [ENGINE]

ENGINE is torch, with which the pictures that are sent through the network again can be counted, or another.
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
