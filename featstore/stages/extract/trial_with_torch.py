"""Try one picture in a separate process with limits, with the fast decoder.

This module imports torch before the process gets its limits; trial.py does the same for the decoder without torch.
"""

from __future__ import annotations

from featstore.decode import fast
from featstore.stages.extract.trial import try_picture

__all__ = ["fast", "try_picture"]
