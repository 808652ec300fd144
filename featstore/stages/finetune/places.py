"""The files and folders of a fine-tuning run, and checks of them before any work is done."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featstore.errors import UsageError
from featstore.files import atomic
from featstore.files.model_folder import require_replaceable
from featstore.finetuning.checkpoint import CHECKPOINT
from featstore.finetuning.tensorboard import require_log
from featstore.stages.finetune.options import FinetuneOptions

_INPUTS = "inputs.json"


@dataclass(frozen=True)
class Places:
    """The paths of a run, all beside the folder ``model``.

    ``features``: store of the features, if the source is not a store; ``cache``: folder of the activations of frozen
    layers;
    ``run``: folder with the state of an unfinished run (checkpoint, metrics.csv, the head at the start).
    """

    model: Path
    features: Path
    cache: Path
    run: Path

    @classmethod
    def of(cls, out: str | os.PathLike[str]) -> Places:
        """Return the paths of a run that writes the model ``out``. Raises UsageError if ``out`` has no name."""
        model = Path(out)
        if model.name in ("", ".."):
            raise UsageError(f"out: {os.fspath(out)!r} is no name for a new folder; name one, such as my.model")
        return cls(model, *(model.with_name(f"{model.name}.{end}") for end in ("features", "cache", "run")))

    def check(self, options: FinetuneOptions) -> None:
        """Raise UsageError if one of the paths cannot be written, or if a model or a run exists and may not be
        replaced.
        """
        atomic.require_place(self.model, ".features")
        require_replaceable(self.model, options.force)
        unfinished = (self.run / CHECKPOINT).exists()
        if unfinished and not (options.resume or options.force):
            raise UsageError(f"{self.run}: holds an unfinished run; --resume continues it, --force starts it anew")
        if options.resume and not unfinished:
            raise UsageError(f"{self.run}: there is no unfinished run to resume; leave --resume out")
        if options.tensorboard is not None:
            require_log(Path(options.tensorboard))
        if options.weights_only is not None:
            self._check_weights_only(Path(options.weights_only), options.force)

    def _check_weights_only(self, file: Path, force: bool) -> None:
        atomic.require_place(file)
        above = {Path(os.path.abspath(each)) for each in (self.model, self.features, self.cache, self.run)}
        if above & set(Path(os.path.abspath(file)).parents):
            raise UsageError(f"{file}: lies in a folder of the model; name a file elsewhere for --weights-only")
        if os.path.lexists(file) and (file.suffix != ".safetensors" or not file.is_file()):
            raise UsageError(f"{file}: exists and is no .safetensors file; name another file")
        if os.path.lexists(file) and not force:
            raise UsageError(f"{file}: exists; name another file for --weights-only, or replace it with --force")

    def clear_run(self) -> None:
        """Remove the state of an unfinished run."""
        # Remove the checkpoint first: without it, what is left after a kill does not count as an unfinished run.
        (self.run / CHECKPOINT).unlink(missing_ok=True)
        shutil.rmtree(self.run, ignore_errors=True)

    def read_inputs(self) -> dict[str, Any]:
        """Return the choice of the inputs that ``write_inputs`` wrote. Raises DamagedError if it is damaged, OSError if
        it cannot be read.
        """
        return atomic.read_json(self.run / _INPUTS)

    def write_inputs(self, value: dict[str, Any]) -> None:
        """Record in the folder of the run whether the inputs are cached or live."""
        atomic.write_json(self.run / _INPUTS, value)


def unfinished(out: str | os.PathLike[str]) -> bool:
    """Return whether an interrupted run of ``finetune`` for the model ``out`` can be continued with ``resume``."""
    return (Places.of(out).run / CHECKPOINT).exists()
