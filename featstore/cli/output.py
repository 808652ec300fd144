"""Output of all subcommands: JSON or text on stdout, a progress bar on stderr, and a clean stop on signals."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from types import FrameType, TracebackType
from typing import Any, TextIO

import click

from featstore.errors import Notice
from featstore.text import printable

_LOG_SECONDS = 30.0
_NAMED = 5
_COLUMNS = 80
# Characters that start a formula in spreadsheets, and their full-width forms.
_FORMULA = tuple("=+-@\uff1d\uff0b\uff0d\uff20")
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")


def say(text: str, *, err: bool = False, end: str = "\n", stream: TextIO | None = None) -> None:
    """Print text. All output goes through this function, so that no untrusted name reaches the terminal unescaped.

    Control and format characters (escape sequences, bidirectional overrides) and invalid UTF-8 are escaped. ``stream``:
    print there instead of on standard output or standard error.
    """
    click.echo("\n".join(map(printable, text.split("\n"))) + end, stream, err=err, nl=False)


def show(value: Any, text: str, as_json: bool) -> None:
    """Print ``value`` as JSON if ``as_json`` is true, otherwise print ``text``."""
    say(json_text(value, indent=2) if as_json else text)


def json_text(value: Any, *, indent: int | None = None) -> str:
    """Return ``value`` as ASCII JSON without control characters."""
    return json.dumps(value, indent=indent, default=str).replace("\x7f", "\\u007f")


def strangers(names: Sequence[str]) -> str:
    """Return a line with the names of files in a store that featstore did not write; "" if there are none."""
    if not names:
        return ""
    more = ", ..." if len(names) > _NAMED else ""
    return f"\nnot featstore's, left alone: {', '.join(map(printable, names[:_NAMED]))}{more}"


def all_printable(value: Any) -> Any:
    """Return a JSON value in which every text, keys of objects included, is one printable line."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {all_printable(name): all_printable(inner) for name, inner in value.items()}
    return [all_printable(inner) for inner in value] if isinstance(value, list | tuple) else value


class CsvRows:
    """Write CSV to standard output; each text is one printable line that no spreadsheet reads as a formula.

    Texts that begin with = + - or @ get a leading apostrophe (OWASP's advice against CSV injection). The
    output of --json has the exact texts.
    """

    def __init__(self) -> None:
        self._writer = csv.writer(sys.stdout, lineterminator="\n")

    def write(self, *cells: str | float) -> None:
        """Write one row of the CSV; numbers are rounded to six significant digits."""
        self._writer.writerow([csv_cell(one) if isinstance(one, str) else f"{one:.6g}" for one in cells])


def csv_cell(text: str) -> str:
    """Return ``text`` in printable form, with a leading apostrophe if a spreadsheet would read it as a formula."""
    return f"'{printable(text)}" if text.startswith(_FORMULA) else printable(text)


