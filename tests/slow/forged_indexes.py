"""Use forged indexes with valid checksums in the library, without the check in a sandboxed child process.

python -m tests.slow.forged_indexes [--count 1000] [--seed 0]

Opens and searches each index, and adds vectors. The index must be refused with a FeatstoreError or give an answer; it
must not kill the process, raise another exception or take 60 s. Much faster than tests.slow.forged, which runs the
commands.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
import traceback
from collections import Counter
from pathlib import Path
from unittest import mock

import numpy as np

from featstore.errors import FeatstoreError
from featstore.indexes import About, FeatureIndex, build_index
from tests.faults.forging import Forger
from tests.faults.sandbox import Ground, limit_this_process

ROWS, DIMENSION = 16, 8
OUTCOMES = {0: "answered", 1: "refused"}


def use(path: Path, mmap: bool) -> None:
    """Open the index, search it, and add vectors to it."""
    draw = np.random.default_rng(1)
    index = FeatureIndex.open(path, mmap=mmap)
    index.info()
    index.search(draw.standard_normal((5, index.dimension)).astype(np.float32), 4)
    index.search(np.ones((1, index.dimension), np.float32), 4, allowed_ids=index.ids[::2])
    index.vectors_of(index.ids[:3])
    if not mmap:
        index.add(np.ones((3, index.dimension), np.float32), np.arange(3) + 10**6, ["x", "y", "z"])


def outcome(path: Path, mmap: bool) -> int:
    """Use an index in a child process; return its exit code. An exit code that is not in OUTCOMES is a defect."""
    child = os.fork()
    if child == 0:
        code = 99
        signal.alarm(60)
        try:
            with mock.patch("featstore.indexes.files.vetting.vet"):
                use(path, mmap)
            code = 0
        except FeatstoreError:
            code = 1
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main(count: int, seed: int) -> int:
    """Use ``count`` forged indexes, print those that do harm, and return their number."""
    limit_this_process()
    outcomes = Counter[str]()
    with tempfile.TemporaryDirectory(prefix="featstore-forged-") as name:
        master, copy = Ground(Path(name) / "master"), Ground(Path(name) / "copy")
        for folder in (master.home, master.theirs):
            folder.mkdir(parents=True)
        vectors = np.random.default_rng(0).standard_normal((ROWS, DIMENSION)).astype(np.float32)
        keys = [f"cat/{row:02d}.png" for row in range(ROWS)]
        build_index(vectors, np.arange(ROWS), keys, about=About(["cat", "dog"] * (ROWS // 2))).save(
            master.theirs / "an.index"
        )
        for number in range(seed, seed + count):
            shutil.rmtree(copy.folder, ignore_errors=True)
            shutil.copytree(master.folder, copy.folder)
            how = Forger(master, number).forge_index(copy)
            code = outcome(copy.theirs / "an.index", mmap=number % 2 == 0)
            outcomes[OUTCOMES.get(code, "defect")] += 1
            if code not in OUTCOMES:
                print(f"{number}: {how}: ended with {code}", flush=True)
    print(dict(outcomes))
    return outcomes["defect"]


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    sys.exit(1 if main(options.count, options.seed) else 0)
