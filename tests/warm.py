"""Start processes that have already imported torch, because a fresh interpreter takes seconds to import it.

``SERVER`` forks processes from a server that has imported the large libraries. ``ForkedWorkers`` and ``ServedWorkers``
take the place of the module ``subprocess`` in the supervisor of an extraction, and start its worker as such a fork.
"""

from __future__ import annotations

import abc
import contextlib
import fcntl
import itertools
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from multiprocessing import reduction
from typing import Any

SERVER = multiprocessing.get_context("forkserver")
# The fork server starts no threads, so that the forked processes may start threads. (Importing openvino starts one.)
SERVER.set_forkserver_preload(
    ["numpy", "scipy.stats", "h5py", "PIL.Image", "torch", "torch.fx", "torchvision", "sklearn.metrics", "faiss"]
)


class _Worker(abc.ABC):
    """A replacement for ``subprocess.Popen`` with only the parts that the supervisor uses. The command is ``python
    OPTIONS -c CODE ARGUMENTS``.
    """

    def __init__(self, command: Sequence[str], *, pass_fds: Sequence[int], stdin: int, process_group: int) -> None:
        assert (stdin, process_group) == (subprocess.DEVNULL, 0)
        self.returncode: int | None = None
        self.pid = self._start(command, pass_fds)

    @abc.abstractmethod
    def _start(self, command: Sequence[str], passed: Sequence[int]) -> int: ...

    @abc.abstractmethod
    def _wait(self) -> int: ...

    def kill(self) -> None:
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end of the process without a time limit: the supervisor waits only for ended workers."""
        if self.returncode is None:
            self.returncode = self._wait()
        return self.returncode


class _Forked(_Worker):
    def _start(self, command: Sequence[str], passed: Sequence[int]) -> int:
        sys.stdout.flush()
        sys.stderr.flush()
        child = os.fork()
        if child == 0:
            _work(command, passed)
        return child

    def _wait(self) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


class _Served(_Worker):
    def _start(self, command: Sequence[str], passed: Sequence[int]) -> int:
        streams = {number: reduction.DupFd(number) for number in (1, 2, *passed)}
        arguments = (list(command), list(passed), streams, os.getcwd(), dict(os.environ))
        self._process = SERVER.Process(target=_serve, args=arguments)
        self._process.start()
        assert self._process.pid is not None
        return self._process.pid

    def _wait(self) -> int:
        self._process.join()
        assert self._process.exitcode is not None
        return self._process.exitcode


def _serve(
    command: list[str], passed: list[int], streams: dict[int, Any], cwd: str, environment: dict[str, str]
) -> None:
    """Do the work of a worker in this process, which SERVER has forked; give file descriptors their numbers first."""
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    # Move all received descriptors to large numbers first, so that none is overwritten by another one.
    received = {number: fcntl.fcntl(stream.detach(), fcntl.F_DUPFD, 1000) for number, stream in streams.items()}
    for number, handle in received.items():
        os.dup2(handle, number)
    _work(command, passed)


def _work(command: Sequence[str], passed: Sequence[int]) -> None:
    """Run the code of a worker's command as a fresh interpreter would do it, and end this process.

    Only the file descriptors 0, 1, 2 and ``passed`` stay open, and signals have their default effect.
    """
    code = 1
    try:
        os.setpgid(0, 0)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        kept = [2, *sorted(passed), os.sysconf("SC_OPEN_MAX")]
        for before, after in itertools.pairwise(kept):
            os.closerange(before + 1, after)
        at = command.index("-c")
        sys.argv = ["-c", *command[at + 2 :]]
        exec(compile(command[at + 1], "<string>", "exec"), {"__name__": "__main__"})
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def call_in_fork(function: str, arguments: Mapping[str, Any]) -> Any:
    """Return ``function(**arguments)``, computed in a fork of this process, which must not have other threads.

    ``function``: "package.module:function"; its result must be a JSON value.
    """
    from featstore.processes import sandbox

    assert threading.active_count() == 1
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            value = sandbox.function_of(function)(**arguments)
            with open(writing, "w") as file:
                json.dump(value, file)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(writing)
    with open(reading) as file:
        answer = file.read()
    assert os.waitpid(child, 0)[1] == 0
    return json.loads(answer)


class ForkedWorkers:
    """Replaces the module ``subprocess``: a worker is a fork of this process, or a fresh interpreter if it may have
    threads.

    In a fork of a process with threads, a lock that another thread held would stay locked for ever.
    """

    DEVNULL, TimeoutExpired = subprocess.DEVNULL, subprocess.TimeoutExpired

    @staticmethod
    def Popen(command: Sequence[str], **options: Any) -> _Worker | subprocess.Popen[bytes]:
        try:
            threads = len(os.listdir("/proc/self/task"))
        except OSError:
            threads = 2
        return _Forked(command, **options) if threads == 1 else subprocess.Popen(command, **options)


class ServedWorkers:
    """Replaces the module ``subprocess``: a worker is a fork of SERVER, so this process may have threads."""

    DEVNULL, TimeoutExpired, Popen = subprocess.DEVNULL, subprocess.TimeoutExpired, _Served
