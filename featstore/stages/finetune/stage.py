"""Fine-tune a backbone with an attached head on the labelled pictures of a store."""

from __future__ import annotations

import errno
import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from featstore import defaults
from featstore.errors import FeatstoreError, UsageError
from featstore.files import atomic
from featstore.finetuning.checkpoint import CHECKPOINT
from featstore.stages.finetune.events import Event, Teller
from featstore.stages.finetune.features import extract_features
from featstore.stages.finetune.options import HEADS, FinetuneKeywords, FinetuneOptions
from featstore.stages.finetune.places import Places
from featstore.stages.finetune.report import FinetuneReport, Tuned, compare_heads
from featstore.stages.train import TrainReport, train
from featstore.store import FeatureStore
from featstore.store.as_source import is_store
from featstore.store.origin import state_of_store
from featstore.store.splitting import groups_of, split_store
from featstore.text import check_keywords

if TYPE_CHECKING:
    from featstore.heads import Report
    from featstore.stages.finetune.tuning import Run


def finetune(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    progress: Teller | None = None,
    stop: threading.Event | None = None,
    **options: Unpack[FinetuneKeywords],
) -> FinetuneReport:
    """Fine-tune a network with an attached head on labelled pictures, write the model to ``out``, and evaluate it.

    ``source``: a store, or anything that ``extract`` reads, whose features then go into ``out``.features. ``options``:
    the fields of FinetuneOptions, which are described there. The head starts as the head that ``train`` finds on the
    stored features (linear probing, then fine-tuning: Kumar et al., arXiv 2202.10054). The frozen layers run once for
    each view, into ``out``.cache, if each view serves several epochs and the cache fits on the disk. ``progress`` is
    called with Events. ``stop``: when this event is set, the run ends after the current epoch or batch, and returns a
    report with ``stopped``; the same call with ``resume`` continues it, with bit-identical weights on a CPU.

    Raises UsageError for wrong options, missing labels, a single class, an existing model or unfinished run at ``out``,
    or a layer that does not exist. Raises FeatstoreError if pictures can no longer be read or the disk is full. Raises
    DataError if a class has no held-out picture and, with the epoch and step, if a loss is not finite. Raises
    DamagedError for a damaged file, OSError if reading or writing fails. Finished epochs are kept.
    """
    check_keywords("finetune", options, FinetuneKeywords.__annotations__)
    asked, places, tell = FinetuneOptions(**options), Places.of(out), progress or _silent
    places.check(asked)
    stop = stop or threading.Event()
    with atomic.only_writer(places.model, "model"):
        _require_layers(source, asked)
        path, notes = _store_of(source, places, asked, tell, stop)
        if path is None:
            return FinetuneReport(str(places.model), os.fspath(source), None, 0, asked.epochs)
        _require_split(path, asked)
        if asked.force and not asked.resume:
            places.clear_run()
        # Import torch only here: loading it takes seconds, and wrong options should be refused at once.
        from featstore.stages.finetune.starting import start

        atomic.make_directory(places.run)
        try:
            head = _head(path, places, asked)
            run = start(FeatureStore.open(path), places, asked, head, tell, stop)
            run.notes += [*notes, *state_of_store(run.store), *head.split.notes()]
            if run.train():
                return _finished(run)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT) or not (places.run / CHECKPOINT).exists():
                raise
            raise FeatstoreError(
                f"{error.filename or places.run}: the disk is full; free some space and run the same command with "
                "--resume, which goes on after the last finished epoch"
            ) from None
        finally:
            places.clear_run_without_epochs()
        epochs = max(0, len(run.history) - 1)
        history = [each.to_dict() for each in run.history]
        return FinetuneReport(
            str(places.model), str(path), None, epochs, asked.epochs, history, notes=run.notes, seconds=run.seconds
        )


def _silent(_: Event) -> None:
    pass


def _require_layers(source: str | os.PathLike[str], options: FinetuneOptions) -> None:
    """Raise UsageError if the network cannot be divided as ``options`` say.

    A store of an inner layer is not checked here: the layers of its network have other names.
    """
    if not options.freeze_to and not options.unfreeze:
        return
    from featstore.stages.finetune.cutting import require_layers

    backbone = options.backbone
    if is_store(source):
        identity = FeatureStore.open(Path(source)).identity
        if identity.layer.startswith(defaults.OUTPUT_OF):
            return
        backbone = backbone or identity.backbone
    require_layers(backbone, options)


