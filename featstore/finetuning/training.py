"""Train a network, some of whose layers may be frozen, and write a checkpoint after every epoch.

All random numbers depend only on the plan's seed and the epoch. So a run that was killed and continues from its
checkpoint gives bit-identical weights, on CPUs with the same number of threads.
"""

from __future__ import annotations

import contextlib
import math
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from featstore.errors import DamagedError, DataError, Notice, UsageError
from featstore.files import atomic
from featstore.finetuning import checkpoint
from featstore.finetuning.examples import Examples, Phases, TrainingData, regrouped
from featstore.finetuning.history import METRICS, EpochRecord, Tally, write_metrics
from featstore.finetuning.optimiser import SLOTS, STEPS, Optimiser
from featstore.finetuning.plan import Plan, batch_sizes, loss_weights, order_of, rate_factor, steps_of, torch_seed
from featstore.finetuning.steps import losses, plain_mode, require_batches, seeded
from featstore.finetuning.tensorboard import Log, require_log

__all__ = ["AUXILIARY_WEIGHT", "Examples", "Phases", "TrainingData", "train"]

AUXILIARY_WEIGHT: Final = 0.4
"""Factor of the loss of Inception v3's auxiliary classifier, as in torchvision's training code."""


def train(
    network: nn.Module,
    phases: Phases,
    data: TrainingData,
    plan: Plan,
    folder: Path,
    *,
    resume: bool = False,
    log: Path | None = None,
    on_step: Callable[[int, int, int, float], None] | None = None,
    on_epoch: Callable[[EpochRecord], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> list[EpochRecord]:
    """Train ``network`` in place and return the figures of each epoch; epoch 0 measures the network as given.

    ``network``: inputs -> logits (n, c), c = 1 for two classes (sigmoid). In train mode, a network with an auxiliary
    classifier returns the tuple (logits, auxiliary logits). It is trained on the device of its parameters; on CUDA in
    channels_last, with bfloat16 if the plan says so. ``folder`` gets the checkpoint and ``metrics.csv``, ``log`` the
    files for TensorBoard. ``resume``: go on after the last epoch of the checkpoint, if there is one. ``on_step``:
    called with epoch, step, steps of an epoch, and loss.
    ``stop``: asked after every batch; True ends the run, and the network is that of the last finished epoch.

    The last epoch is kept, not the best: choosing by the held-out rows would make their figures too good. The network
    is in eval mode at the end. Raises UsageError if a checkpoint exists and ``resume`` is False, if the checkpoint
    belongs to another run, if ``log`` is a file, for a batch of one row with BatchNorm, or for bf16 without CUDA.
    Raises DamagedError if the checkpoint is damaged. Raises DataError for a single class, a class without training
    rows, or no held-out rows. Raises DataError also if a loss is not finite; network and checkpoint are then those of
    the last finished epoch. Raises OSError or FeatstoreError if the disk is full. Warns (Notice) if the checkpoint was
    made with another version of torch, number of threads or device.
    """
    if log is not None:
        require_log(log)
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder}: is a file, where a folder for the checkpoint is needed; name another one")
    run = _Run(network, phases, data, plan, folder, on_step, stop)
    if not resume and run.path.exists():
        raise UsageError(f"{run.path}: the checkpoint of an unfinished run is there; go on with --resume, or remove it")
    atomic.make_directory(folder)
    with atomic.only_writer(run.path, "checkpoint"), plain_mode(), contextlib.ExitStack() as stack:
        _remove_temporary_files(folder)
        if run.path.exists():
            run.restore()
            write_metrics(folder, run.history)
        logged = Log(log, run.origin.digest()[:16], run.history) if log is not None else None
        if logged:
            stack.callback(logged.close)
        stack.callback(network.eval)
        try:
            while len(run.history) <= plan.epochs and run.epoch():
                write_metrics(folder, run.history)
                if logged:
                    logged.add(run.history[-1])
                if on_epoch:
                    on_epoch(run.history[-1])
        except (DataError, KeyboardInterrupt):
            run.back()
            raise
    return run.history


class _Run:
    """A training run: the network, the optimiser, the history, and the checkpoint file ``path``."""

    def __init__(
        self,
        network: nn.Module,
        phases: Phases,
        data: TrainingData,
        plan: Plan,
        folder: Path,
        on_step: Callable[[int, int, int, float], None] | None,
        stop: Callable[[], bool] | None,
    ) -> None:
        self.network, self.phases, self.data, self.plan = network, phases, data, plan
        self.on_step = on_step or (lambda epoch, step, steps, loss: None)
        self.stop = stop or (lambda: False)
        self.path = folder / checkpoint.CHECKPOINT
        self.history: list[EpochRecord] = []
        self._optimiser = Optimiser(plan)
        self._device = next(network.parameters()).device
        self._weights = loss_weights(data.training.codes, len(data.classes), plan.balance)
        if not len(data.held_out):
            raise DataError("there are no held-out rows to measure the epochs on; hold some out")
        if plan.bf16 and self._device.type != "cuda":
            raise UsageError("bf16 is for CUDA only; leave it out")
        if self._device.type == "cuda":
            network.to(memory_format=torch.channels_last)
        codes = {"training": data.training.codes, "held_out": data.held_out.codes}
        digest = f"{data.digest} {checkpoint.digest(codes)}"
        self.origin = checkpoint.Origin(plan.to_dict(), checkpoint.digest_of_classes(data.classes), digest)
        require_batches(network, phases, len(data.training), plan)

    def epoch(self) -> bool:
        """Run the next epoch and save it. If the epoch is stopped, restore the previous epoch and return False."""
        epoch, started = len(self.history), time.perf_counter()
        rate, learnt, held_out = None, Tally(len(self.data.classes)), Tally(len(self.data.classes))
        self._start(epoch)
        loss = None
        if epoch:
            loss = self._learn(epoch, learnt)
            rate = self._highest_rate(epoch)
        if (epoch and loss is None) or not self._measure(held_out):
            self.back()
            return False
        record = EpochRecord(
            epoch,
            self.phases.frozen(max(epoch, 1)),
            rate,
            loss,
            learnt.accuracy if epoch else None,
            held_out.loss,
            held_out.accuracy,
            held_out.macro_f1,
            round(time.perf_counter() - started, 3),
        )
        if not math.isfinite(record.held_out_loss):
            raise DataError(f"the loss of the held-out rows is not finite after epoch {epoch}; {self._remedy(epoch)}")
        # The layers that the next epoch will train are saved too, so that an unfinished epoch can be undone.
        self._start(epoch + 1)
        arrays = self._arrays()
        for name, array in arrays.items():
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise DataError(f"the values of {name} are not finite after epoch {epoch}; {self._remedy(epoch)}")
        history = (*self.history, record)
        checkpoint.save(
            self.path, checkpoint.Saved(self.origin, self._frozen_digest(), history, self._machine()), arrays
        )
        self.history.append(record)
        return True

    def back(self) -> None:
        """Restore the last finished epoch, if there is one; epoch 0 has not changed the network."""
        if self.history:
            self.restore()

    def restore(self) -> None:
        """Load network, optimiser and history from the checkpoint.

        Raises UsageError if it belongs to another run, DamagedError if it is damaged.
        """
        with checkpoint.opened(self.path) as file:
            epochs = len(file.saved.history) - 1
            self._start(epochs + 1)
            file.require(self.origin, self._frozen_digest())
            if epochs > self.plan.epochs:
                raise DamagedError(
                    f"{self.path}: has {epochs:,} epochs, where {self.plan.epochs:,} are planned; remove the file to start again"
                )
            expected = {
                name: (str(each.dtype).removeprefix("torch."), tuple(each.shape)) for name, each in self._named()
            }
            slots: dict[str, tuple[str, tuple[int, ...]]] = {}
            for name, parameter in self.network.named_parameters():
                if parameter.requires_grad:
                    for slot in SLOTS[self.plan.optimiser]:
                        slots[f"optimiser/{slot}/{name}"] = ("float32", () if slot == STEPS else tuple(parameter.shape))
            if not self.history and (notice := file.notice_of_machine(self._machine())):
                warnings.warn(notice, Notice, stacklevel=3)
            arrays = file.read(expected | slots, frozenset(slots))
            with torch.no_grad():
                for name, each in self._named():
                    each.copy_(torch.from_numpy(arrays[name]))
            self._optimiser.state = {}
            for name in sorted(arrays.keys() & slots.keys()):
                _, slot, owner = name.split("/", 2)
                device = "cpu" if slot == STEPS else self._device
                made = torch.empty(arrays[name].shape, dtype=torch.float32, device=device)
                self._optimiser.state[owner, slot] = made.copy_(torch.from_numpy(arrays[name]))
            self.history = list(file.saved.history)

    def _start(self, epoch: int) -> None:
        """Freeze and unfreeze layers for ``epoch``. An ``epoch`` below the first or above the last counts as the first
        or the last.
        """
        epoch = min(max(epoch, 1), self.plan.epochs)
        self._groups = self.phases.start(epoch)
        self.network.train()

    def _learn(self, epoch: int, tally: Tally) -> float | None:
        """Train one epoch and return the mean loss; None if the run was stopped. Raises DataError if a loss is not
        finite.
        """
        plan, order = self.plan, order_of(self.data.training.codes, self.plan, epoch)
        sizes = batch_sizes(len(order), plan.batch_size)
        steps, total = steps_of(len(order), plan), 0.0
        batches = regrouped(self.data.training.batches(order, epoch, plan.batch_size), order, sizes)
        with seeded(self._device, torch_seed(plan, epoch)), contextlib.closing(batches):
            for number, (inputs, rows) in enumerate(batches):
                step = number // plan.accumulate
                loss = self._loss(inputs, rows, tally)
                total += float(loss[0].detach())
                if not math.isfinite(float(loss[1].detach())):
                    raise DataError(
                        f"the loss is not finite in epoch {epoch}, step {step + 1:,} of {steps:,}; {self._remedy(epoch)}"
                    )
                (loss[1] / sum(sizes[step * plan.accumulate : (step + 1) * plan.accumulate])).backward()  # type: ignore[no-untyped-call]
                if number + 1 == len(sizes) or (number + 1) % plan.accumulate == 0:
                    done = (epoch - 1) * steps + step
                    self._optimiser.step(self._groups, rate_factor(done, steps * plan.epochs))
                    self.on_step(epoch, step + 1, steps, total / sum(sizes[: number + 1]))
                if self.stop():
                    self.network.zero_grad()
                    return None
        return total / len(order)

    def _loss(self, inputs: Tensor, rows: NDArray[np.intp], tally: Tally) -> tuple[Tensor, Tensor]:
        """Return two sums over ``rows``: of the loss, and of the loss including that of the auxiliary classifier."""
        codes = self.data.training.codes[rows]
        weights = torch.from_numpy(self._weights[rows]).to(self._device)
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self.plan.bf16):
            outputs = self.network(self._moved(inputs))
        logits, auxiliary = outputs if isinstance(outputs, tuple) else (outputs, None)
        self._require_outputs(logits)
        with np.errstate(invalid="ignore"):
            tally.add(logits.detach().float().cpu().numpy(), codes)
        loss = (losses(logits, codes, self.plan.label_smoothing) * weights).sum()
        if auxiliary is None:
            return loss, loss
        return loss, loss + AUXILIARY_WEIGHT * (losses(auxiliary, codes, self.plan.label_smoothing) * weights).sum()

    def _measure(self, tally: Tally) -> bool:
        """Add the held-out rows to ``tally``, in float32; return False if the run was stopped."""
        held_out = self.data.held_out
        rows = np.arange(len(held_out))
        sizes = batch_sizes(len(rows), self.plan.batch_size)
        self.network.eval()
        batches = regrouped(held_out.batches(rows, 1, self.plan.batch_size), rows, sizes)
        with torch.no_grad(), contextlib.closing(batches):
            for inputs, part in batches:
                logits = self.network(self._moved(inputs))
                self._require_outputs(logits)
                with np.errstate(invalid="ignore"):
                    tally.add(logits.float().cpu().numpy(), held_out.codes[part])
                if self.stop():
                    return False
        self.network.train()
        return True

    def _moved(self, inputs: Tensor) -> Tensor:
        if self._device.type == "cuda":
            moved = inputs.to(self._device, non_blocking=True)
            return moved.contiguous(memory_format=torch.channels_last) if moved.ndim == 4 else moved
        # Copy into memory that torch allocates: the last bits of a product may depend on the alignment of the memory.
        return inputs.to(self._device).clone(memory_format=torch.contiguous_format)

    def _require_outputs(self, logits: Tensor) -> None:
        classes = len(self.data.classes)
        if logits.ndim != 2 or logits.shape[1] not in ({1, 2} if classes == 2 else {classes}):
            raise UsageError(
                f"the network has outputs of shape {tuple(logits.shape)}, which do not fit {classes:,} classes"
            )

    def _highest_rate(self, epoch: int) -> float:
        steps = steps_of(len(self.data.training), self.plan)
        factor = max(rate_factor(step, steps * self.plan.epochs) for step in range((epoch - 1) * steps, epoch * steps))
        return factor * max(float(group["lr"]) for group in self._groups)

    def _named(self) -> Iterator[tuple[str, Tensor]]:
        """Yield the tensors of the network that training changes, with their names in the checkpoint."""
        for name, parameter in self.network.named_parameters():
            if parameter.requires_grad:
                yield f"network/{name}", parameter
        for name, module in self.network.named_modules():
            if module.training:
                yield from ((f"network/{each}", buffer) for each, buffer in module.named_buffers(name, recurse=False))

    def _arrays(self) -> dict[str, NDArray[Any]]:
        found = {name: each.detach().cpu().contiguous().numpy() for name, each in self._named()}
        for (name, slot), each in self._optimiser.state.items():
            found[f"optimiser/{slot}/{name}"] = each.detach().cpu().contiguous().numpy()
        return found

    def _frozen_digest(self) -> str:
        """Return the digest of the names and shapes of all tensors of the network, and of the values of the frozen
        tensors.
        """
        trained = {name for name, _ in self._named()}
        arrays: dict[str, NDArray[Any]] = {}
        for name, each in [*self.network.named_parameters(), *self.network.named_buffers()]:
            if f"network/{name}" in trained:
                arrays[f"{name} {tuple(each.shape)}"] = np.zeros(0, np.uint8)
            else:
                arrays[name] = each.detach().cpu().contiguous().numpy()
        return checkpoint.digest(arrays)

    def _machine(self) -> dict[str, str]:
        return {"torch": torch.__version__, "threads": str(torch.get_num_threads()), "device": self._device.type}

    def _remedy(self, epoch: int) -> str:
        """Return what to do after a loss that is not finite in ``epoch``. --resume would repeat the same steps."""
        if not epoch:
            return (
                "nothing is trained yet, so the network as given has such values: take other weights or another network"
            )
        kept = "the last good one" if epoch > 1 else "from before the training"
        return (
            f"start anew with --force and an --lr smaller than {self.plan.learning_rate:g}; until then epoch "
            f"{epoch - 1}, {kept}, is kept in {self.path}"
        )


def _remove_temporary_files(folder: Path) -> None:
    """Remove the temporary files of checkpoint and metrics that a killed run left behind."""
    for name in (checkpoint.CHECKPOINT, METRICS):
        for path in folder.glob(f".{name}.*{atomic.TEMPORARY_SUFFIX}"):
            path.unlink(missing_ok=True)
