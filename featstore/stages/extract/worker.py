"""The worker process of a supervised extraction: runs ``extract`` and reports the pictures it is reading and decoding.

The supervisor (supervisor.py) passes three file descriptors. ``control``: the first line is JSON and describes the
work; a second line asks the worker to stop; end of file means that the supervisor has ended. ``reports``: the worker
writes its messages there, as lines of JSON. The third is shared memory, in which the worker names its current pictures
(in_hand.py).
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import select
import signal
import sys
import threading
import traceback
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TextIO

from featstore.embed.progress import Progress
from featstore.errors import FeatstoreError, Notice, UsageError
from featstore.processes.in_hand import InHand
from featstore.processes.malloc import keep_memory
from featstore.processes.sandbox import error_value, fill_standard_streams, function_of
from featstore.text import printable

_LIVE_SECONDS = 1.0
if TYPE_CHECKING:
    from featstore.sources import Source
    from featstore.stages.extract.options import ExtractOptions


def main() -> None:
    """Do the work that the supervisor describes in the first line on the descriptor ``control``."""
    fill_standard_streams()
    control, reports, memory = (int(argument) for argument in sys.argv[1:4])
    warnings.showwarning = _show
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    commands = os.fdopen(control, "rb", buffering=0)
    job = json.loads(_line(commands))
    in_hand = InHand(memory)
    threading.Thread(target=_listen, args=(commands, stop, in_hand), name="featstore-control", daemon=True).start()
    answers = _Answers(reports)
    try:
        answers.say(reports=_work(job, in_hand, answers, stop))
    except OSError as error:
        answers.say(
            error={
                "error": "OSError",
                "errno": error.errno,
                "message": error.strerror or str(error),
                "filename": _name(error.filename),
            }
        )
    except MemoryError:
        answers.say(
            error={
                "error": "FeatstoreError",
                "message": "the memory of this machine does not suffice; use a smaller --batch or fewer --workers",
            }
        )
    except Exception as error:
        value = error_value(error)
        if not isinstance(error, FeatstoreError):
            # An exception that is not a FeatstoreError is a bug of featstore: print the traceback for the bug report.
            traceback.print_exc()
        answers.say(error=value)
    _end()


def _end() -> None:
    """End this process without the interpreter's shutdown, because the shutdown takes most of a second after torch was
    imported.
    """
    for stream in (sys.stdout, sys.stderr):
        # A standard stream that was closed when the process started is None.
        if stream is not None:
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
    os._exit(0)


def _show(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Print a warning. A Notice is a message for users: it is printed as one line, without file and line number."""
    text = warnings.formatwarning(message, category, filename, lineno, line)
    if category is Notice:
        text = f"note: {printable(str(message))}\n"
    print(text, end="", file=file or sys.stderr, flush=True)


def _line(commands: BinaryIO) -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        part = commands.read(65536)
        if not part:
            os._exit(1)
        line += part
    return line


def _listen(commands: BinaryIO, stop: threading.Event, in_hand: InHand) -> None:
    while True:
        in_hand.live()
        if select.select([commands], [], [], _LIVE_SECONDS)[0]:
            if not commands.read(1):
                break
            stop.set()
    # The supervisor was killed, so end this process too.
    os._exit(1)


def _name(filename: Any) -> str | None:
    return None if filename is None else os.fsdecode(filename) if isinstance(filename, bytes | str) else str(filename)


class _Answers:
    """Sends messages to the supervisor as lines of JSON; safe to use from any thread."""

    def __init__(self, handle: int) -> None:
        self._handle, self._lock = handle, threading.Lock()

    def say(self, **value: Any) -> None:
        data = memoryview(json.dumps(value).encode() + b"\n")
        with self._lock:
            while data:
                data = data[os.write(self._handle, data) :]


def source_of(job: dict[str, Any], options: ExtractOptions) -> Source:
    """Open the source of a job; a source that the supervisor copied is read from the file descriptor in ``job``."""
    if job["spooled"] is None:
        return options.open(job["source"])
    # The supervisor copied a list that can be read only once (standard input, a pipe): open the copy.
    copied = f"/dev/fd/{job['spooled']}"
    try:
        source = dataclasses.replace(options, kind="list", root=options.root or os.getcwd()).open(copied)
    except UsageError as error:
        named = "standard input" if job["source"] == "-" else job["source"]
        raise UsageError(str(error).replace(copied, named)) from None
    source.location = job["source"] if job["source"] == "-" else os.path.abspath(job["source"])
    return source


def _work(job: dict[str, Any], in_hand: InHand, answers: _Answers, stop: threading.Event) -> list[dict[str, Any]]:
    from featstore.embed.loader import Watch
    from featstore.stages.extract.jobs import Job, extract_jobs
    from featstore.stages.extract.options import ExtractOptions

    jobs = []
    for number, run in enumerate(job["runs"]):
        options = ExtractOptions.from_dict(run["options"])
        after_first = run.get("after_first", False)
        # The store of the first run may not exist yet: its views open it when its plan is written.
        source = run["source"] if after_first else source_of(job, options)
        if job["backbone_from"] is not None:
            options = dataclasses.replace(options, backbone=function_of(job["backbone_from"])())
        if options.engine.startswith(("torch", "compile")):
            keep_memory()
        tell = _Teller(answers, number)
        watch = Watch(in_hand.of_run(number), job["began"], tell.begin)
        jobs.append(Job(source, run["store"], options, tell.progress, watch, after_first))
    decoder = None if job["decoder"] is None else function_of(job["decoder"])
    return [report.to_dict() for report in extract_jobs(jobs, stop=stop, decoder=decoder)]


class _Teller:
    """Sends the messages of one extraction to the supervisor."""

    def __init__(self, answers: _Answers, number: int) -> None:
        self._answers, self._number = answers, number
        self._reasons: dict[str, int] = {}

    def begin(self, roots: list[Path], change: dict[str, int], failures: dict[str, int]) -> None:
        """Report the root folders of the pictures and how the plan changed.

        ``failures``: number of failures by reason; the run keeps this dict up to date.
        """
        self._reasons = failures
        self._answers.say(run=self._number, begin={"roots": [str(root) for root in roots], "change": change})

    def progress(self, progress: Progress) -> None:
        """Send the progress of the extraction to the supervisor."""
        told = [progress.done, progress.total, progress.failed, progress.note]
        self._answers.say(run=self._number, progress=told, reasons=dict(self._reasons))
