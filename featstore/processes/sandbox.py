"""Run a featstore function in a child process with limits.

The limits protect against files that make their parser crash, hang, or use up the memory.

The child is a fresh interpreter, not a fork, because this process may have threads and a GPU. Before the function runs,
the child's address space, CPU time and file writes are limited; it is killed after ``seconds`` of wall-clock time. The
result is returned as JSON; other output of the child is discarded.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import math
import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal

from featstore import errors
from featstore.errors import DamagedError, FeatstoreError, UsageError

_FUNCTION: Final = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", re.ASCII)
_LARGEST_ANSWER: Final = 16 << 20
_MARGIN_SECONDS: Final = 10.0
"""Seconds for starting the interpreter and loading modules, in addition to the time limit of the function."""

Cause = Literal["died", "stalled", "memory"]


class Died(DamagedError):
    """The child returned no result. ``cause``: "died", "stalled" or "memory"; the message gives details."""

    def __init__(self, cause: Cause, message: str) -> None:
        super().__init__(message)
        self.cause: Cause = cause


def check_name(name: str) -> None:
    """Raise FeatstoreError if ``name`` does not have the form "package.module:function"."""
    if not _FUNCTION.fullmatch(name):
        raise FeatstoreError(f"{name!r} is not of the form package.module:function")


def function_of(name: str) -> Callable[..., Any]:
    """Return the function named "package.module:function"; raise FeatstoreError if it does not exist."""
    check_name(name)
    module, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise FeatstoreError(f"{name}: {error}") from None
    if not callable(found):
        raise FeatstoreError(f"{name}: is no function")
    function: Callable[..., Any] = found
    return function


def fill_standard_streams() -> None:
    """Open /dev/null in place of each closed standard stream (input, output, error).

    Otherwise the next opened file gets the number of the closed stream: a child's standard input would replace a pipe
    or shared memory, and text printed by a library would be written into a store.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # os.open returns the lowest free descriptor, here that of the closed standard stream. Child processes
            # inherit it.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)


def require_working_directory() -> None:
    """Raise UsageError if the working directory does not exist: MKL, inside torch, would end the process silently."""
    try:
        os.getcwd()
    except OSError as error:
        raise UsageError(
            f"the working directory cannot be used ({error.strerror}): it was deleted or moved away; "
            "change into one that exists (cd) and run again"
        ) from None


def interpreter(entry: str) -> list[str]:
    """Return the command of a fresh interpreter that calls ``entry`` ("module:function").

    The child gets exactly the sys.path of this process; so it imports modules from the same folders.
    """
    module, _, function = entry.partition(":")
    path = [item for item in sys.path if isinstance(item, str)]
    # Use the UTF-8 mode of this process, whatever PYTHONUTF8 says, so that the child decodes names equally.
    utf8 = ["-X", "utf8"] if sys.flags.utf8_mode else []
    code = f"import sys; sys.path[:] = {path!r}; from {module} import {function}; {function}()"
    return [sys.executable, *utf8, "-c", code]


