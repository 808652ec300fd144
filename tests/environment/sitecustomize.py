"""Record every network connection and every written path, in this process and its children.

Python imports a module with the name sitecustomize at its start if the folder is on PYTHONPATH. Only calls made
through Python are seen; tests/slow/system_calls.py also sees the system calls of C libraries.
"""

import os
import sys
from _socket import AF_UNIX

_CONNECTIONS = {
    "socket.connect",
    "socket.getaddrinfo",
    "socket.gethostbyname",
    "socket.gethostbyaddr",
    "socket.sendto",
    "socket.sendmsg",
    "urllib.Request",
}
_CHANGES = {
    "os.mkdir": (0,),
    "os.rename": (0, 1),
    "os.link": (1,),
    "os.symlink": (1,),
    "os.remove": (0,),
    "os.rmdir": (0,),
    "os.chmod": (0,),
    "os.truncate": (0,),
    "os.utime": (0,),
}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def _watch(log: int) -> None:
    def note(kind: str, what: object) -> None:
        if isinstance(what, int):
            return
        path = os.fsdecode(what) if isinstance(what, str | bytes | os.PathLike) else repr(what)
        if kind == "write" and not os.path.isabs(path):
            # A relative path may refer to an open folder or to the working directory. This hook cannot tell which, so
            # test_watch.py checks afterwards that the working directory is empty.
            return
        os.write(log, f"{kind}\t{path!r}\n".encode("utf-8", "backslashreplace"))

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event in _CONNECTIONS:
            # Unix sockets connect local processes only; torch's DataLoader uses them.
            if getattr(arguments[0], "family", None) != AF_UNIX:
                note("connect", f"{event} {arguments[1:]!r}")
        elif event in _CHANGES:
            for at in _CHANGES[event]:
                note("write", arguments[at])
        elif event == "open":
            path, mode, flags = arguments
            if (isinstance(flags, int) and flags & _WRITING) or (isinstance(mode, str) and set(mode) & set("wax+")):
                note("write", path)

    sys.addaudithook(hook)


if "FEATSTORE_WATCH" in os.environ:
    _watch(os.open(os.environ["FEATSTORE_WATCH"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666))
