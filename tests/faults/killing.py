"""Kill commands at random points, run them again, and compare with an uninterrupted run; print JSON, or a table.

python -m tests.faults.killing 200 --table
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.faults import workplace
from tests.faults.faulty import Calls, kill_at
from tests.faults.workplace import BATCH, COUNTED, FIRST, VERBS, do, forwarded, look, prepare


def masters(folder: Path) -> dict[str, dict[str, Any]]:
    """Run each command without interruption; return a record for each command.

    "before": a copy of the folder before the command ran. "contents": the content of the folder afterwards. "calls":
    the number of system calls that change files. "forwarded": the number of pictures that the network processed.
    """
    found: dict[str, dict[str, Any]] = {}
    work = folder / "work"
    work.mkdir()
    for verb in VERBS:
        prepare(work, verb)
        before = folder / f"before-{verb}"
        shutil.copytree(work, before)
        calls, started, passed = Calls(lambda name, size: None), time.perf_counter(), forwarded()
        code, answer = do(work, verb, calls)
        if code:
            raise AssertionError(answer)
        found[verb] = {
            "before": before,
            "calls": answer[1],
            "seconds": time.perf_counter() - started,
            "forwarded": forwarded() - passed,
            "contents": look(work),
        }
    if workplace.engine == COUNTED and found["extract"]["forwarded"] < len(FIRST):
        raise AssertionError("the pictures that go through the network are not counted")
    return found


def trial(work: Path, verb: str, master: dict[str, Any], draw: random.Random) -> dict[str, Any]:
    """Kill a command once or twice, run it to its end, and return the differences from an uninterrupted run."""
    shutil.rmtree(work)
    shutil.copytree(master["before"], work)
    began, kills, problems = forwarded(), 0, []
    for _ in range(draw.choice((1, 1, 2))):
        if draw.random() < 0.7:
            code, answer = do(work, verb, kill_at(draw.randint(1, master["calls"])))
        else:
            code, answer = do(work, verb, kill_after=draw.uniform(0, master["seconds"]))
        kills += code == -9
        if code not in (0, -9):
            problems.append(f"after a kill: {answer}")
        if (work / "store" / "featstore.json").exists():
            problems += [f"after a kill: {problem}" for problem in look(work)["problems"]]
    code, answer = do(work, verb)
    if code:
        problems.append(f"continuing: {answer}")
    left = [file.name for file in (*(work / "store" / "shards").glob(".*"), *(work / "store" / "work").glob("0*"))]
    if left:
        problems.append(f"left behind: {left}")
    found, expected = look(work), master["contents"]
    different = [name for name in expected if found.get(name) != expected[name]]
    return {
        "verb": verb,
        "kills": kills,
        "lost": len(set(expected["keys"]) - set(found["keys"])),
        "doubled": found["doubled"],
        "different": different,
        "problems": problems,
        "redone": max(0, forwarded() - began - master["forwarded"]),
    }


def run(count: int, seed: int, verbs: list[str] | None = None) -> list[dict[str, Any]]:
    """Kill and repeat commands until at least ``count`` processes were killed; return the result of each trial."""
    draw, results = random.Random(seed), []
    # Run all trials in one folder, because a source is identified by its path.
    with tempfile.TemporaryDirectory(prefix="featstore-kills-") as name:
        folder = Path(name)
        made = masters(folder)
        names = verbs or list(made)
        while sum(result["kills"] for result in results) < count:
            verb = names[len(results) % len(names)]
            results.append(trial(folder / "work", verb, made[verb], draw))
    return results


def table(results: list[dict[str, Any]]) -> str:
    lines = [
        f"{'verb':10}{'runs':>6}{'kills':>7}{'lost':>6}{'doubled':>9}{'different':>11}{'problems':>10}{'most redone':>13}"
    ]
    for verb in [*VERBS, "all"]:
        part = [result for result in results if verb in ("all", result["verb"])]
        sums = [
            sum(result[name] if isinstance(result[name], int) else bool(result[name]) for result in part)
            for name in ("kills", "lost", "doubled", "different", "problems")
        ]
        redone = max((result["redone"] for result in part), default=0) if workplace.engine == COUNTED else "?"
        lines.append(
            f"{verb:10}{len(part):>6}{sums[0]:>7}{sums[1]:>6}{sums[2]:>9}{sums[3]:>11}{sums[4]:>10}{redone:>9} img"
        )
    return "\n".join(
        [
            *lines,
            f"(redone: pictures sent through the network again; batches of {BATCH}, at most 6 under way; ?: not counted)",
        ]
    )


def main() -> None:
    """Kill commands, as often as the command line requests, and print the results; exit with 1 if a result differs."""
    parser = argparse.ArgumentParser()
    parser.add_argument("count", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    results = run(arguments.count, arguments.seed)
    print(table(results) if arguments.table else json.dumps(results))
    bad = [
        result for result in results if result["lost"] or result["doubled"] or result["different"] or result["problems"]
    ]
    for result in bad if arguments.table else []:
        print(result)
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
