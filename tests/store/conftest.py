"""Import the fixture ``chain``: a folder of pictures and the store, heads and index made from it."""

from tests.stages.conftest import chain

__all__ = ["chain"]
