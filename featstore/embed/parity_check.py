"""Check the engine against plain torch on some of the user's pictures, before a long run."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from featstore import defaults
from featstore.backbones import Backbone
from featstore.embed.loader import Target
from featstore.embed.pipeline import Loaded
from featstore.engines import Engine, describe_excess, measure_drift, open_engine
from featstore.errors import FeatstoreError
from featstore.store.culprits import read_culprits
from featstore.store.denylist import Denylist
from featstore.store.plan import Plan, Unit


class PlannedUnit:
    """A unit (group of rows) with the attributes that a Loader needs; ``directory``: the work folder of this unit."""

    def __init__(self, plan: Plan, unit: Unit, directory: Path) -> None:
        self.unit, self.rows = unit, plan.rows(unit)
        self.superseded = plan.is_retired(self.rows.ids)
        self.culprits = read_culprits(directory)
        self.denied = Denylist.of(plan).content_test()


def check_drift(
    target: Target, load: Callable[[Target, int], Loaded], engine: Engine, backbone: Backbone
) -> dict[str, Any] | None:
    """Return the drift of ``engine``: how far its vectors are from plain torch's, on the same pixels of some pictures.

    The figures are those of featstore.engines.measure_drift and are recorded with the vectors. Returns None if the
    engine is plain torch, or if fewer than two of the pictures are readable. Raises FeatstoreError if the drift exceeds
    the bound of the engine's precision class (see featstore/engines/README.md).
    """
    if engine.name == "torch":
        return None
    chosen = np.unique(np.linspace(0, len(target.rows) - 1, defaults.DRIFT_PICTURES).astype(np.intp)).tolist()
    with ThreadPoolExecutor(len(chosen), "featstore-drift") as pool:
        loaded = pool.map(lambda row: load(target, row).pixels, chosen)
        pictures = [pixels for pixels in loaded if pixels is not None]
    if len(pictures) < 2:
        return None
    device = str(getattr(engine, "device", "cpu"))
    reference = open_engine(backbone, engine="torch", device=device)
    measured = measure_drift(engine, reference, np.stack(pictures))
    if far := describe_excess(engine.precision, measured):
        kept = "is not exact" if engine.precision == "fp32" else f"does not keep to its class {engine.precision}"
        remedy = "use --engine torch" if engine.precision == "fp32" else "make a new store with --precision fp32"
        raise FeatstoreError(f"the engine {engine.name} {kept} on this machine: {far}; {remedy}")
    names = ("pictures", "greatest_difference", "rms_difference", "cosine_mean", "cosine_min")
    return {name: measured[name] for name in names}
