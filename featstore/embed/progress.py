"""How far a run is, as progress bars and supervisors are told; imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """How far a run is: ``done`` of ``total`` pictures, ``failed`` of them failures; ``note`` says what it waits for."""

    done: int
    total: int
    failed: int
    note: str = ""
