from __future__ import annotations

import platform
import subprocess
import sys

import pytest
from click.testing import CliRunner

from featstore.cli import featstore
from featstore.processes import malloc


def test_keep_memory_makes_malloc_reuse_freed_memory() -> None:
    code = (
        "from featstore.processes.malloc import keep_memory; import ctypes, resource\n"
        "kept = keep_memory()\n"
        "import numpy as np\n"
        "for _ in range(3): np.ones(32 << 20, np.uint8)\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "for _ in range(10): np.ones(32 << 20, np.uint8)\n"
        "print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)\n"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    if platform.libc_ver()[0] == "glibc":
        assert answer[0] == "True"
        # If malloc returned memory to the system, there would be 10 x 8192 page faults.
        assert int(answer[1]) < 2000
    else:
        assert answer[0] == "False"


@pytest.mark.parametrize("arguments", [["finetune", "s", "--out", "m"], ["compare", "--transfer", "s", "--out", "m"]])
def test_commands_that_train_keep_freed_memory_before_they_begin(arguments, monkeypatch, tmp_path):
    class Began(Exception):
        pass

    def keep_memory():
        raise Began

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(malloc, "keep_memory", keep_memory)
    result = CliRunner().invoke(featstore, arguments, standalone_mode=False)
    assert isinstance(result.exception, Began)
