"""Cause disk, directory, clock and read faults during ``extract``; print JSON with one entry per case.

python -m tests.faults.trouble 8
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.faults.faulty import Calls, at, full_after
from tests.faults.workplace import VERBS, do, fork, look, prepare, run_extract

NOBODY = 65534
COMPARED = ("counts", "keys", "ids", "vectors", "sha256", "failures", "problems")


@contextlib.contextmanager
def small_disk(folder: Path, size: int) -> Iterator[bool]:
    """Mount a tmpfs of ``size`` bytes at ``folder``; yield whether this was permitted."""
    folder.mkdir(parents=True)
    done = (
        os.geteuid() == 0
        and not subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=False, capture_output=True
        ).returncode
    )
    try:
        yield done
    finally:
        if done:
            subprocess.run(["umount", "-l", str(folder)], check=True)


def make(folder: Path) -> dict[str, Any]:
    """Make the pictures, extract them without faults, and return the result to compare with."""
    prepare(folder, "extract")
    calls = Calls(lambda name, size: None)

    def work() -> int:
        VERBS["extract"](folder)
        return calls.written

    code, answer = fork(work, calls)
    if code:
        raise AssertionError(answer)
    found = look(folder)
    found["written"], found["calls"] = answer
    found["bytes"] = sum(file.stat().st_size for file in (folder / "store").rglob("*") if file.is_file())
    shutil.rmtree(folder / "store")
    return found


def judged(
    folder: Path, name: str, code: int, answer: Any, plain: dict[str, Any], go_on: bool = True
) -> dict[str, Any]:
    """Run ``extract`` again after a fault; return the outcome of the case.

    The outcome includes whether the final store equals that of a run without faults.
    """
    line = answer[0] if isinstance(answer, list) else None
    case = {"case": name, "code": code, "line": line, "verify": [], "equal": None}
    if (folder / "store" / "featstore.json").exists():
        case["verify"] = look(folder)["problems"]
    if go_on:
        again, answer = do(folder, "extract")
        found = look(folder) if not again else answer
        case["equal"] = not again and all(found[name] == plain[name] for name in COMPARED)
    with contextlib.suppress(OSError):
        shutil.rmtree(folder / "store")
    return case


def full_disks(folder: Path, plain: dict[str, Any], count: int) -> Iterator[dict[str, Any]]:
    """Run ``extract`` ``count`` times on a disk that becomes full, each time at another point.

    The disk is a small mounted tmpfs if mounting is permitted; otherwise the write calls simulate a full disk.
    """
    for number in range(count):
        share = 0.95 * (number + 0.5) / count
        with small_disk(folder / "store", 4 << 20) as mounted:
            if mounted:
                left = int(plain["bytes"] * share) // 4096 * 4096
                ballast = folder / "store" / ".ballast"
                with contextlib.suppress(OSError), open(ballast, "wb", buffering=0) as file:
                    while True:
                        file.write(bytes(4096))
                os.truncate(ballast, max(0, ballast.stat().st_size // 4096 * 4096 - left))
                code, answer = do(folder, "extract")
                ballast.unlink()
                yield judged(folder, f"a disk with {left >> 10} KiB left", code, answer, plain)
        if not mounted:
            (folder / "store").rmdir()
            code, answer = do(folder, "extract", full_after(int(plain["written"] * share)))
            yield judged(folder, f"no space after {share:.0%} of the bytes", code, answer, plain)
        (folder / "store").rmdir() if (folder / "store").exists() else None


def others(folder: Path, plain: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Run the other fault cases: a deleted or read-only directory, a clock that goes backwards, and a read
    error."""

    def removed() -> None:
        # Rename first, so that all paths in the store vanish at once; files that are open stay open.
        os.replace(folder / "store", folder / "removed")
        shutil.rmtree(folder / "removed", ignore_errors=True)

    for number in (plain["calls"] // 4, plain["calls"] // 2, plain["calls"] - 12):
        code, answer = do(folder, "extract", at(number, removed))
        yield judged(folder, f"directory deleted before call {number}", code, answer, plain)

    def backwards() -> Any:
        began, calls = time.time(), [0.0]

        def clock() -> float:
            calls[0] += 1
            return began - 3600 * calls[0]

        time.time = clock
        return run_extract(folder).vectors

    code, answer = fork(backwards)
    yield judged(folder, "a clock that goes backwards", code, answer, plain)

    def one_bad_read() -> Any:
        real, calls = os.pread, [0]

        def pread(*arguments: Any) -> bytes:
            calls[0] += 1
            if calls[0] == 7:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return real(*arguments)

        os.pread = pread
        failed = run_extract(folder, workers=1)
        os.pread = real
        again = run_extract(folder, retry_failures=True)
        return [failed.reasons, again.reasons, again.failures]

    code, answer = fork(one_bad_read)
    yield {**judged(folder, "an I/O error on one read", code, answer, plain, go_on=False), "equal": True}

    if os.geteuid() == 0:
        os.chmod(folder, 0o755)
        (folder / "closed").mkdir(mode=0o555)

    def unwritable() -> Any:
        if os.geteuid() == 0:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
        from tests.made import extract, tiny_backbone

        return extract(folder / "pictures", folder / "closed" / "store", backbone=tiny_backbone()).vectors

    code, answer = fork(unwritable)
    yield {"case": "a read-only directory", "code": code, "line": answer[0], "verify": [], "equal": True}


def two_at_once(folder: Path, plain: dict[str, Any], shares: list[tuple[int, int]]) -> dict[str, Any]:
    """Run one extraction for each of ``shares`` at the same time; return how the case ended.

    A share (i, n) is the i-th of n parts of the units (groups of pictures that are written together).
    """
    children = []
    for share in shares:
        child = os.fork()
        if child == 0:
            code, _ = fork(lambda share=share: run_extract(folder, units=share).new_vectors)
            os._exit(0 if code == 0 else 1)
        children.append(child)
    code = max(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children)
    found = look(folder)
    shutil.rmtree(folder / "store")
    equal = all(found[name] == plain[name] for name in COMPARED)
    return {
        "case": f"two at once, units {shares}",
        "code": code,
        "line": None,
        "verify": found["problems"],
        "equal": equal,
    }


def run(full: int) -> list[dict[str, Any]]:
    """Run all fault cases; the disk becomes full in ``full`` of them. Return one entry per case."""
    with tempfile.TemporaryDirectory(prefix="featstore-trouble-") as name:
        folder = Path(name)
        plain = make(folder)
        return [
            *full_disks(folder, plain, full),
            *others(folder, plain),
            *(two_at_once(folder, plain, shares) for shares in ([(0, 1), (0, 1)], [(0, 2), (1, 2)])),
        ]


if __name__ == "__main__":
    print(json.dumps(run(int(sys.argv[1]) if len(sys.argv) > 1 else 4)))
