"""Train the unfrozen layers and the head: build the network, choose cached or live inputs, run the epochs."""

from __future__ import annotations

import copy
import threading
import time
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from featstore.embed.progress import Progress
from featstore.finetuning import budget
from featstore.finetuning.budget import Choice
from featstore.finetuning.inputs import Augmentation, CachedExamples, LiveExamples
from featstore.finetuning.network import TunedNetwork, parameter_groups, trained_parameters
from featstore.finetuning.optimiser import Optimiser
from featstore.finetuning.phases import LayerPhases
from featstore.finetuning.plan import Plan
from featstore.finetuning.steps import require_batches
from featstore.finetuning.training import Examples, TrainingData
from featstore.finetuning.training import train as train_epochs
from featstore.heads.calibration import softmax
from featstore.heads.evaluation.report import codes_of
from featstore.stages.finetune.caching import make_cache, trunk_backbone, views_of
from featstore.stages.finetune.cutting import Cut
from featstore.stages.finetune.events import Event, Teller
from featstore.stages.finetune.options import NO_CACHE, FinetuneOptions
from featstore.stages.finetune.places import Places
from featstore.stages.finetune.report import Network
from featstore.stages.train import TrainReport
from featstore.store import FeatureStore

if TYPE_CHECKING:
    from featstore.backbones import Backbone
    from featstore.finetuning.history import EpochRecord


