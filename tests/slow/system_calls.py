"""Check by strace that no command and no Python function of featstore opens a connection or writes an unexpected file.

``python -m tests.slow.system_calls [all|few]``: needs strace. tests/environment/test_watch.py sees only the calls of
Python code; this check also sees system calls of C libraries. Prints the paths written outside the working folder. The
exit code is 1 if a connection was opened, or if a file was written outside the working folder, the caches and the
temporary folders.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

SURFACE = Path(__file__).resolve().parents[1] / "environment/surface.py"
CALLS = "connect,sendto,open,openat,creat,mkdir,mkdirat,rename,renameat,renameat2,link,linkat,symlink,symlinkat"
PATH = re.compile(r'"((?:[^"\\]|\\.)*)"')


def main() -> int:
    """Run tests/environment/surface.py under strace, with a HOME that does not exist and few environment variables."""
    with tempfile.TemporaryDirectory(prefix="watched-") as name:
        place, elsewhere, log = (Path(name) / part for part in ("place", "elsewhere", "log"))
        place.mkdir()
        elsewhere.mkdir()
        home = Path(name) / "home"
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": os.fspath(home),
            "PYTHONPATH": os.fspath(SURFACE.parents[2]),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        traced = ["strace", "-f", "-qq", "-y", "-s", "512", "-e", f"trace={CALLS}", "-o", os.fspath(log)]
        what = sys.argv[1] if len(sys.argv) > 1 else "all"
        done = subprocess.run(
            [*traced, sys.executable, os.fspath(SURFACE), os.fspath(place), what], cwd=elsewhere, env=environment
        )
        allowed = (os.fspath(place), os.fspath(home / ".cache/featstore"), "/dev/", "/proc/")
        connected, written = Counter(), Counter()
        with open(log, errors="replace") as file:
            for line in file:
                call = line.split(None, 1)[1]
                if call.startswith(("connect", "sendto")):
                    # Count only internet connections; local sockets between processes are allowed.
                    if "AF_INET" in call or "sin_addr" in call:
                        connected[call.strip()[:200]] += 1
                    continue
                if call.startswith(("open", "creat")) and not re.search("O_WRONLY|O_RDWR|O_CREAT|O_TRUNC", call):
                    continue
                paths = PATH.findall(call)
                folder = re.search(r"<([^>]+)>", call)
                for path in paths[-1:]:
                    whole = path if path.startswith("/") else os.path.join(folder[1] if folder else "", path)
                    if " = -1 " not in call and not whole.startswith(allowed):
                        written[re.sub(r"[0-9a-z_]{8}$", "*", whole)] += 1
        strange = {path: n for path, n in written.items() if not path.startswith((tempfile.gettempdir(), name))}
        print("connections:", dict(connected) or "none")
        print("written in the folder of temporary files:", {p: n for p, n in written.items() if p not in strange})
        print("written elsewhere:", strange or "nothing")
        print("left in the working directory:", os.listdir(elsewhere) or "nothing")
        return int(bool(done.returncode or connected or strange or os.listdir(elsewhere)))


if __name__ == "__main__":
    sys.exit(main())
