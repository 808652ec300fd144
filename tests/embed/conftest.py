"""The chain of stages that some tests here start from."""

from tests.stages.conftest import chain

__all__ = ["chain"]
