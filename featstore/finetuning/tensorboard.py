"""Write the figures of each epoch to files for TensorBoard."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from featstore.errors import UsageError
from featstore.finetuning.history import EpochRecord, scalars
from featstore.text import shown

_SUFFIX: Final = "featstore"


def require_log(folder: Path) -> None:
    """Raise UsageError if no TensorBoard files can be written to ``folder``; for a check before a long computation."""
    _writer_class()
    for place in (folder, *folder.absolute().parents):
        if place.exists():
            if not place.is_dir():
                raise UsageError(
                    f"{shown(folder)}: {shown(place)} is a file, where a folder is needed; name another log folder"
                )
            break


class Log:
    """Writes one event file into ``folder``. An earlier event file of the same run is replaced; files of other runs are
    kept.

    ``run``: letters and digits that name the run. ``history``: the epochs so far, which are written at the start. So
    the file has every epoch exactly once, even after the run was killed and resumed.
    """

    def __init__(self, folder: Path, run: str, history: Sequence[EpochRecord]) -> None:
        require_log(folder)
        folder.mkdir(parents=True, exist_ok=True)
        suffix = f".{run}.{_SUFFIX}"
        for old in folder.glob(f"events.out.tfevents.*{suffix}"):
            old.unlink()
        # A running TensorBoard then discards the data that it read from the replaced file.
        purge = {"purge_step": 0} if history else {}
        self._writer = _writer_class()(str(folder), filename_suffix=suffix, **purge)
        for record in history:
            self.add(record)

    def add(self, record: EpochRecord) -> None:
        """Write the figures of an epoch; the file is complete when this method returns."""
        for name, value in scalars(record).items():
            self._writer.add_scalar(name, value, record.epoch)
        self._writer.flush()

    def close(self) -> None:
        """Close the event file."""
        self._writer.close()


def _writer_class() -> Any:
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        raise UsageError(
            "files for TensorBoard need the package tensorboardX; run: pip install 'image-featstore[tensorboard]'"
        ) from None
    return SummaryWriter