def _store_of(
    source: str | os.PathLike[str], places: Places, options: FinetuneOptions, tell: Teller, stop: threading.Event
) -> tuple[Path | None, list[str]]:
    """Return the store to tune on, and notes for the user. A ``source`` that is not a store is first extracted into
    one.

    The store is None if ``stop`` was set during the extraction.
    """
    report = extract_features(source, places.features, options, tell, stop)
    if report is None:
        return Path(source), []
    return None if report.stopped else places.features, report.notes


def _require_split(store: Path, options: FinetuneOptions) -> None:
    """Raise DataError if a class has no held-out picture, UsageError if ``held_out`` would have no effect, and the
    errors of ``split_store``.
    """
    opened = FeatureStore.open(store)
    split = split_store(opened, **_split_options(options))
    split.require_held_out_classes(opened)
    if options.held_out is not None and split.kind == "given":
        raise UsageError(
            f"held_out: the pictures of {store} have splits, and {split.names[1]!r} is held out; leave held_out out"
        )


def _split_options(options: FinetuneOptions) -> dict[str, Any]:
    """Return the options of ``split_store`` that divide the pictures."""
    share = defaults.HELD_OUT if options.held_out is None else options.held_out
    return {
        "train_split": options.train_split,
        "test_split": options.test_split,
        "held_out": share,
        "seed": options.seed,
    }


def _head(store: Path, places: Places, options: FinetuneOptions) -> TrainReport:
    """Train the head that the network starts with on the stored features. Raises the same errors as ``train``."""
    balance: dict[str, Any] = {}
    if options.balance != "none":
        balance = {"balance": options.balance} if options.head == "mlp" else {"class_weight": "balanced"}
    path = places.starting_head
    path.unlink(missing_ok=True)
    return train(
        store,
        head=HEADS[options.head],
        out=path,
        **_split_options(options),
        **balance,
    )


def _without_confusion(report: Report) -> dict[str, Any]:
    """Return ``report`` as JSON without the confusion matrix, which would make the description of a model with
    thousands of classes too large to be read. The head of the model has the matrix of the tuned network.
    """
    return {name: value for name, value in report.to_dict().items() if name != "confusion"}


def _finished(run: Run) -> FinetuneReport:
    """Evaluate the tuned network, write the model, and return the report."""
    from featstore.artifacts.model import write_model, write_weights_only
    from featstore.finetuning.network import model_from_head
    from featstore.heads import TrainedHead
    from featstore.heads.evaluation.report import evaluate

    began, options, started, split = time.perf_counter(), run.options, run.started, run.started.split
    probabilities = run.probabilities()
    truth = run.store.labels[split.test].astype(str)
    groups = groups_of(run.store, split.test)
    report = evaluate(truth, probabilities, run.classes, groups=groups, seed=options.seed)
    comparison = compare_heads(
        truth,
        started.probabilities,
        probabilities,
        run.classes,
        groups=groups,
        seed=options.seed,
        from_scratch=options.from_scratch,
    )
    history = [each.to_dict() for each in run.history]
    model = model_from_head(run.network.head)
    head = TrainedHead(HEADS[options.head], run.classes, model, meta={**started.head.meta, "report": report.to_dict()})
    run.backbone.module.cpu().eval().requires_grad_(False)
    record = {
        "options": options.to_dict(),
        "frozen_to": run.cut.partition.layer,
        "inputs": None if run.choice is None else run.choice.to_dict(),
        "split": split.to_dict(),
        "frozen_head": _without_confusion(started.report),
        "held_out": _without_confusion(report),
        "comparison": comparison.to_dict(),
    }
    decoder, force = run.store.identity.decoder, options.force or options.resume
    write_model(run.places.model, run.backbone, head, record, metrics=history, decoder=decoder, force=force)
    if options.weights_only is not None:
        run.notes += write_weights_only(options.weights_only, run.backbone, head)
    run.places.clear_run()
    run.seconds["evaluate"] = round(time.perf_counter() - began, 3)
    assert run.choice is not None
    tuned = Tuned(run.described(), run.choice, head, split, started.report, report, comparison, probabilities)
    return FinetuneReport(
        str(run.places.model),
        str(run.store.path),
        tuned,
        options.epochs,
        options.epochs,
        history,
        options.to_dict(),
        [*run.notes, *run.last_notes()],
        {"head": started.seconds["train"], **run.seconds},
    )
