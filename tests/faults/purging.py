"""Kill a purge at random points, run it again, and search all files for data that should be erased; print JSON.

python -m tests.faults.purging --kills 10
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import tempfile
from pathlib import Path
from typing import Any

from featstore.errors import FeatstoreError
from featstore.heads import load_head
from featstore.heads.rowwise import unit_rows
from featstore.indexes import FeatureIndex
from featstore.stages.compact import compact
from featstore.stages.index import index
from featstore.stages.remove import purge
from featstore.stages.train import train
from featstore.stages.verify import verify
from featstore.store import FeatureStore
from featstore.store.labels import set_columns
from tests.faults.faulty import Calls, kill_at
from tests.faults.workplace import fork
from tests.store.building import Pictures, build

SECRET = [b"a/secret1", b"b/secret2", b"a/secret3"]


def prepare(folder: Path) -> None:
    """Make a store with a history, labels and pictures to purge, and its k-NN head, exact index and HNSW index."""
    keys = [f"{'ab'[number % 2]}/{number:02d}".encode() for number in range(16)] + SECRET
    source = Pictures(
        {key: number for number, key in enumerate(keys)},
        {key: key[:1].decode() for key in keys},
        {key: ("train", "train", "test")[number % 3] for number, key in enumerate(keys)},
    )
    store = folder / "s"
    build(store, source)
    source.content[SECRET[0]] = 99
    build(store, source)
    compact(store)
    set_columns(store, SECRET, {"note": ["only-theirs"] * 3})
    train(store, head="knn", folds=2, out=folder / "a.head")
    for kind in ("flat", "hnsw"):
        index(store, out=folder / f"{kind}.faiss", kind=kind)


def words(folder: Path) -> list[bytes]:
    """Return the byte sequences that no file may contain after the purge."""
    store = FeatureStore.open(folder / "s")
    vectors = store.features(rows=store.index_of(SECRET))
    head = unit_rows(vectors, load_head(folder / "a.head").model.mean)
    stored = FeatureIndex.open(folder / "flat.faiss").vectors_of(store.ids[store.index_of(SECRET)])
    rows = [row.tobytes() for array in (vectors, head, stored) for row in array]
    return [b"secret1", b"secret2", b"secret3", b"only-theirs", *rows]


def found(folder: Path, gone: list[bytes]) -> list[str]:
    """Search the files below ``folder`` for the byte sequences ``gone``; return a line for each sequence in a file."""
    files = [file for file in folder.rglob("*") if file.is_file()]
    return [f"{file.relative_to(folder)}: {word!r}" for file in files for word in gone if word in file.read_bytes()]


def contents(folder: Path) -> dict[str, Any]:
    """Return the content of store, head and indexes, as JSON."""
    store = FeatureStore.open(folder / "s")
    indexes = [FeatureIndex.open(folder / f"{kind}.faiss") for kind in ("flat", "hnsw")]
    paths = [folder / name for name in ("s", "a.head", "flat.faiss", "hnsw.faiss")]
    return {
        "keys": list(store.keys),
        "ids": store.ids.tolist(),
        "vectors": store.features().tobytes().hex(),
        "labels": store.labels.tolist(),
        "notes": [str(note) for note in store.column("note")],
        "indexes": [sorted(each.ids.tolist()) for each in indexes],
        "head": load_head(folder / "a.head").model.arrays()["vectors"].tobytes().hex(),
        "problems": [str(problem) for path in paths for problem in verify(path).problems],
    }


def look_at_killed(folder: Path, before: list[str], after: list[str]) -> list[str]:
    """Return the errors of a store whose purge was killed: readers must see all pictures to purge or none of them."""
    try:
        keys = list(FeatureStore.open(folder / "s").keys)
    except FeatstoreError as error:
        return [f"after a kill: {error}"]
    return [] if keys in (before, after) else [f"after a kill: {keys}"]


def run(kills: int, seed: int) -> list[dict[str, Any]]:
    """Kill and repeat purges until ``kills`` processes were killed; return the result of each trial."""
    draw, trials = random.Random(seed), []
    with tempfile.TemporaryDirectory(prefix="featstore-purge-") as name:
        work, master = Path(name) / "work", Path(name) / "master"
        work.mkdir()
        asked(fork(lambda: prepare(work)))
        gone = [bytes.fromhex(word) for word in asked(fork(lambda: [word.hex() for word in words(work)]))]
        before = asked(fork(lambda: list(FeatureStore.open(work / "s").keys)))
        shutil.copytree(work, master)
        calls = Calls(lambda name, size: None)
        code, answer = fork(lambda: purge(work / "s", SECRET) and None, calls)
        assert code == 0, answer
        expected, count = asked(fork(lambda: contents(work))), answer[1]
        assert found(master, gone)
        assert found(work, gone) == []
        while sum(trial["kills"] for trial in trials) < kills:
            shutil.rmtree(work)
            shutil.copytree(master, work)
            at, killed, problems = draw.randint(1, count), 0, []
            for point in [at, *([draw.randint(1, count)] if draw.random() < 0.3 else [])]:
                code, answer = fork(lambda: purge(work / "s", SECRET) and None, kill_at(point))
                killed += code == -9
                problems += [f"killed: {answer}"] if code not in (0, -9) else []
                problems += asked(fork(lambda: look_at_killed(work, before, expected["keys"])))
            code, answer = fork(lambda: purge(work / "s", SECRET) and None)
            problems += [f"going on: {answer}"] if code else []
            now = asked(fork(lambda: contents(work)))
            different = [name for name in expected if now[name] != expected[name]]
            trials.append(
                {"at": at, "kills": killed, "problems": problems, "different": different, "found": found(work, gone)}
            )
    return trials


def asked(outcome: tuple[int, Any]) -> Any:
    """Return the value of a function that ran in a forked process, from its ``outcome``; raise AssertionError if it
    failed."""
    code, answer = outcome
    assert code == 0, answer
    return answer[0]


def main() -> None:
    """Kill purges, as often as the command line requests, and print the results as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    print(json.dumps(run(arguments.kills, arguments.seed)))


if __name__ == "__main__":
    main()
