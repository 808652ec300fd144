"""The command ``featstore finetune``: its options and its output."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from featstore import defaults
from featstore.cli.network import batch_option, device_option
from featstore.cli.output import Lines, apart, json_option, say, show, stop_on_signals
from featstore.cli.quantities import to_bytes
from featstore.processes import malloc
from featstore.text import counted, printable

if TYPE_CHECKING:
    from featstore.heads import Report
    from featstore.stages.finetune import FinetuneReport, Tuned


def _cache(context: click.Context, parameter: click.Parameter, value: str | None) -> int | str | None:
    return value if value == "none" else to_bytes(context, parameter, value)


def _unfreeze(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> tuple[tuple[str, int], ...]:
    """Convert texts such as layer4@2 to pairs (layer, epoch)."""
    found = []
    for text in values:
        layer, _at, epoch = text.rpartition("@")
        if not layer or not epoch.isascii() or not epoch.isdigit():
            raise click.BadParameter(f"{text!r} is not LAYER@EPOCH, such as layer4@2")
        found.append((layer, int(epoch)))
    return tuple(found)


@click.command()
@click.argument("source", metavar="SOURCE|STORE", type=click.Path())
@click.option("--out", required=True, type=click.Path(), metavar="MODEL", help="Folder of the model.")
@click.option(
    "--backbone",
    help=f"The network to tune; default: the store's, for pictures {defaults.BACKBONE}. See featstore backbones.",
)
@click.option("--weights", help="A torchvision weights name, a .pth or .safetensors file, or random:SEED.")
@click.option("--size", type=int, metavar="N", help="Side in pixels of the square that the network sees.")
@click.option("--root", type=click.Path(), help="Where the pictures of a STORE are now, if they moved.")
@click.option(
    "--head",
    type=click.Choice(["linear", "mlp"]),
    default="linear",
    show_default=True,
    help="Attached head: starts as the logistic regression, or as the perceptron, of the stored features.",
)
@click.option(
    "--freeze-to",
    metavar="LAYER",
    help="Last layer that stays frozen, with all layers before it (default: all but the last block).",
)
@click.option(
    "--unfreeze",
    multiple=True,
    metavar="LAYER@EPOCH",
    callback=_unfreeze,
    help="Train LAYER and all layers after it from this epoch on; until the first epoch named, the head alone trains; "
    "repeat for several.",
)
@click.option("--all", "all_layers", is_flag=True, help="Train every layer.")
@click.option("--from-scratch", is_flag=True, help="Start from random weights, and train every layer.")
@click.option("--epochs", type=click.IntRange(1), default=defaults.TUNING_EPOCHS, show_default=True)
@click.option(
    "--lr",
    type=click.FloatRange(0, min_open=True),
    default=defaults.TUNING_LEARNING_RATE,
    show_default=True,
    help=f"Learning rate of the head; each block has {defaults.TUNING_LAYER_DECAY:g} times the rate of the block after it.",
)
@click.option(
    "--augment",
    type=click.Choice(["none", "light", "standard"]),
    default=defaults.TUNING_AUGMENT,
    show_default=True,
    help="light: small crops and mirror images; standard: large crops, mirror images and colours.",
)
@click.option(
    "--views",
    type=click.IntRange(1),
    help=f"Augmented views of each picture, which the epochs take in turn.  [default: {defaults.TUNING_VIEWS}]",
)
@click.option(
    "--optimizer", type=click.Choice(["adamw", "adam", "sgd"]), default="adamw", show_default=True, help="Optimizer."
)
@click.option(
    "--batch-norm",
    type=click.Choice(["keep", "train"]),
    help="keep: BatchNorm keeps its statistics (default); train: in trained layers they follow the batches (default from "
    "scratch).",
)
@click.option(
    "--balance",
    type=click.Choice(["none", "weights", "sampler"]),
    default="none",
    show_default=True,
    help="weights: small classes weigh more in the loss; sampler: all classes are drawn equally often.",
)
@click.option(
    "--label-smoothing",
    type=click.FloatRange(0, 0.9),
    default=0.0,
    show_default=True,
    help="Share of the target that is spread over all classes.",
)
@click.option(
    "--accumulate",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Batches whose gradients are summed for one step.",
)
@batch_option
@click.option(
    "--cache",
    callback=_cache,
    metavar="SIZE|none",
    help="Disk space for the frozen layers' activations, such as 20G; none: run the frozen layers in every epoch "
    f"(default: at most {defaults.CACHE_SHARE:.0%} of the free disk, if each view serves several epochs).",
)
@click.option(
    "--dtype",
    type=click.Choice(["float16", "float32"]),
    default="float16",
    show_default=True,
    help="Type of the cached activations.",
)
@click.option("--train-split", help="Split to train on (default: train, if there is one).")
@click.option("--test-split", help="Split to evaluate on (default: test or val, if there is one).")
@click.option(
    "--held-out",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help=f"Share to hold out if there are no such splits.  [default: {defaults.HELD_OUT}]",
)
@device_option
@click.option("--workers", type=click.IntRange(1), help="Reading and decoding threads (default: one per core).")
@click.option("--seed", type=int, default=defaults.SEED, show_default=True)
@click.option("--resume", is_flag=True, help="Continue an interrupted run of the same command.")
@click.option("--force", is_flag=True, help="Replace a model, or an interrupted run, at MODEL.")
@click.option("--tensorboard", type=click.Path(), metavar="FOLDER", help="Write TensorBoard event files.")
@click.option(
    "--weights-only",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="Also write the backbone's tuned weights alone, as safetensors.",
)
@click.option("--html", type=click.Path(dir_okay=False), metavar="PAGE", help="Write a page with figures and curves.")
@click.option("--quiet", is_flag=True, help="No progress.")
@json_option
def finetune(source: str, out: str, html: str | None, as_json: bool, quiet: bool, **options: Any) -> int:
    """Fine-tune a network with an attached head on labelled pictures, and judge it on held-out pictures.

    SOURCE is anything that featstore extract reads; its features are stored in MODEL.features. The head starts as the
    classifier that featstore train finds on the stored features (epoch 0), and the last layers then train with it. The
    frozen layers run once for every view, into MODEL.cache, if each view serves several epochs.

    MODEL is a folder with the tuned weights, the head and the training record. It predicts (featstore predict MODEL
    PICTURES) and is a backbone (featstore extract --backbone MODEL). The run may be interrupted or killed: --resume
    continues it after its last epoch.

    \b
    Examples:
      featstore finetune pictures/ --out my.model --backbone efficientnet_lite0
      featstore finetune my.store --out my.model --html page.html
      featstore finetune my.store --out my.model --freeze-to layer3 --epochs 20 --lr 3e-5
      featstore finetune my.store --out my.model --unfreeze layer4@2 --unfreeze layer3@5
      featstore finetune my.store --out my.model --all --cache none
      featstore finetune my.store --out my.model --resume
    """
    from featstore.stages.finetune import finetune as run
    from featstore.stages.finetune import require_apart

    if html is not None:
        require_apart(html, out)
    malloc.keep_memory()
    with stop_on_signals() as (stop, code), apart() as stream:
        teller = Lines(stream)
        try:
            report = run(source, out, progress=None if quiet or as_json else teller, stop=stop, **options)
        finally:
            teller.bar.close()
    notes, tuned = list(report.notes), report.tuned
    if html is not None and tuned is not None:
        from featstore.pages.finetune import write_finetune_page

        with apart():
            notes += write_finetune_page(report, html, root=options["root"])
    page = html if tuned is not None else None
    lines = [f"{report.path}: stopped"] if tuned is None else _text(report, tuned, notes, page)
    show({**report.to_dict(), "notes": notes, "page": page}, "\n".join(lines), as_json)
    if tuned is None:
        say(f"featstore: stopped{_since(report)}", err=True)
        return code()
    return 0


def _since(report: FinetuneReport) -> str:
    """Return the lines that say which epoch is kept and how to continue."""
    if not report.history:
        return " before the first epoch; run the same command to go on"
    return f" after epoch {report.epochs:,} of {report.planned:,}; run the same command with --resume to go on"


def _text(report: FinetuneReport, tuned: Tuned, notes: list[str], page: str | None) -> list[str]:
    split = tuned.split
    lines = [
        f"{report.path}: {tuned.network.backbone} fine-tuned, {len(tuned.head.classes):,} classes "
        f"({counted(report.epochs, 'epoch')}, {report.seconds.get('train', 0.0):.1f} s)",
        tuned.network.text(),
        _inputs(tuned),
        f"learnt from {split.names[0]} ({counted(len(split.train), 'picture')}), judged by {split.names[1]} "
        f"({len(split.test):,})",
        _start(report, tuned),
        *tuned.report.text().split("\n"),
        tuned.comparison.text(),
        *(f"note: {note}" for note in notes),
        *([] if page is None else [f"page: {page}"]),
    ]
    return [printable(line) for line in lines]


def _inputs(tuned: Tuned) -> str:
    """Return a line about the training inputs: cached or live, when the cache saves time, and the measured rates."""
    rates = tuned.choice.rates
    shown = f"inputs: {tuned.choice.reason}"
    if rates is None:
        return shown
    return (
        f"{shown}; {rates.cached:,.0f} pictures/s cached, {rates.live:,.0f} live, {rates.making:,.0f} to make the cache"
    )


def _start(report: FinetuneReport, tuned: Tuned) -> str:
    """Return a line with the figures before the training; a network from scratch does not start with the frozen head."""
    frozen = f"accuracy {_figure(tuned.frozen, 'accuracy')}, macro F1 {_figure(tuned.frozen, 'macro_f1')}"
    if not report.options["from_scratch"]:
        return f"epoch 0, the frozen head: {frozen}"
    first = report.history[0]
    return (
        f"epoch 0, random weights: accuracy {first['held_out_accuracy']:.4f}, macro F1 {first['held_out_macro_f1']:.4f}; "
        f"for comparison, a head on the stored features: {frozen}"
    )


def _figure(report: Report, name: str) -> str:
    one = report.estimates[name]
    return f"{one.value:.4f} [{one.low:.4f}, {one.high:.4f}]"
