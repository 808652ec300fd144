"""Supervised extraction: a child process does the work, and the supervisor finds any picture that kills the child.

The child, called worker (worker.py), publishes which pictures it is reading and decoding. If the worker is killed by a
signal, exits without a message, or makes no progress, the supervisor tries those pictures one by one in processes with
limits (processes/sandbox.py). A picture that fails there is recorded in the unit's work folder
(featstore.store.culprits) as a failure, and a new worker continues from the journal. If no picture explains why the
worker died, a new worker is started nevertheless. The run ends with an error after two such deaths in a row without
progress. The supervisor itself never loads torch. It compares the source with the store, and starts a worker in two
cases: a picture has to be extracted, or a network has to be loaded to find out whether the store has the requested
features.
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
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

from featstore import defaults
from featstore.embed.progress import Progress
from featstore.errors import FeatstoreError
from featstore.processes import sandbox
from featstore.processes.in_hand import Held, InHand
from featstore.stages.extract.report import ExtractReport
from featstore.stages.extract.suspects import judge
from featstore.stages.extract.totals import Totals

if TYPE_CHECKING:
    from featstore.stages.extract.options import ExtractOptions

_LOOK_SECONDS: Final = 0.2
_FORGIVEN: Final = 2
_HEARTBEAT_TIMEOUT: Final = 60.0
"""If the worker has sent no heartbeat (InHand.live) for this many seconds, the worker counts as stalled.