def tell_warnings() -> None:
    """Make Python print warnings and tracebacks through ``say``, which escapes control characters."""

    def warn(
        message: Warning | str,
        kind: type[Warning],
        file: str,
        number: int,
        _: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        text = f"note: {message}\n" if kind is Notice else warnings.formatwarning(message, kind, file, number, line)
        say(text, err=True, end="")

    def raised(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        say("".join(traceback.format_exception(kind, error, trace)), err=True, end="")

    warnings.showwarning, sys.excepthook = warn, raised  # type: ignore[assignment]


def columns(rows: list[tuple[Any, ...]], header: tuple[str, ...]) -> str:
    """Return ``header`` and ``rows`` as a text table with aligned columns; columns of numbers are right-aligned."""
    cells = [
        tuple(f"{c:,}" if isinstance(c, int) and not isinstance(c, bool) else printable(str(c)) for c in row)
        for row in rows
    ]
    widths = [max(len(row[at]) for row in [header, *cells]) for at in range(len(header))]
    right = [all(isinstance(row[at], int | float) for row in rows) for at in range(len(header))]
    lines = [
        "  ".join(
            cell.rjust(width) if is_right else cell.ljust(width)
            for cell, width, is_right in zip(row, widths, right, strict=True)
        )
        for row in [header, *cells]
    ]
    return "\n".join(line.rstrip() for line in lines)


_own_stderr = 2
"""File descriptor for featstore's own messages: usually 2 (standard error). While apart() redirects descriptor 2, this
is a copy of the original descriptor."""
_SHOWN_BYTES = 64 << 10


@contextlib.contextmanager
def apart() -> Iterator[TextIO]:
    """Redirect file descriptor 2 (standard error), and yield a stream to the original standard error.

    libtiff, JPEG decoders and other libraries report damaged pictures in the middle of a progress bar, from this
    process and its children. The lines of these libraries are collected and printed when the context ends: escaped, at
    most 64 KiB in all, and a repeated line only once, with its count.
    """
    global _own_stderr
    sys.stderr.flush()
    with tempfile.TemporaryFile(prefix="featstore-stderr-") as said:
        own = os.dup(2)
        os.dup2(said.fileno(), 2)
        _own_stderr = own
        try:
            with open(own, "w", encoding=sys.stderr.encoding, errors="backslashreplace", closefd=False) as stream:
                yield stream
        finally:
            sys.stderr.flush()
            os.dup2(own, 2)
            _own_stderr = 2
            os.close(own)
            said.seek(0)
            for line in _told(said.read(_SHOWN_BYTES)):
                say(line, err=True)


def _told(said: bytes) -> list[str]:
    """Return the lines of the output ``said``; a repeated line appears once, with its count. Tracebacks stay
    unchanged."""
    lines = [line.rstrip("\r") for line in said.decode("utf-8", "backslashreplace").split("\n") if line]
    counts = Counter(lines)
    # An indented line belongs to a traceback: keep it even if it is repeated.
    kept = [line for at, line in enumerate(lines) if line.startswith(" ") or line not in lines[:at]]
    return [line if counts[line] == 1 or line.startswith(" ") else f"{line} ({counts[line]:,} times)" for line in kept]


class Bar:
    """Show progress on stderr with rate, remaining time and failures: a bar on a terminal, otherwise a line every 30 s.

    Nothing is shown before a rate or a note is known. A total of 0 means that the total is unknown.
    """

    def __init__(self, unit: str = "img", stream: TextIO | None = None) -> None:
        """Show progress in ``unit``: "img" for pictures, "B" for bytes, shown as kB, MB and so on.

        ``stream``: where the bar is shown, by default standard error; inside ``apart``, the stream that it yields.
        """
        self._bar: Any = None
        self._unit = unit
        self._first: int | None = None
        self._visible = False
        self._stream = stream or sys.stderr
        self._terminal = self._stream.isatty()
        self._began = self._told = time.monotonic()

    def __call__(self, progress: Any) -> None:
        """Show the ``progress``, an object with the fields done, total, failed and note."""
        note = progress.note or (f"{progress.failed:,} failed" if progress.failed else "")
        if self._first is None:
            self._first = progress.done
        if not self._terminal:
            self._tell(progress.done, progress.total, note)
            return
        if self._bar is None:
            from tqdm import tqdm

            # initial: pictures of an earlier run do not count for tqdm's rate. delay: show no bar before there is a
            # rate.
            self._bar = tqdm(
                unit=self._unit,
                unit_scale=self._unit == "B",
                initial=self._first,
                smoothing=0.05,
                delay=1e-9,
                file=self._stream,
                **_width(self._stream),
            )
        self._bar.total = progress.total or None
        self._bar.set_postfix_str(printable(note), refresh=False)
        if progress.done > self._bar.n:
            self._bar.update(progress.done - self._bar.n)
            self._visible = True
        elif progress.note:
            self._bar.refresh()
            self._visible = True

    def _tell(self, done: int, total: int, note: str) -> None:
        now = time.monotonic()
        if now - self._told < _LOG_SECONDS or not (done or note):
            return
        self._told = now
        made = done - (self._first or 0)
        rate = made / (now - self._began)
        left = f", {(total - done) / rate / 60:.1f} min left" if rate > 0 and total else ""
        if self._unit == "B":
            what = f"{done / 1e6:.1f} of {total / 1e6:.1f} MB" + (f", {rate / 1e6:.1f} MB/s" if made else "")
        else:
            of = f" of {total:,}" if total else ""
            what = f"{done:,}{of} images" + (f", {rate:.1f}/s" if made else "")
        say(f"{what}{left}{f', {note}' if note else ''}", stream=self._stream)

    def clear(self) -> None:
        """Remove the bar from the terminal, so that lines can be printed; the next progress shows the bar again."""
        if self._visible:
            self._bar.clear()
            self._visible = False

    def close(self) -> None:
        """Close the bar and end its line on the terminal."""
        if self._bar is not None:
            self._bar.close()


class Lines:
    """Show the events of a long command on ``stream``: a bar while pictures run through a network, and lines of text
    above it.

    The events have the fields text, progress (for a Bar, or None) and done, which ends the bar.
    """

    def __init__(self, stream: TextIO) -> None:
        self.bar, self._stream = Bar(stream=stream), stream

    def __call__(self, event: Any) -> None:
        if event.text:
            self.bar.clear()
            say(event.text, stream=self._stream)
        if event.progress is not None:
            self.bar(event.progress)
        elif event.done:
            self.bar.close()
            self.bar = Bar(stream=self._stream)


def _width(stream: TextIO) -> dict[str, Any]:
    """Return tqdm's options for the width of the bar; some terminals report a width of 0, which means unknown."""
    with contextlib.suppress(OSError, ValueError):
        if os.get_terminal_size(stream.fileno()).columns:
            return {"dynamic_ncols": True}
    return {"ncols": shutil.get_terminal_size().columns, "nrows": shutil.get_terminal_size().lines}


@contextlib.contextmanager
def stop_on_signals() -> Iterator[tuple[threading.Event, Callable[[], int]]]:
    """Yield an event that SIGINT and SIGTERM set, and a function that returns the exit code for the received signal.

    A second signal ends the process at once, because the signals then have their default action.
    """
    stop, received = threading.Event(), [0]

    def handle(number: int, _: FrameType | None) -> None:
        received[0] = number
        stop.set()
        for one in (signal.SIGINT, signal.SIGTERM):
            signal.signal(one, signal.SIG_DFL)
        message = b"\nstopping after the pictures at hand; once more ends at once\n" if number == signal.SIGINT else b""
        # Write to the file descriptor: the signal may have interrupted a write of Python's own stream.
        with contextlib.suppress(OSError):
            os.write(_own_stderr, message)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop, lambda: 128 + received[0]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
