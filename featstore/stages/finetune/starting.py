"""Build the network of a fine-tuning run, and the plan of its training."""

from __future__ import annotations

import threading
from typing import Any

import torch

from featstore import defaults
from featstore.engines.shared import resolve_device
from featstore.finetuning.network import TunedNetwork, auxiliary_classifier, head_from_model
from featstore.finetuning.plan import Plan
from featstore.stages.finetune.cutting import cut_of
from featstore.stages.finetune.events import Teller
from featstore.stages.finetune.networks import backbone_of, untrained_backbone, untrained_model
from featstore.stages.finetune.options import FinetuneOptions
from featstore.stages.finetune.places import Places
from featstore.stages.finetune.tuning import Run
from featstore.stages.train import TrainReport
from featstore.store import FeatureStore


def start(
    store: FeatureStore,
    places: Places,
    options: FinetuneOptions,
    started: TrainReport,
    tell: Teller,
    stop: threading.Event,
) -> Run:
    """Return the run that tunes the network of ``store``, starting with the head ``started``.

    Raises UsageError for layers that do not exist or leave nothing to train; the errors of ``backbone_of``.
    """
    backbone = backbone_of(store, options)
    cut = cut_of(backbone, options)
    device = resolve_device(options.device)
    model: Any = started.head.model
    classes = len(started.head.classes)
    if options.from_scratch:
        backbone = untrained_backbone(backbone, options.seed)
        cut, model = cut_of(backbone, options), untrained_model(model, options.seed)
    dropout = defaults.MLP_DROPOUT if options.head == "mlp" else 0.0
    outputs = 1 if classes == 2 else classes
    auxiliary = auxiliary_classifier(cut.partition, outputs, options.seed)
    network = TunedNetwork(cut.partition, head_from_model(model, dropout), auxiliary).to(device)
    cut.partition.trunk.to(device)
    plan = Plan(
        epochs=options.epochs,
        batch_size=options.batch,
        learning_rate=options.lr,
        # With lower learning rates for earlier layers, the first layers of an untrained network would stay random.
        layer_decay=1.0 if options.from_scratch else defaults.TUNING_LAYER_DECAY,
        optimiser=options.optimizer,
        label_smoothing=options.label_smoothing,
        accumulate=options.accumulate,
        balance=options.balance,
        unfreeze=cut.unfrozen,
        freeze_to=cut.freeze_to,
        seed=options.seed,
        keep_statistics=options.keeps_statistics,
        bf16=device.type == "cuda" and torch.cuda.is_bf16_supported(),
    )
    return Run(store, options, places, backbone, cut, network, started, plan, tell, stop)
