"""The files and folders of a fine-tuning run, and checks of them before any work is done."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featstore.errors import DamagedError, UsageError
from featstore.files import atomic
from featstore.files.model_folder import require_replaceable
from featstore.finetuning.checkpoint import CHECKPOINT
from featstore.finetuning.history import METRICS
from featstore.finetuning.tensorboard import require_log
from featstore.stages.finetune.options import FinetuneOptions

_INPUTS = "inputs.json"
_STARTING_HEAD = "start.head"
_OF_RUN = (CHECKPOINT, METRICS, _INPUTS, _STARTING_HEAD)
"""Names of the files in the folder of a run."""


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
        """Return the paths of a run that writes the model ``out``. Raises UsageError if ``out`` ends in no name."""
        model = Path(out)
        if model.name in ("", ".."):
            raise UsageError(f"{os.fspath(out)!r}: does not end in a name for the model; write one, such as my.model")
        return cls(model, *(model.with_name(f"{model.name}.{end}") for end in ("features", "cache", "run")))

    def check(self, options: FinetuneOptions) -> None:
        """Raise UsageError if one of the paths cannot be written, or if a model or a run exists and may not be
        replaced.

        A run that is resumed may replace a model: the run began without a model or with ``force``, or it was
        interrupted after it had written this model.
        """
        atomic.require_place(self.model, ".features")
        unfinished = (self.run / CHECKPOINT).exists()
        require_replaceable(self.model, options.force or (options.resume and unfinished))
        if unfinished and not (options.resume or options.force):
            raise UsageError(f"{self.run}: holds an unfinished run; --resume continues it, --force starts it anew")
        if options.resume and not unfinished:
            raise UsageError(f"{self.run}: there is no unfinished run to resume; leave --resume out")
        self._require_own_run()
        for name in ("tensorboard", "weights_only"):
            place = getattr(options, name)
            if place is not None:
                self.require_apart(place)
        if options.tensorboard is not None:
            require_log(Path(options.tensorboard))
        if options.weights_only is not None:
            self._check_weights_only(Path(options.weights_only), options.force or options.resume)

    def _check_weights_only(self, file: Path, force: bool) -> None:
        atomic.require_place(file)
        self.require_apart(file)
        if os.path.lexists(file) and (file.suffix != ".safetensors" or not file.is_file()):
            raise UsageError(f"{file}: exists and is no .safetensors file; name another file")
        if os.path.lexists(file) and not force:
            raise UsageError(f"{file}: exists; name another file for --weights-only, or replace it with --force")

    def require_apart(self, place: str | os.PathLike[str]) -> None:
        """Raise UsageError if ``place``, another output of the run, is in one of the folders that the run writes."""
        real = Path(os.path.realpath(place))
        for folder in (self.model, self.features, self.cache, self.run):
            if real.is_relative_to(os.path.realpath(folder)):
                raise UsageError(f"{os.fspath(place)}: is in {folder}, which this run writes; name another place")

    def _require_own_run(self) -> None:
        """Raise UsageError if there is something at the path of the run's folder that no run wrote."""
        if not os.path.lexists(self.run):
            return
        remedy = "move it away, or name another model"
        if self.run.is_symlink() or not self.run.is_dir():
            raise UsageError(f"{self.run}: is no folder, where the state of the run is to be kept; {remedy}")
        strange = sorted(name for name in os.listdir(self.run) if not _is_of_run(name))
        if strange:
            raise UsageError(f"{self.run}: holds {strange[0]!r}, which is no part of an interrupted run; {remedy}")

    @property
    def starting_head(self) -> Path:
        """Path of the head with which the network starts."""
        return self.run / _STARTING_HEAD

    def clear_run(self) -> None:
        """Remove the state of an unfinished run; other files in its folder are kept, and so is then the folder."""
        if self.run.is_symlink() or not self.run.is_dir():
            return
        # Remove the checkpoint first: without it, what is left after a kill does not count as an unfinished run.
        for name in sorted(os.listdir(self.run), key=lambda name: name != CHECKPOINT):
            if _is_of_run(name):
                (self.run / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.run.rmdir()

    def clear_run_without_epochs(self) -> None:
        """Remove the state of a run that has no checkpoint, so that it cannot be resumed."""
        if not (self.run / CHECKPOINT).exists():
            self.clear_run()

    def read_inputs(self) -> tuple[dict[str, Any], float]:
        """Return what ``write_inputs`` wrote. Raises DamagedError if the file is damaged or missing, OSError if it
        cannot be read.
        """
        try:
            value = atomic.read_json(self.run / _INPUTS)
            return value["choice"], float(value["cache_seconds"])
        except DamagedError as error:
            raise self.damaged_inputs(str(error).removeprefix(f"{self.run / _INPUTS}: ")) from None
        except FileNotFoundError:
            raise self.damaged_inputs("it is missing") from None
        except (KeyError, TypeError, ValueError):
            raise self.damaged_inputs("its fields are not those of a run") from None

    def damaged_inputs(self, why: str) -> DamagedError:
        """Return the error that the record of the inputs is damaged, with the remedy."""
        return DamagedError(
            f"{self.run / _INPUTS}: {why}, so the run cannot be resumed; leave --resume out and add --force to start it anew"
        )

    def write_inputs(self, choice: dict[str, Any], cache_seconds: float) -> None:
        """Record in the folder of the run whether the inputs are cached or live (``choice``, JSON), and how long it
        took to make the cache.
        """
        atomic.write_json(self.run / _INPUTS, {"choice": choice, "cache_seconds": cache_seconds})


def _is_of_run(name: str) -> bool:
    """Return whether ``name`` is that of a file of a run, or of such a file's lock or temporary file."""
    return name in _OF_RUN or any(
        name == f".{each}.lock" or (name.startswith(f".{each}.") and name.endswith(atomic.TEMPORARY_SUFFIX))
        for each in _OF_RUN
    )


def unfinished(out: str | os.PathLike[str]) -> bool:
    """Return whether an interrupted run of ``finetune`` for the model ``out`` can be continued with ``resume``."""
    return (Places.of(out).run / CHECKPOINT).exists()


def require_apart(place: str | os.PathLike[str], out: str | os.PathLike[str]) -> None:
    """Raise UsageError if the file ``place`` is in one of the folders that ``finetune`` writes for the model ``out``."""
    Places.of(out).require_apart(place)
