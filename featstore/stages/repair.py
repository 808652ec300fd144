"""Repair a store, and extract damaged vectors again if their pictures are available."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from featstore import defaults
from featstore.errors import UsageError
from featstore.store.claims import Claims
from featstore.store.denylist import ContentTest
from featstore.store.manifest import Manifest
from featstore.store.plan import Plan, Unit
from featstore.store.repair.repairing import RepairReport, repair_store
from featstore.store.repair.shards import Remade, fail_unit
from featstore.store.rows import Rows

if TYPE_CHECKING:
    from featstore.backbones import Backbone
    from featstore.embed.recipe import Network


def repair(
    store: str | os.PathLike[str],
    *,
    root: str | os.PathLike[str] | None = None,
    backbone: str | Backbone | None = None,
    weights: str | None = None,
    engine: str = defaults.ENGINE,
    device: str = "auto",
    set_aside: bool = False,
) -> RepairReport:
    """Restore the damaged files of a store; see featstore.store.repair.repairing for what can be restored.

    A damaged vector is extracted again if its picture exists with the same bytes; otherwise the picture becomes a
    failure with the reason "damaged". ``root``: the present folder of the pictures, if they were moved. ``weights``:
    file of the backbone's weights, if the name of the weights in the store is not enough to find this file.
    ``backbone``: a loaded backbone, or the name of your own backbone function. ``set_aside``: extract nothing; pictures
    with damaged vectors become failures.

    Raises UsageError if there is no store or its backbone is not available, FeatstoreError while another process writes
    to it, DamagedError for what cannot be restored.
    """
    path = Path(store)
    if root is not None and not os.path.isdir(root):
        raise UsageError(f"{os.fspath(root)}: the root is no folder")
    remaking = _Reextraction(path, None if root is None else Path(root), backbone, weights, engine, device)

    def extract_pending(claims: Claims, report: RepairReport) -> None:
        if set_aside:
            manifest = Manifest.read(path)
            plan = Plan(path, manifest.epoch)
            report.failed += sum(
                fail_unit(path, manifest, plan, unit) for unit in plan.units() if unit.number in report.pending
            )
            report.pending = []
        elif report.pending:
            remaking.units(claims, report)

    return repair_store(path, None if set_aside else remaking.rows, extract_pending)


class _Reextraction:
    """Extract rows of a store again; the backbone is loaded on first use."""

    def __init__(
        self,
        store: Path,
        root: Path | None,
        backbone: str | Backbone | None,
        weights: str | None,
        engine: str,
        device: str,
    ) -> None:
        self.store, self.root = store, root
        self._asked = backbone, weights, engine, device
        self._opened: tuple[Manifest, Network] | None = None

    def _open(self) -> tuple[Manifest, Network]:
        from featstore.embed.recipe import reopen

        if self._opened is None:
            backbone, weights, engine, device = self._asked
            manifest = Manifest.read(self.store)
            network = reopen(
                manifest.identity,
                manifest.weights_name,
                str(self.store),
                backbone=backbone,
                weights=weights,
                engine=engine,
                device=device,
                otherwise="; or let damaged vectors become failures by --set-aside",
            )
            self._opened = manifest, network
        return self._opened

    def _roots(self, plan: Plan) -> list[Path]:
        return [self.root or Path(str(segment.source.get("root", "/"))) for segment in plan.segments]

    def rows(self, unit: Unit, rows: Rows, wanted: NDArray[np.int64], batch: int | None) -> dict[int, Remade]:
        """Extract the ``wanted`` rows of a unit (row range), in the same batches as at the first extraction.

        With the same engine, threads, instruction set and library versions, the vectors are bit-identical to
        the original vectors.
        """
        from featstore.decode import Augment, open_decoder, open_fitting
        from featstore.embed import pipeline
        from featstore.embed.loader import Loader
        from featstore.embed.pipeline import Batch, Timings

        manifest, network = self._open()
        roots = self._roots(Plan(self.store, manifest.epoch))
        timings = Timings()
        augment = Augment.from_dict(manifest.identity.augment)
        loader = Loader(
            network.backbone.preprocessing,
            roots.__getitem__,
            timings,
            max_pixels=defaults.MAX_PIXELS,
            max_bytes=defaults.MAX_FILE_BYTES,
            decode=open_decoder(manifest.identity.decoder, augment),
            fit=open_fitting(manifest.identity.decoder, augment),
        )
        size = batch or defaults.BATCH
        found: dict[int, Remade] = {}
        target = _Target(unit, rows)
        for start in np.unique(wanted // size * size).tolist():
            stop = min(start + size, len(unit))
            loaded = [loader(target, row) for row in range(start, stop)]
            done = pipeline.forward(
                Batch(target, start, stop, False), loaded, network.engine, manifest.identity.numpy_dtype, timings
            )
            failed = {row: (reason, message) for row, reason, message in done.failures}
            vectors = iter(done.vectors)
            for row in range(start, stop):
                vector = None if row in failed else next(vectors)
                if row in wanted:
                    found[row] = Remade(vector, done.sha256[row - start].tobytes(), *failed.get(row, ()))
        return found

    def units(self, claims: Claims, report: RepairReport) -> None:
        """Extract all rows of the units (row ranges) that ``report.pending`` lists.

        The pictures of a unit become failures if their folder is missing.
        """
        from featstore.embed.units import extract_units

        manifest = Manifest.read(self.store)
        plan = Plan(self.store, manifest.epoch)
        roots = self._roots(plan)
        for unit in plan.units():
            if unit.number in report.pending and not roots[unit.segment].is_dir():
                report.failed += fail_unit(self.store, manifest, plan, unit)
                report.pending.remove(unit.number)
        if report.pending:
            _, network = self._open()
            vectors, failures = extract_units(self.store, report.pending, roots, network, claims)
            report.remade += vectors
            report.failed += failures
            report.pending = []


class _Target:
    """The rows of a unit (row range), in the form that Loader takes, including removed and replaced rows."""

    def __init__(self, unit: Unit, rows: Rows) -> None:
        self.unit, self.rows = unit, rows
        self.superseded = np.zeros(len(unit), bool)
        self.culprits: dict[int, tuple[str, str]] = {}
        self.denied = ContentTest()
