"""Flip 1,000 random single bits in the files of a small store with head and index, and count those that verify finds.

python -m tests.slow.bit_flips [COUNT] [SEED]
"""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from pathlib import Path

from tests.faults.building import make_head, make_index, small_store
from tests.faults.flips import flips


def main(count: int, seed: int) -> int:
    """Flip ``count`` bits one by one and print how many flips verify finds in each file; return the number that it
    misses."""
    with tempfile.TemporaryDirectory(prefix="featstore-flips-") as name:
        folder = Path(name)
        store = small_store(folder)
        make_head(store, folder / "a.head")
        make_index(store, folder / "an.index")
        found, missed = Counter[str](), Counter[str]()
        for file, _, _, problems in flips(folder, count, seed):
            named = any(file.name.removesuffix(".featstore") in problem for problem in problems)
            (found if named else missed)[str(file.relative_to(folder))] += 1
    for file in sorted(found | missed):
        print(f"{file:40} {found[file]:>5} found {missed[file]:>5} missed")
    print(f"{'all':40} {found.total():>5} found {missed.total():>5} missed; no reader crashed")
    return missed.total()


if __name__ == "__main__":
    numbers = [int(argument) for argument in sys.argv[1:]]
    sys.exit(1 if main(*(numbers + [1000, 1][len(numbers) :])) else 0)
