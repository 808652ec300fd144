from __future__ import annotations

import subprocess
import sys

import pytest

pytest.importorskip("openvino")

SIGNALS = """
import gc, signal, subprocess, threading

from featstore.engines.openvino import OpenVinoEngine
from tests.made import tiny_backbone

signal.signal(signal.SIGCHLD, lambda *_: None)
engines = [OpenVinoEngine(tiny_backbone())]
thread = threading.Thread(target=lambda: (engines.clear(), gc.collect()))
thread.start()
thread.join()
for _ in range(20):
    subprocess.run(["true"], check=True)
"""


@pytest.mark.slow
def test_signal_handling_works_after_a_thread_that_used_openvino_ended():
    # With faulthandler, Python handles signals on an alternate stack, which OpenVINO replaces on processors with AMX.
    ended = subprocess.run([sys.executable, "-X", "faulthandler", "-W", "ignore", "-c", SIGNALS], check=False)
    assert ended.returncode == 0
