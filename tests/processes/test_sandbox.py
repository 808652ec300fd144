"""The sandboxed child process returns results and errors, cannot write files, and its death is explained."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from featstore.errors import DamagedError, FeatstoreError, UsageError
from featstore.processes import sandbox

HERE = "tests.processes.test_sandbox"


def echo(**values: object) -> object:
    print("not part of the answer")
    print("nor this", file=sys.stderr)
    return values


def refuse(kind: str) -> None:
    raise {"usage": UsageError("ask otherwise"), "defect": ZeroDivisionError("oh")}[kind]


def end(how: str) -> None:
    if how == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
        time.sleep(5)
    elif how == "exit":
        os._exit(7)
    elif how == "loop":
        while True:
            pass
    elif how == "memory":
        bytearray(1 << 30)


def write(path: str) -> int:
    with open(path, "wb") as file:
        return file.write(b"x")


def call(name: str, seconds: float = 5.0, **arguments: object) -> object:
    return sandbox.call(f"{HERE}:{name}", arguments, seconds=seconds, memory=256 << 20)


def test_sandbox_returns_results_and_errors(capfd: pytest.CaptureFixture[str]) -> None:
    assert call("echo", a=1, b=["\udcff", None]) == {"a": 1, "b": ["\udcff", None]}
    with pytest.raises(UsageError, match="ask otherwise"):
        call("refuse", kind="usage")
    with pytest.raises(FeatstoreError, match="ZeroDivisionError: oh"):
        call("refuse", kind="defect")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("how", "cause", "words"),
    [
        ("segfault", "died", "SIGSEGV"),
        ("exit", "died", "code 7"),
        ("loop", "stalled", "1 s"),
        ("memory", "memory", "memory"),
    ],
)
@pytest.mark.slow
def test_sandbox_distinguishes_crash_timeout_and_memory_exhaustion(how: str, cause: str, words: str) -> None:
    with pytest.raises(sandbox.Died, match=words) as caught:
        call("end", seconds=1.0, how=how)
    assert caught.value.cause == cause
    assert isinstance(caught.value, DamagedError)


def test_sandboxed_child_cannot_write_files(tmp_path: Path) -> None:
    with pytest.raises(FeatstoreError, match="File too large"):
        call("write", path=str(tmp_path / "file"))
    assert (tmp_path / "file").read_bytes() == b""


@pytest.mark.parametrize(
    "name", ["os:system", "no.such.module:f", "os:nothing", "os.path", "os:system()", "__import__('os'):x", ""]
)
def test_sandbox_accepts_only_names_of_functions_in_modules(name: str) -> None:
    if name == "os:system":
        assert sandbox.function_of(name) is os.system
        return
    with pytest.raises(FeatstoreError):
        sandbox.function_of(name)


def test_description_of_how_a_process_ended_explains_signals_and_exit_codes() -> None:
    assert sandbox.describe_exit(-9) == "killed by the kernel for lack of memory, or someone, (SIGKILL)"
    assert sandbox.describe_exit(-6) == "killed by SIGABRT"
    assert sandbox.describe_exit(-200) == "killed by signal 200"
    assert sandbox.describe_exit(3) == "it ended itself with code 3"