@dataclass
class Run:
    """A fine-tuning run: everything that is fixed before the first epoch.

    ``backbone``: shares its parameters with ``network``; ``started``: the trained head that the network starts with.
    """

    store: FeatureStore
    options: FinetuneOptions
    places: Places
    backbone: Backbone
    cut: Cut
    network: TunedNetwork
    started: TrainReport
    plan: Plan
    tell: Teller
    stop: threading.Event
    choice: Choice | None = None
    notes: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    history: list[EpochRecord] = field(default_factory=list)
    held_out: Examples | None = None

    @property
    def classes(self) -> list[str]:
        """The class names, in the order of the class numbers."""
        return self.started.head.classes

    @property
    def augmentation(self) -> Augmentation:
        """How the training pictures are augmented."""
        return Augmentation(self.options.augment, self.options.seed, self.options.view_count)

    def keys(self, rows: NDArray[np.int64]) -> list[bytes]:
        """Return the keys of ``rows`` of the store."""
        return list(self.store._key_bytes(rows))

    def codes(self, rows: NDArray[np.int64]) -> NDArray[np.intp]:
        """Return the class numbers of ``rows`` of the store."""
        return codes_of(self.store.labels[rows].astype(str), self.classes)

    def live(self, rows: NDArray[np.int64], augmentation: Augmentation) -> LiveExamples:
        """Return ``rows`` of the store as pictures, which are decoded while the training runs."""
        return LiveExamples(
            self.store,
            self.keys(rows),
            self.codes(rows),
            self.cut.partition.trunk,
            self.backbone.preprocessing,
            augmentation,
            threads=self.options.threads,
            device=next(self.network.parameters()).device,
            root=None if self.options.root is None else Path(self.options.root),
        )

    def train(self) -> bool:
        """Run the epochs; return False if the run was stopped before the last one."""
        require_batches(self.network, self._phases, len(self.started.split.train), self.plan)
        examples = self._examples()
        if examples is None:
            return False
        training, self.held_out = examples
        total, started = self.plan.epochs * len(training), time.monotonic()
        data = TrainingData(training, self.held_out, self.classes, self._digest())
        done = [0]

        def on_step(epoch: int, step: int, steps: int, loss: float) -> None:
            seen = int((epoch - 1 + step / steps) * len(training))
            note = f"epoch {epoch} of {self.plan.epochs}: loss {loss:.4f}"
            self.tell(Event(progress=Progress(seen, total, 0, note)))

        def on_epoch(record: EpochRecord) -> None:
            done[0] += record.epoch > 0
            passed = time.monotonic() - started
            left = passed / done[0] * (self.plan.epochs - record.epoch) if done[0] else 0.0
            self.tell(Event(_epoch_text(record, self.plan.epochs, left)))

        log = self.options.tensorboard
        self.history = train_epochs(
            self.network,
            self._phases,
            data,
            self.plan,
            self.places.run,
            resume=self.options.resume,
            log=None if log is None else Path(log),
            on_step=on_step,
            on_epoch=on_epoch,
            stop=self.stop.is_set,
        )
        self.tell(Event(done=True))
        self.seconds["train"] = round(sum(each.seconds for each in self.history[1:]), 3)
        return len(self.history) == self.plan.epochs + 1

    @cached_property
    def _phases(self) -> LayerPhases:
        return LayerPhases(self.backbone, self.network, self.cut.partition, self.plan)

    def _examples(self) -> tuple[Examples, Examples] | None:
        """Return the training and the held-out examples, cached or live; None if the run was stopped first."""
        split = self.started.split
        live = self.live(split.train, self.augmentation), self.live(split.test, Augmentation())
        recorded, earlier = self._recorded() if self.options.resume else (None, 0.0)
        self.choice = recorded or self._choose(live[0])
        if recorded and self.options.cache is not None and self.choice.cached == (self.options.cache == NO_CACHE):
            kind = "a cache" if self.choice.cached else "live inputs"
            self.notes.append(f"the run began with {kind} and goes on so; --cache has no effect on a resumed run")
        if not recorded:
            self.places.write_inputs(self.choice.to_dict(), 0.0)
        self.tell(Event(f"inputs: {self.choice.reason}"))
        if not self.choice.cached:
            return live
        train, test = self.keys(split.train), self.keys(split.test)
        views = views_of(self.places.cache, train, test, self.augmentation, self.options.dtype)
        options = {name: getattr(self.options, name) for name in ("device", "workers", "batch", "root")}
        made = make_cache(
            self.store,
            trunk_backbone(self.backbone, self.cut.partition),
            views,
            self.augmentation,
            progress=lambda value: self.tell(Event(progress=value)),
            stop=self.stop,
            options=options,
        )
        self.tell(Event(done=True))
        if made is None:
            return None
        self.seconds["cache"] = round(earlier + made.seconds, 3)
        shape = self.cut.partition.shape
        if self.choice.rates is not None and made.pictures:
            rates = replace(self.choice.rates, making=made.pictures / made.seconds)
            self.choice = replace(self.choice, rates=rates, break_even=self._pays(rates))
        self.places.write_inputs(self.choice.to_dict(), self.seconds["cache"])
        return (
            CachedExamples(made.views, train, live[0].codes, shape, self.augmentation),
            CachedExamples({0: made.held_out}, test, live[1].codes, shape, Augmentation()),
        )

    def _recorded(self) -> tuple[Choice, float]:
        """Return the choice of the inputs with which the resumed run began, and the seconds that its cache took.

        Raises DamagedError if the record is damaged or missing.
        """
        choice, seconds = self.places.read_inputs()
        try:
            return Choice.from_dict(choice), seconds
        except (KeyError, TypeError):
            raise self.places.damaged_inputs("its fields are not those of a run") from None

    def _pays(self, rates: budget.Rates) -> float | None:
        split = self.started.split
        return rates.break_even(max(1, self.augmentation.views), len(split.train), len(split.test))

    def _choose(self, live: LiveExamples) -> Choice:
        """Decide whether the activations of frozen layers are cached. If any layer is frozen, the rates are measured
        first, to show them.
        """
        partition, options, split = self.cut.partition, self.options, self.started.split
        if not partition.layer:
            return Choice(False, "live: nothing is frozen, so there is nothing to cache", 0, None, None, None)
        rates = self._measure(live)
        views = max(1, self.augmentation.views)
        needed = budget.cache_bytes(partition.shape, len(split.train), len(split.test), views, options.dtype)
        if options.cache == NO_CACHE:
            return Choice(False, "live: without a cache, as asked", needed, None, rates, self._pays(rates))
        asked = options.cache if isinstance(options.cache, int) else None
        limit = budget.cache_limit(self.places.cache, asked)
        per_picture = budget.cache_bytes(partition.shape, 1, 0, 1, options.dtype)
        work = budget.multiply_adds(partition.trunk, self.backbone.preprocessing.crop) / per_picture
        pays, epochs = self._pays(rates), self.plan.epochs
        return budget.choose(rates, pays, epochs, views, needed, limit, work, asked=asked is not None)

    def _measure(self, live: LiveExamples) -> budget.Rates:
        """Measure the rates, with training steps on a copy of the network.

        In this copy, all layers that are trained in any epoch are trained.
        """
        phases, plan = self._phases, self.plan
        phases.start(plan.epochs)
        network = copy.deepcopy(self.network).train()
        groups = parameter_groups(network, self.cut.partition, plan.learning_rate, plan.layer_decay, plan.weight_decay)
        optimiser = Optimiser(plan)

        def step(activations: torch.Tensor, _: NDArray[np.intp]) -> None:
            made = network(activations.to(next(network.parameters()).device))
            logits = made if isinstance(made, torch.Tensor) else made[0] + made[1]
            # The kind of loss does not matter: any loss takes as long to compute as the loss of the training.
            logits.float().square().mean().backward()
            optimiser.step(groups, 1.0)

        with torch.random.fork_rng(devices=[]):
            return budget.measure(live, step, np.arange(len(live)), self.options.batch)

    def _digest(self) -> str:
        """Return a text that names the data of the run: rows, labels, vectors, views and kind of the inputs."""
        data = self.started.head.meta["data"]
        its, cached = self.augmentation, self.choice is not None and self.choice.cached
        kind = f"cached {self.options.dtype}" if cached else "live"
        return f"{data['train']} {data['test']} {its.policy} {its.seed} {its.views} {kind}"

    def probabilities(self) -> NDArray[np.float64]:
        """Return the probabilities (n, classes) of the network, as it is now, on the held-out rows."""
        assert self.held_out is not None
        device = next(self.network.parameters()).device
        self.network.eval()
        parts = []
        with torch.no_grad():
            for inputs, _ in self.held_out.batches(np.arange(len(self.held_out)), 1, self.plan.batch_size):
                # The copy is aligned as in training, so that the probabilities are those of the last epoch.
                logits: Any = self.network(inputs.clone().to(device))
                parts.append(softmax(logits.float().cpu().numpy().astype(np.float64), 1.0))
        return np.concatenate(parts)

    def described(self) -> Network:
        """Return the part of the network that was trained."""
        partition, backbone = self.cut.partition, self.backbone
        self._phases.start(self.plan.epochs)
        parts = [backbone.module, self.network.head]
        return Network(
            backbone.name,
            partition.layer,
            list(partition.blocks),
            list(self.cut.unfrozen),
            trained_parameters(self.network.tail) + trained_parameters(self.network.head),
            sum(each.numel() for part in parts for each in part.parameters()),
            partition.shape,
        )

    def last_notes(self) -> list[str]:
        """Return notes on the default choices of the run, and on files that the run left behind."""
        notes = []
        first, frozen = self.history[0].held_out_accuracy, self.started.report.accuracy.value
        if first != frozen and not self.options.from_scratch:
            notes.append(
                f"epoch 0 scores {first:.4f}, the frozen head {frozen:.4f}: pictures with two equally likely classes are "
                "classified differently, because the network computes with other rounding"
            )
        if self.choice is not None and self.choice.cached and self.choice.break_even is not None:
            paid = "has paid" if self.choice.break_even <= self.plan.epochs else "has not paid"
            notes.append(
                f"as it was made, the cache pays after {self.choice.break_even:.1f} epochs: it {paid} in {self.plan.epochs:,}"
            )
        if self.cut.by_default:
            notes.append(
                f"by default the last block trains (--freeze-to {self.cut.partition.layer}); --unfreeze or --all train more"
                if self.cut.partition.layer
                else "the network has no block to freeze, so every layer trained"
            )
        if self.choice is not None and self.choice.cached:
            notes.append(f"{self.places.cache} holds the cached activations; remove it when no further run needs it")
        if self.network.auxiliary is not None:
            notes.append("the auxiliary classifier was trained along and is not saved")
        elif self.cut.partition.branching is not None:
            notes.append(
                "the auxiliary classifier was not trained: it needs pictures of at least 299 pixels (--size 299)"
            )
        return notes


def _epoch_text(record: EpochRecord, epochs: int, left: float) -> str:
    """Return a line about a finished epoch; ``left``: remaining seconds of the run."""
    held_out = f"held out {record.held_out_accuracy:.4f}, macro F1 {record.held_out_macro_f1:.4f}"
    if record.loss is None or record.accuracy is None:
        return f"epoch 0, before training: {held_out}"
    rest = f", {left / 60:.1f} min left" if left else ""
    return (
        f"epoch {record.epoch} of {epochs}: loss {record.loss:.4f}, accuracy {record.accuracy:.4f}; {held_out}; "
        f"{record.seconds:.1f} s{rest}"
    )