The limit is long, because importing one library may take long. It is at least ``stall_seconds``.
"""
_STOP_SECONDS: Final = 10.0
"""If a worker that was asked to stop has sent no heartbeat for this many seconds, it is killed."""


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
    """Extract as ``extract`` does, but in a supervised process, so that no picture can end the run.

    Reasons of failures: "decoder-died", the picture kills its decoder; "decoder-stalled" or "read-stalled", it takes
    more than ``stall_seconds``; "out-of-memory", it takes more than ``max_memory`` bytes. ``decoder`` and
    ``backbone_from`` name functions ("package.module:function") that the worker uses instead of the decoder and the
    backbone in ``options``.

    Raises the errors of ``extract``, and FeatstoreError if the process died twice without progress in
    between and no picture explains why.
    """
    from featstore.stages.extract.options import ExtractOptions

    runs = [(store, options or ExtractOptions())]
    return supervise(source, runs, progress=progress, stop=stop, decoder=decoder, backbone_from=backbone_from)[0]


def supervise(
    source: str | os.PathLike[str],
    runs: Sequence[tuple[str | os.PathLike[str], ExtractOptions]],
    *,
    progress: Callable[[Progress], None] | None = None,
    stop: threading.Event | None = None,
    decoder: str | None = None,
    backbone_from: str | None = None,
    views: bool = False,
) -> list[ExtractReport]:
    """Extract as ``extract_supervised`` does, for several ``runs`` (store, options); each picture is decoded only once.

    ``views``: all runs but the first are augmented views, whose source is the store of the first run.
    """
    started = time.monotonic()
    sandbox.fill_standard_streams()
    sandbox.require_working_directory()
    options = runs[0][1]
    for name in (decoder, backbone_from):
        if name is not None:
            sandbox.check_name(name)
    job: dict[str, Any] = {
        "source": os.fspath(source),
        "decoder": decoder,
        "backbone_from": backbone_from,
        "runs": [{"store": os.fspath(store), "options": options.to_dict()} for store, options in runs],
    }
    for run in job["runs"][1:] if views else ():
        run |= {"source": os.fspath(runs[0][0]), "spooled": None, "after_first": True}
    stop = stop or threading.Event()
    total = Totals(progress, [os.fspath(store) for store, _ in runs])
    with _spooled(job["source"]) as spooled:
        job["spooled"] = None if spooled is None else spooled.fileno()
        nothing = _nothing_pending(job, [options for _, options in runs], total)
        if nothing is not None:
            seconds = time.monotonic() - started
            for report in nothing:
                report.timings["startup"] = round(seconds - report.seconds, 3)
                report.seconds = round(seconds, 3)
            return nothing
        total.planning = time.monotonic() - started
        forgiven = 0
        while True:
            threads = sum(each.threads + defaults.READERS for _, each in runs)
            job["began"] = time.monotonic() if total.restarts else started + total.planning
            attempt = _Attempt(job, spooled, threads, options.stall_seconds, stop, total)
            attempt.run()
            if attempt.error is not None:
                raise _raised(attempt.error)
            if attempt.reports is not None:
                return total.reports(attempt.reports, started, job["began"])
            if stop.is_set():
                return total.stopped(time.monotonic() - started)
            culprits = _judged(attempt, job, options.stall_seconds)
            total.restarts += 1
            forgiven = 0 if culprits or attempt.done else forgiven + 1
            if forgiven == _FORGIVEN:
                raise FeatstoreError(_unexplained(attempt, runs[0][0]))


def _judged(attempt: _Attempt, job: dict[str, Any], seconds: float) -> int:
    """Find the pictures that killed the worker, record them in their stores, and return their number."""
    return sum(
        judge([held for held in attempt.held if held.run == number], attempt.roots[number], {**job, **run}, seconds)
        for number, run in enumerate(job["runs"])
    )


def _nothing_pending(
    job: dict[str, Any], options: Sequence[ExtractOptions], total: Totals
) -> list[ExtractReport] | None:
    """Return the reports if no run has a picture to extract, so that no worker is needed; otherwise None.

    If None is returned, the changes of the plans are recorded in ``total``, because the worker will find no further
    change.
    """
    if job["backbone_from"] is not None or any(each.rehash or each.measures(job["source"]) for each in options):
        # Comparing source and store would open pictures, which may kill this process: leave it to the worker.
        return None
    from featstore.stages.extract.stage import extract_nothing
    from featstore.stages.extract.worker import source_of

    reports = []
    for number, (run, each) in enumerate(zip(job["runs"], options, strict=True)):
        if run.get("after_first") and total.changes[0] is None:
            # Whether the views lack pictures is unknown until a worker has planned the store of the first run.
            continue
        change, report = extract_nothing(source_of({**job, **run}, each), Path(run["store"]), each)
        total.changes[number] = None if change is None else change.to_dict()
        if report is not None:
            reports.append(report)
    return reports if len(reports) == len(options) else None


@contextlib.contextmanager
def _spooled(source: str) -> Iterator[IO[bytes] | None]:
    """If ``source`` is a list that can be read only once (standard input, a pipe), yield a copy of it, otherwise None.

    The copy is a temporary file, which each worker reads from the start.
    """
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
class _Attempt:
    """One worker process, from its start to its end: its job, its settings, and the messages received from it."""

    job: dict[str, Any]
    spooled: IO[bytes] | None
    threads: int
    stall_seconds: float
    stop: threading.Event
    total: Totals
    reports: list[dict[str, Any]] | None = None
    error: dict[str, Any] | None = None
    roots: dict[int, list[str]] = field(default_factory=lambda: defaultdict(list))
    did: dict[int, tuple[int, int, dict[str, int]]] = field(default_factory=dict)
    held: list[Held] = field(default_factory=list)
    stalled: bool = False
    code: int | None = None

    @property
    def done(self) -> int:
        """Number of pictures that this worker extracted or recorded as failures."""
        return sum(done for done, _, _ in self.did.values())

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
                # The worker gets its own process group, so that Ctrl-C reaches only this process, which then asks the
                # worker to stop.
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
            if self.reports is None:
                self.total.add(self.did)

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
                elif stall.seen() or stall.lifeless(
                    _STOP_SECONDS if asked else max(_HEARTBEAT_TIMEOUT, self.stall_seconds)
                ):
                    self.stalled = True
                    process.kill()
        if self.reports is not None or self.error is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(60)

    def _take(self, message: dict[str, Any]) -> None:
        number = message.get("run", 0)
        if "begin" in message:
            self.roots[number] = message["begin"]["roots"]
            self.total.changes[number] = self.total.changes[number] or message["begin"]["change"]
        elif "progress" in message:
            done, total, failed, note = message["progress"]
            self.did[number] = done, failed, message["reasons"]
            self.total.tell(number, Progress(done, total, failed, note))
        else:
            self.reports, self.error = message.get("reports"), message.get("error")


class _Stall:
    """Detects a picture that takes too long, and a worker whose heartbeat (InHand.live) has stopped."""

    def __init__(self, in_hand: InHand, seconds: float) -> None:
        self.in_hand, self.seconds = in_hand, seconds
        self._held: dict[int, tuple[Held | None, float]] = {}
        self._progress: tuple[bytes, float] = (b"", time.monotonic())
        self._alive: tuple[int, float] = (0, time.monotonic())

    def lifeless(self, seconds: float) -> bool:
        """Return whether the worker has sent no heartbeat (InHand.live) for more than ``seconds``."""
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
