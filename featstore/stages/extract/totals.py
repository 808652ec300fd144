"""Sums of the results of all worker processes (attempts) of a supervised extraction, for each of its runs."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from featstore.embed.progress import Progress
from featstore.errors import UsageError
from featstore.stages.extract.report import ExtractReport


class Totals:
    """Results of each run, summed over the attempts (worker processes). A run writes one of the ``stores``.

    ``changes``: how each plan changed, from the first attempt that reported it. ``planning``: seconds that the
    supervisor took to compare the source with the stores. ``restarts``: how often a worker was started again.
    """

    def __init__(self, progress: Callable[[Progress], None] | None, stores: Sequence[str]) -> None:
        self.progress, self.stores = progress, stores
        self.changes: list[dict[str, int] | None] = [None] * len(stores)
        self.planning, self.restarts = 0.0, 0
        self._done, self._failed = [0] * len(stores), [0] * len(stores)
        self._reasons: list[Counter[str]] = [Counter() for _ in stores]
        self._now: dict[int, Progress] = {}

    def add(self, did: Mapping[int, tuple[int, int, Mapping[str, int]]]) -> None:
        """Add the counts of an attempt that ended without a report.

        ``did``: (pictures, failures, number of failures by reason) by run number.
        """
        for number, (done, failed, reasons) in did.items():
            self._done[number] += done
            self._failed[number] += failed
            self._reasons[number].update(reasons)
        self._now = {}

    def tell(self, number: int, now: Progress) -> None:
        """Record the progress of extraction number ``number``, and report the progress of all extractions together."""
        self._now[number] = now
        if self.progress is not None:
            done, failed, now_all = sum(self._done), sum(self._failed), self._now.values()
            self.progress(
                Progress(
                    done + sum(each.done for each in now_all),
                    done + sum(each.total for each in now_all),
                    failed + sum(each.failed for each in now_all),
                    now.note,
                )
            )

    def reports(self, values: Sequence[dict[str, Any]], started: float, began: float) -> list[ExtractReport]:
        """Return the reports of the last attempt, with the counts of earlier attempts added.

        ``values``: the reports of the last attempt as JSON; ``started``: start of the extraction; ``began``: start of
        the last attempt.
        """
        reports, before, seconds = [], began - started, time.monotonic() - started
        for number, value in enumerate(values):
            report = ExtractReport.from_dict({**value, "change": self.changes[number] or value["change"]})
            report.timings["planning"] = round(report.timings["planning"] + self.planning, 3)
            report.timings["restarts"] = round(before - self.planning, 3)
            report.timings["closing"] = round(report.timings["closing"] + seconds - before - report.seconds, 3)
            report.restarts, report.seconds = self.restarts, round(seconds, 3)
            report.new_vectors += self._done[number] - self._failed[number]
            report.new_failures += self._failed[number]
            report.reasons = dict((self._reasons[number] + Counter(report.reasons)).most_common())
            reports.append(report)
        return reports

    def stopped(self, seconds: float) -> list[ExtractReport]:
        """Return a report for each run if the extraction was stopped and the worker left no reports."""
        from featstore.store import Counts, FeatureStore
        from featstore.store.planner import Change

        reports = []
        for number, store in enumerate(self.stores):
            try:
                counts = FeatureStore(store).counts
            except UsageError:
                # The run was stopped before the store was created.
                counts = Counts(0, 0, 0, 0)
            report = ExtractReport(store, Change(**(self.changes[number] or {})), *counts.__dict__.values())
            report.stopped, report.restarts, report.seconds = True, self.restarts, round(seconds, 3)
            report.new_vectors = self._done[number] - self._failed[number]
            report.new_failures = self._failed[number]
            report.reasons = dict(self._reasons[number].most_common())
            reports.append(report)
        return reports
