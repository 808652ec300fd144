"""Extraction: the stage from a source of pictures to a store, and the pipeline that drives it."""

from featstore.extraction.stage import ExtractReport, Progress, extract, identity_of

__all__ = ["ExtractReport", "Progress", "extract", "identity_of"]