def call(function: str, arguments: Mapping[str, Any], *, seconds: float, memory: int) -> Any:
    """Return ``function(**arguments)``, computed in a sandboxed child.

    ``function``: "package.module:function"; arguments and result must be JSON values. ``seconds``: limit of wall-clock
    and CPU time. ``memory``: limit in bytes above the memory of the loaded modules.
    Raises the function's error if it is one of featstore's, and Died if the child returned no result.
    """
    request = {"function": function, "arguments": dict(arguments), "seconds": seconds, "memory": memory}
    process = subprocess.Popen(
        interpreter("featstore.processes.sandbox:serve"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        # Use one malloc arena: each further arena reserves 64 MiB of address space, which counts against the limit.
        env={**os.environ, "MALLOC_ARENA_MAX": "1"},
    )
    try:
        output, _ = process.communicate(json.dumps(request).encode(), timeout=seconds + _MARGIN_SECONDS)
    except subprocess.TimeoutExpired:
        raise Died("stalled", f"no end after {seconds:g} s") from None
    finally:
        process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            # Wait at most 5 s: the killed process may be in an uninterruptible read from a dead file server.
            process.wait(5)
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()
    return _answer(output, process.returncode, seconds)


def _answer(output: bytes, code: int | None, seconds: float) -> Any:
    try:
        value = json.loads(output[:_LARGEST_ANSWER]) if code == 0 else None
    except ValueError:
        value = None
    if isinstance(value, dict) and "value" in value:
        return value["value"]
    if isinstance(value, dict) and value.get("memory"):
        raise Died("memory", "more memory than it may take")
    if isinstance(value, dict) and "error" in value:
        raise error_of(value)
    if code == -signal.SIGXCPU:
        raise Died("stalled", f"no end after {seconds:g} s of processor time")
    raise Died("memory" if code == -signal.SIGKILL else "died", describe_exit(code))


def describe_exit(code: int | None) -> str:
    """Describe how a process ended, from subprocess's return code."""
    if code is None:
        return "it could not be ended"
    if code >= 0:
        return f"it ended itself with code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    words = {"SIGKILL": "the kernel for lack of memory, or someone,", "SIGSEGV": "a segmentation fault"}.get(name, "")
    return f"killed by {words} ({name})" if words else f"killed by {name}"


def error_of(value: Mapping[str, Any]) -> FeatstoreError:
    """Return the exception for a JSON ``value`` from ``error_value``; an unknown class becomes FeatstoreError."""
    kind = getattr(errors, str(value.get("error")), FeatstoreError)
    message = str(value.get("message"))
    if isinstance(kind, type) and issubclass(kind, FeatstoreError):
        return kind(message)
    return FeatstoreError(message)


def error_value(error: BaseException) -> dict[str, str]:
    """Return an error as JSON: the name of its closest base class in featstore.errors, and its message."""
    names = [kind.__name__ for kind in type(error).__mro__ if getattr(errors, kind.__name__, None) is kind]
    if names:
        return {"error": names[0], "message": str(error)}
    return {"error": "FeatstoreError", "message": f"{type(error).__name__}: {error}"}


def serve() -> None:
    """Answer one request on standard input; the entry point of the sandboxed child."""
    request = json.load(sys.stdin)
    answers = os.dup(1)
    with open(os.devnull, "r+b", buffering=0) as nothing:
        for stream in (0, 1, 2):
            os.dup2(nothing.fileno(), stream)
    value: dict[str, Any]
    try:
        function = function_of(request["function"])
        limit(seconds=float(request["seconds"]), memory=int(request["memory"]))
        value = {"value": function(**request["arguments"])}
    except MemoryError:
        value = {"memory": True}
    except Exception as error:
        value = error_value(error)
    with open(answers, "wb") as file:
        file.write(json.dumps(value).encode())
    # Skip the interpreter's shutdown, which may crash on a damaged heap.
    os._exit(0)


def limit(*, seconds: float, memory: int) -> None:
    """Limit this process: ``memory`` bytes above its current size, CPU ``seconds``, no written files, no core dumps."""
    limits = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_CPU: math.ceil(resource.getrusage(resource.RUSAGE_SELF).ru_utime + seconds) + 1,
    }
    with contextlib.suppress(OSError, ValueError, IndexError), open("/proc/self/statm") as file:
        limits[resource.RLIMIT_AS] = int(file.read().split()[0]) * resource.getpagesize() + memory
    for what, value in limits.items():
        hard = resource.getrlimit(what)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(what, (value, hard))


def limit_files(more: int) -> None:
    """Limit this process to ``more`` open files besides those that it has open now."""
    with contextlib.ExitStack() as probes:
        # The system limits the largest descriptor number, not the number of files, and a new file gets the lowest free
        # number. So open ``more`` files to see which numbers they get.
        taken = [probes.enter_context(open(os.devnull, "rb", buffering=0)).fileno() for _ in range(more)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(taken) + 1, max(taken) + 1))
