"""Engines whose library is missing or broken: "auto" uses another engine, and the remaining functions still work."""

from __future__ import annotations

import subprocess
import sys
import warnings

import pytest

from featstore.engines import open_engine, openvino
from featstore.engines.cuda import can_compile
from featstore.errors import UsageError
from tests.made import tiny_backbone


@pytest.mark.parametrize("error", [ImportError("no libopenvino.so"), RuntimeError("Could not determine home")])
def test_engine_auto_uses_another_engine_if_openvino_cannot_be_imported(monkeypatch, error):
    class Broken:
        def find_spec(self, name, path=None, target=None):
            if name == "openvino":
                raise error

    for name in [name for name in sys.modules if name.partition(".")[0] == "openvino"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    monkeypatch.setattr(openvino, "find_spec", lambda name: object())
    with pytest.warns(UserWarning, match=f"cannot be imported .*{error}"):
        engine = open_engine(tiny_backbone(), engine="auto", device="cpu")
    assert engine.name == "torch-folded"
    with pytest.raises(UsageError, match="pip install openvino, or use --engine torch-folded"):
        open_engine(tiny_backbone(), engine="openvino", device="cpu")


def test_checking_for_a_missing_openvino_gives_no_warning(monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "openvino"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "openvino", None)
    monkeypatch.setattr(openvino, "find_spec", lambda name: None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not openvino.available()


def test_torch_compile_counts_as_unavailable_if_triton_cannot_be_imported(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)
    assert not can_compile()


@pytest.mark.slow
def test_importing_openvino_skips_its_telemetry_module():
    code = (
        "import logging, sys\n"
        "from featstore.engines.openvino import import_openvino\n"
        "import_openvino()\n"
        "print('openvino_telemetry' in sys.modules, logging.getLogger().handlers)\n"
        "import openvino_telemetry\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False []\n"
