"""The command ``featstore compare``: its options and its output."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from featstore import defaults
from featstore.cli.network import batch_option, device_option
from featstore.cli.output import Lines, apart, columns, json_option, say, show, stop_on_signals
from featstore.processes import malloc
from featstore.text import counted, printable

if TYPE_CHECKING:
    from featstore.stages.compare import TransferReport

_METHODS = "scratch,linear,mlp,last-block,gradual,all"


def _methods(_: click.Context, __: click.Parameter, value: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in value.split(",") if name.strip())


@click.command()
@click.option(
    "--transfer",
    type=click.Path(),
    metavar="SOURCE|STORE",
    help="Compare methods of transfer learning on these labelled pictures.",
)
@click.option(
    "--methods",
    default=_METHODS,
    callback=_methods,
    metavar="NAME,NAME",
    show_default=True,
    help="Methods, with commas; linear always takes part.",
)
@click.option(
    "--seeds",
    type=click.IntRange(1, 100),
    default=defaults.COMPARED_SEEDS,
    show_default=True,
    help="Runs of each method, with the seeds 0, 1, ...",
)
@click.option("--epochs", type=click.IntRange(1), default=defaults.TUNING_EPOCHS, show_default=True)
@click.option(
    "--backbone", help=f"The network; default: the store's, for pictures {defaults.BACKBONE}. See featstore backbones."
)
@click.option("--weights", help="A torchvision weights name, a .pth or .safetensors file, or random:SEED.")
@click.option("--size", type=int, metavar="N", help="Side in pixels of the square that the network sees.")
@click.option("--root", type=click.Path(), help="Where the pictures of a STORE are now, if they moved.")
@batch_option
@device_option
@click.option("--workers", type=click.IntRange(1), help="Reading and decoding threads (default: one per core).")
@click.option(
    "--out",
    type=click.Path(),
    metavar="FOLDER",
    help="Folder of the finished runs (default: the page's name, or that of SOURCE here, and .compare).",
)
@click.option(
    "--html", type=click.Path(dir_okay=False), metavar="PAGE", help="The page (default: the name of FOLDER and .html)."
)
@click.option("--quiet", is_flag=True, help="No progress.")
@json_option
def compare(transfer: str | None, out: str | None, html: str | None, as_json: bool, quiet: bool, **options: Any) -> int:
    """Compare methods on the same held-out pictures, with paired intervals, and write a page.

    --transfer compares a network trained from scratch (scratch), a logistic regression (linear) and a perceptron (mlp)
    on frozen features, and fine-tuning of the last block (last-block), of the last three blocks one after another
    (gradual) and of every layer (all). Each method is compared with linear. If the interval of the difference contains
    0, there is no measurable difference.

    Every finished run (a method with a seed) is kept in FOLDER. After Ctrl-C the same command continues; with more
    --seeds or --methods only the new runs are made.

    \b
    Examples:
      featstore compare --transfer pictures/ --backbone efficientnet_lite0
      featstore compare --transfer my.store --html page.html
      featstore compare --transfer my.store --methods last-block,all --seeds 3 --epochs 5
    """
    if transfer is None:
        raise click.UsageError("say what to compare, such as: featstore compare --transfer STORE")
    from featstore.stages.compare import compare as run

    folder = Path(out) if out is not None else _folder(transfer, html)
    page = Path(html) if html is not None else folder.with_name(f"{folder.name}.html")
    malloc.keep_memory()
    with stop_on_signals() as (stop, code), apart() as stream:
        teller = Lines(stream)
        try:
            report = run(
                transfer=transfer, out=folder, progress=None if quiet or as_json else teller, stop=stop, **options
            )
        finally:
            teller.bar.close()
    if report.stopped:
        show({**report.to_dict(), "page": None}, f"{report.path}: stopped", as_json)
        say(
            f"featstore: stopped after {report.finished:,} of {counted(report.planned, 'run')}; the same command goes on",
            err=True,
        )
        return code()
    from featstore.pages.compare import write_compare_page

    write_compare_page(report, page)
    show({**report.to_dict(), "page": str(page)}, _text(report, page), as_json)
    return 0


def _folder(transfer: str, html: str | None) -> Path:
    """Return the default folder for the runs of a comparison."""
    if html is not None:
        page = Path(html)
        return page.with_name(f"{page.stem}.compare")
    return Path(f"{Path(os.path.abspath(transfer)).name or 'pictures'}.compare")


def _text(report: TransferReport, page: Path) -> str:
    accuracies = [
        (
            one.title,
            f"{one.figures['accuracy']:.4f}",
            *one.against("accuracy"),
            f"{one.seconds:.1f}",
            one.trained,
        )
        for one in report.results
    ]
    scores = [(one.title, f"{one.figures['macro_f1']:.4f}", *one.against("macro_f1")) for one in report.results]
    against = ("difference [95 % interval]", "verdict")
    lines = [
        f"{report.backbone}, {counted(len(report.classes), 'class', 'classes')}: learnt from "
        f"{counted(report.learnt, 'picture')}, judged by {report.held_out:,}; {counted(len(report.seeds), 'seed')}",
        columns(accuracies, ("method", "accuracy", *against, "seconds", "trained parameters")),
        columns(scores, ("method", "macro F1", *against)),
        report.interval,
        *(f"note: {printable(note)}" for note in report.notes),
        f"page: {page}",
    ]
    return "\n".join(lines)
