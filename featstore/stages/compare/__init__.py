"""Comparisons: the figures of each method of transfer learning on the same held-out pictures."""

from featstore.stages.compare.options import BASELINE, METHODS
from featstore.stages.compare.report import MethodResult, TransferReport
from featstore.stages.compare.stage import compare

__all__ = ["BASELINE", "METHODS", "MethodResult", "TransferReport", "compare"]
