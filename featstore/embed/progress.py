"""Progress of a run, for progress bars and supervisors; this module imports no large library."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """Progress of a run: ``done`` of ``total`` pictures are finished, including ``failed`` failures.

    ``note`` says what the run is waiting for.
    """

    done: int
    total: int
    failed: int
    note: str = ""
