"""Benchmark rounds: every contender (measured function) runs once per round, in a fresh process, in rotating order."""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any

from featstore.errors import FeatstoreError
from featstore.processes import sandbox

Tell = Callable[[int, str, float], None]
"""Progress callback of a benchmark: called with the round (from 1), the name of a contender (a measured function) and
its rate in that round."""


@dataclass(frozen=True)
class Contender:
    """A contender: a function that is measured.

    ``function`` ("package.module:function") takes ``arguments`` (JSON) and returns {"rate": ...}: the number of
    pictures, or megabytes of vectors, per second.
    """

    name: str
    function: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True)
class Measured:
    """A contender's ``rates``, one per round, and the other values that its function returned in the first round."""

    name: str
    rates: list[float]
    said: dict[str, Any]

    @property
    def median(self) -> float:
        """Median of the rates of this contender (a measured function) over all rounds."""
        return statistics.median(self.rates)

    def share_of(self, other: Measured) -> float:
        """Return this contender's rate divided by that of ``other`` in the same round: the median of all rounds."""
        return statistics.median(ours / theirs for ours, theirs in zip(self.rates, other.rates, strict=True))

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as JSON types: median, smallest, largest and all rates."""
        spread = {"median": self.median, "least": min(self.rates), "greatest": max(self.rates)}
        return {"name": self.name, **spread, "rates": self.rates, **self.said}


def alternate(contenders: Sequence[Contender], rounds: int, tell: Tell | None = None) -> list[Measured]:
    """Measure all ``contenders`` (functions) in each of ``rounds`` rounds; each round starts with another contender.

    Raises FeatstoreError if a contender fails.
    """
    rates: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    said: dict[str, dict[str, Any]] = {}
    for number in range(rounds):
        first = number % len(contenders)
        for contender in [*contenders[first:], *contenders[:first]]:
            value = apart(contender.function, contender.arguments, contender.name)
            rate = float(value.pop("rate"))
            rates[contender.name].append(rate)
            said.setdefault(contender.name, value)
            if tell is not None:
                tell(number + 1, contender.name, rate)
    return [Measured(name, found, said[name]) for name, found in rates.items()]


def apart(function: str, arguments: Mapping[str, Any], what: str) -> Any:
    """Call ``function(**arguments)`` in a fresh process and return its value; arguments and value are JSON.

    Raises FeatstoreError, with a message that begins with ``what``, if the function or the process fails.
    """
    request = json.dumps({"function": function, "arguments": dict(arguments)}).encode() + b"\n"
    command = sandbox.interpreter("featstore.stages.bench.rounds:serve")
    with (
        tempfile.TemporaryFile() as said,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said) as process,
    ):
        try:
            with contextlib.suppress(BrokenPipeError):
                # Keep stdin open until the answer: the child exits when its stdin is closed, also if this process is
                # killed.
                os.write(_handle(process.stdin), request)
            answer = b"".join(iter(lambda: os.read(_handle(process.stdout), 65536), b""))
        except BaseException:
            process.kill()
            raise
        code = process.wait()
        said.seek(0)
        last = said.read().decode("utf-8", "replace").strip().rpartition("\n")[2]
    try:
        value = json.loads(answer)
    except ValueError:
        raise FeatstoreError(f"{what}: {sandbox.describe_exit(code)} ({last[:300]})") from None
    if "error" in value:
        raise sandbox.error_of({**value, "message": f"{what}: {value['message']}"})
    return value["value"]


def _handle(stream: IO[bytes] | None) -> int:
    assert stream is not None
    return stream.fileno()


def serve() -> None:
    """Answer one request from standard input: call a function and print its value as JSON.

    This is the entry point of the fresh process, which exits when its standard input is closed.
    """
    request = json.loads(_line())
    threading.Thread(target=_end_with_the_caller, daemon=True).start()
    answers = os.dup(1)
    # Send what libraries print to stderr, because stdout is for the answer.
    os.dup2(2, 1)
    try:
        value = {"value": sandbox.function_of(request["function"])(**request["arguments"])}
    except FeatstoreError as error:
        value = sandbox.error_value(error)
    with open(answers, "w") as file:
        json.dump(value, file)


def _line() -> bytes:
    line = b""
    while not line.endswith(b"\n") and (part := os.read(0, 65536)):
        line += part
    return line


def _end_with_the_caller() -> None:
    while os.read(0, 1):
        pass
    os._exit(1)
