"""Comparisons: what each method of transfer learning reaches on the same held-out pictures."""

from featstore.stages.compare.options import BASELINE, METHODS
from featstore.stages.compare.report import MethodResult, TransferReport
from featstore.stages.compare.stage import compare

__all__ = ["BASELINE", "METHODS", "MethodResult", "TransferReport", "compare"]
