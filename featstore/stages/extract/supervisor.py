"""Supervised extraction: a child process does the work, and the supervisor finds the picture that killed it.

The child (worker.py) notes the rows that it reads and decodes. When it is killed by a signal, exits without a message,
or makes no progress, its supervisor tries those rows one by one in processes with limits (processes/sandbox.py). What fails
there becomes a failure of the store, noted in the unit's work folder (featstore.store.culprits), and the work is
started again, from the journal. If no picture explains why the worker died, it is restarted once, and again after each restart that made progress.
The supervisor itself never loads torch. It compares the source with the store, and starts the child only where a
picture is to be extracted, or where only a network can tell whether its features are the store's.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

from featstore import defaults
from featstore.embed.progress import Progress
from featstore.errors import FeatstoreError, UsageError
from featstore.processes import sandbox
from featstore.processes.in_hand import Held, InHand
from featstore.stages.extract.report import ExtractReport
from featstore.stages.extract.suspects import judge

if TYPE_CHECKING:
    from featstore.stages.extract.options import ExtractOptions

_LOOK_SECONDS: Final = 0.2
_FORGIVEN: Final = 2
_SIGN_SECONDS: Final = 60.0
"""Seconds without a sign of life after which the worker counts as stalled; loading one library may take long."""
_STOP_SECONDS: Final = 10.0
"""Seconds that the worker has to stop after it was asked to."""


def extract_supervised(
    source: str | os.PathLike[str],
    store: str | os.PathLike[str],
    options: ExtractOptions | None = None,
    *,
    progress: Callable[[Progress], None] | None = None,
    stop: threading.Event | None = None,
    decoder: str | None = None,
    backbone_from: str | None = None,
) -> ExtractReport:
    """Do what ``extract`` does in a supervised process, so that no picture can end the run.

    A picture that kills its decoder becomes a failure "decoder-died", one that takes more than ``stall_seconds``
    "decoder-stalled" (or "read-stalled"), one that takes more than ``max_memory`` bytes "out-of-memory".
    ``decoder`` and ``backbone_from`` name functions ("package.module:function") that are used in the worker in place of
    the decoder and the backbone that ``options`` say.

    Raises what ``extract`` raises, and FeatstoreError where the process died and no picture explains it, twice
    without any progress in between.
    """
    from featstore.stages.extract.options import ExtractOptions

    started = time.monotonic()
    sandbox.fill_standard_streams()
    sandbox.require_working_directory()
    options = options or ExtractOptions()
    for name in (decoder, backbone_from):
        if name is not None:
            sandbox.check_name(name)
    job: dict[str, Any] = {
        "source": os.fspath(source),
        "store": os.fspath(store),
        "decoder": decoder,
        "backbone_from": backbone_from,
        "options": options.to_dict(),
    }
    stop = stop or threading.Event()
    total = _Total(progress)
    with _spooled(job["source"]) as spooled:
        job["spooled"] = None if spooled is None else spooled.fileno()
        nothing = _nothing_pending(job, options, total)
        if nothing is not None:
            seconds = time.monotonic() - started
            nothing.timings["startup"] = round(seconds - nothing.seconds, 3)
            nothing.seconds = round(seconds, 3)
            return nothing
        total.planning = time.monotonic() - started
        forgiven = 0
        while True:
            threads = options.threads + defaults.READERS
            job["began"] = time.monotonic() if total.restarts else started + total.planning
            attempt = _Attempt(job, spooled, threads, options.stall_seconds, stop, total)
            attempt.run()
            if attempt.error is not None:
                raise _raised(attempt.error)
            if attempt.report is not None:
                return total.report(attempt.report, started, job["began"])
            if stop.is_set():
                return total.stopped(job["store"], time.monotonic() - started)
            culprits = judge(attempt.held, attempt.roots, job, options.stall_seconds)
            total.restarts += 1
            forgiven = 0 if culprits or attempt.done else forgiven + 1
            if forgiven == _FORGIVEN:
                raise FeatstoreError(_unexplained(attempt, store))


def _nothing_pending(job: dict[str, Any], options: ExtractOptions, total: _Total) -> ExtractReport | None:
    """Return the report of a run with nothing to extract, which needs no worker; None if there are pending pictures.

    In that case ``total`` keeps the change of the plan, because the worker compares again and finds no change.
    """
    if job["backbone_from"] is not None or options.rehash:
        return None
    from featstore.stages.extract.stage import extract_nothing
    from featstore.stages.extract.worker import source_of

    change, report = extract_nothing(source_of(job, options), Path(job["store"]), options)
    total.change = None if change is None else change.to_dict()
    return report


@contextlib.contextmanager
def _spooled(source: str) -> Iterator[IO[bytes] | None]:
    """Copy a list that can be read only once into an unnamed file, which each attempt reads from the start."""
    once = source == "-"
    with contextlib.suppress(OSError, ValueError):
        mode = os.stat(source).st_mode
        once = once or stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)
    if not once:
        yield None
        return
    with tempfile.TemporaryFile(prefix="featstore-list-") as file:
        try:
            if source == "-":
                shutil.copyfileobj(sys.stdin.buffer, file)
            else:
                with open(source, "rb") as given:
                    shutil.copyfileobj(given, file)
        except OSError as error:
            raise FeatstoreError(f"{source}: cannot be read ({error.strerror})") from None
        file.flush()
        yield file


@dataclass
class _Total:
    """Sum over all attempts; ``planning``: seconds for comparing the source with the store before the first attempt."""

    progress: Callable[[Progress], None] | None
    change: dict[str, int] | None = None
    planning: float = 0.0
    done: int = 0
    failed: int = 0
    restarts: int = 0
    reasons: Counter[str] = field(default_factory=Counter)

    def add(self, done: int, failed: int, reasons: Mapping[str, int]) -> None:
        """Add the counts of an attempt that ended without a report."""
        self.done += done
        self.failed += failed
        self.reasons.update(reasons)

    def tell(self, done: int, total: int, failed: int, note: str) -> None:
        if self.progress is not None:
            self.progress(Progress(self.done + done, self.done + total, self.failed + failed, note))

    def report(self, value: dict[str, Any], started: float, began: float) -> ExtractReport:
        """Return the report of the last attempt with the counts of all; ``began``: start of the last attempt."""
        report = ExtractReport.from_dict({**value, "change": self.change or value["change"]})
        before, seconds = began - started, time.monotonic() - started
        report.timings["planning"] = round(report.timings["planning"] + self.planning, 3)
        report.timings["restarts"] = round(before - self.planning, 3)
        report.timings["closing"] = round(report.timings["closing"] + seconds - before - report.seconds, 3)
        report.restarts, report.seconds = self.restarts, round(seconds, 3)
        report.new_vectors += self.done - self.failed
        report.new_failures += self.failed
        report.reasons = dict((self.reasons + Counter(report.reasons)).most_common())
        return report

    def stopped(self, store: str, seconds: float) -> ExtractReport:
        from featstore.store import Counts, FeatureStore
        from featstore.store.planner import Change

        try:
            counts = FeatureStore(store).counts
        except UsageError:
            # Stopped before the store was made.
            counts = Counts(0, 0, 0, 0)
        report = ExtractReport(store, Change(**(self.change or {})), *counts.__dict__.values())
        report.stopped, report.restarts, report.seconds = True, self.restarts, round(seconds, 3)
        report.new_vectors, report.new_failures = self.done - self.failed, self.failed
        report.reasons = dict(self.reasons.most_common())
        return report


@dataclass
class _Attempt:
    """One worker process, from its start to its end."""

    job: dict[str, Any]
    spooled: IO[bytes] | None
    threads: int
    stall_seconds: float
    stop: threading.Event
    total: _Total
    report: dict[str, Any] | None = None
    error: dict[str, Any] | None = None
    roots: list[str] = field(default_factory=list)
    done: int = 0
    failed: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    held: list[Held] = field(default_factory=list)
    stalled: bool = False
    code: int | None = None

    def run(self) -> None:
        """Start the worker and read its messages until it ends."""
        in_hand = InHand.create(self.threads)
        control, commands = os.pipe()
        reports, answers = os.pipe()
        passed = [control, answers, in_hand.handle, *([self.spooled.fileno()] if self.spooled is not None else [])]
        command = [*sandbox.interpreter("featstore.stages.extract.worker:main"), *map(str, passed[:3])]
        process = None
        try:
            try:
                # The worker gets its own process group, so that Ctrl-C reaches only this process, which asks the worker to stop.
                process = subprocess.Popen(command, pass_fds=passed, stdin=subprocess.DEVNULL, process_group=0)
            finally:
                os.close(control)
                os.close(answers)
            with contextlib.suppress(BrokenPipeError), open(commands, "wb", closefd=False) as pipe:
                pipe.write(json.dumps(self.job).encode() + b"\n")
            self._follow(process, reports, commands, in_hand)
            self.held = [held for held in in_hand.held() if held is not None]
        finally:
            if process is not None:
                process.kill()
                self.code = process.wait()
            os.close(reports)
            os.close(commands)
            in_hand.close()
            if self.report is None:
                self.total.add(self.done, self.failed, self.reasons)

    def _follow(self, process: subprocess.Popen[bytes], reports: int, commands: int, in_hand: InHand) -> None:
        asked, stall = False, _Stall(in_hand, self.stall_seconds)
        rest = b""
        with selectors.DefaultSelector() as selector:
            selector.register(reports, selectors.EVENT_READ)
            while True:
                if self.stop.is_set() and not asked:
                    asked = True
                    with contextlib.suppress(BrokenPipeError):
                        os.write(commands, b"\n")
                if selector.select(_LOOK_SECONDS):
                    data = os.read(reports, 1 << 20)
                    *lines, rest = (rest + data).split(b"\n")
                    for line in lines:
                        self._take(json.loads(line))
                    if not data:
                        break
                elif stall.seen() or stall.lifeless(_STOP_SECONDS if asked else max(_SIGN_SECONDS, self.stall_seconds)):
                    self.stalled = True
                    process.kill()
        if self.report is not None or self.error is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(60)

    def _take(self, message: dict[str, Any]) -> None:
        if "begin" in message:
            self.roots = message["begin"]["roots"]
            self.total.change = self.total.change or message["begin"]["change"]
        elif "progress" in message:
            done, total, failed, note = message["progress"]
            self.done, self.failed, self.reasons = done, failed, message["reasons"]
            self.total.tell(done, total, failed, note)
        else:
            self.report, self.error = message.get("report"), message.get("error")


class _Stall:
    """Detects a picture that takes too long, and a worker without progress."""

    def __init__(self, in_hand: InHand, seconds: float) -> None:
        self.in_hand, self.seconds = in_hand, seconds
        self._held: dict[int, tuple[Held | None, float]] = {}
        self._progress: tuple[bytes, float] = (b"", time.monotonic())
        self._alive: tuple[int, float] = (0, time.monotonic())

    def lifeless(self, seconds: float) -> bool:
        """Return whether the worker gave no sign of life for _SIGN_SECONDS, counted from its start."""
        now, alive = time.monotonic(), self.in_hand.alive()
        if alive != self._alive[0]:
            self._alive = alive, now
        return now - self._alive[1] > seconds

    def seen(self) -> bool:
        now = time.monotonic()
        for slot, held in enumerate(self.in_hand.held()):
            if held is None or self._held.get(slot, (None, now))[0] != held:
                self._held[slot] = held, now
            elif now - self._held[slot][1] > self.seconds:
                return True
        owed, value = self.in_hand.progress()
        if not owed or value != self._progress[0]:
            self._progress = value, now
        return now - self._progress[1] > self.seconds


def _unexplained(attempt: _Attempt, store: str | os.PathLike[str]) -> str:
    how = (
        f"made no progress for {attempt.stall_seconds:g} s"
        if attempt.stalled
        else f"was {sandbox.describe_exit(attempt.code)}"
    )
    how = how.replace("was it ended", "ended")
    return (
        f"{store}: the working process {how}, twice without progress, and no picture explains it; "
        "use a smaller --batch or fewer --workers if memory is short; what was finished is kept, run again to go on"
    )


def _raised(value: dict[str, Any]) -> Exception:
    if value["error"] == "OSError":
        return OSError(value["errno"], value["message"], value["filename"])
    return sandbox.error_of(value)
