"""The command ``featstore predict``: its options and its output."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import click

from featstore.cli.network import batch_option, device_option, engine_option, trust_option
from featstore.cli.output import Bar, CsvRows, apart, json_option, json_text, say
from featstore.text import counted, natural, printable

_SHOWN = 3
"""Number of classes, the most probable first, that a line of text output shows for a picture."""


@click.command()
@click.argument("head", type=click.Path())
@click.argument("inputs", nargs=-1, type=click.Path())
@click.option(
    "--prompts",
    type=click.Path(dir_okay=False),
    metavar="CLASSES.txt",
    help="Classify without a head, by texts: each line is a class, or a class, a tab and a text. HEAD is then the first input.",
)
@click.option(
    "--template",
    "templates",
    multiple=True,
    metavar="TEXT",
    help="Text for every class of --prompts, with {} for the class name; repeat for several texts, whose vectors are averaged (default: CLIP's seven).",
)
@click.option(
    "--weights",
    multiple=True,
    type=click.Path(),
    help="Checkpoint file or model folder of the features, if they were made with your own weights; one for each store of the head.",
)
@click.option(
    "--backbone",
    "backbones",
    multiple=True,
    metavar="NAME",
    help="Your own package.module:function, if the features came from it: its code is imported only where you name it; one "
    "for each store of the head. With --prompts and pictures, the network.",
)
@engine_option
@device_option
@batch_option
@trust_option
@click.option(
    "--by",
    type=click.Choice(["parent"]),
    help="One prediction for each picture of a store with regions, from all its regions.",
)
@click.option(
    "--pool",
    type=click.Choice(["mean", "max"]),
    help="With --by: the mean of the regions' probabilities (default), or the largest one of each class.",
)
@click.option(
    "--csv",
    "as_csv",
    is_flag=True,
    help="CSV: key, label, probability (or the label set, or the number), one column per class, reason; a text that a spreadsheet would read as a formula gets an apostrophe.",
)
@click.option("--quiet", is_flag=True, help="No progress bar.")
@json_option
def predict(
    head: str,
    inputs: tuple[str, ...],
    prompts: str | None,
    templates: tuple[str, ...],
    weights: tuple[str, ...],
    backbones: tuple[str, ...],
    as_json: bool,
    as_csv: bool,
    quiet: bool,
    pool: str | None,
    **options: Any,
) -> int:
    """Classify INPUTS with HEAD: pictures, folders, tables, archives, or one store, whose vectors are used.

    HEAD is a head file or a model folder. A model's own network embeds the pictures.

    A head that was trained on several stores needs one store per backbone, or pictures, which then go through all
    backbones.

    With --prompts, pictures are classified by texts (zero shot), if the features come from a network with a text tower.

    A head of label sets gives each picture the labels whose probability reaches their threshold.

    An unreadable picture is listed with the reason; the exit code is then 1.

    \b
    Examples:
      featstore predict my.store.logreg.head cat.jpg dog.jpg
      featstore predict my.store.logreg.head new-pictures/ --csv > classes.csv
      featstore predict my.store.logreg.head other.store --json
      featstore predict my.model new-pictures/
      featstore predict clip.store --prompts classes.txt
      featstore predict new-pictures/ --prompts classes.txt --backbone open_clip/ViT-B-32
    """
    if as_json and as_csv:
        raise click.UsageError("--json and --csv exclude each other")
    if pool is not None and options["by"] is None:
        raise click.UsageError("--pool joins the regions of a picture: add --by parent, or leave it out")
    options |= {} if pool is None else {"pool": pool}
    with apart() as stream:
        bar = Bar(stream=stream)
        try:
            options |= {"progress": None if quiet else bar, "weights": weights or None, "backbone": backbones or None}
            found = _run(head, inputs, prompts, templates, options)
            made = _without_bar(found.stream(), bar)
            if as_csv:
                failed = _as_csv(found.classes, made, found.task)
            elif as_json:
                failed = _as_json(found.classes, made, found.notes)
            else:
                failed = _as_text(found.classes, made)
        finally:
            bar.close()
    for note in found.notes:
        say(f"note: {printable(note)}", err=True)
    if failed:
        say(f"featstore: {counted(failed, 'picture')} could not be read", err=True)
    return 1 if failed else 0


def _run(
    head: str, inputs: tuple[str, ...], prompts: str | None, templates: tuple[str, ...], options: dict[str, Any]
) -> Any:
    from featstore.heads.zero_shot import TEMPLATES, read_prompts, texts_of
    from featstore.stages.predict import predict, predict_by_text

    if prompts is None:
        if not inputs:
            raise click.UsageError("Missing argument 'INPUTS...'.")
        if templates:
            raise click.UsageError("--template belongs to --prompts")
        return predict(head, list(inputs), **options)
    for name in ("weights", "backbone"):
        given = options[name] or (None,)
        if len(given) > 1:
            raise click.UsageError(f"--{name} is given {len(given)} times; with --prompts give it once")
        options[name] = given[0]
    if options.pop("trust"):
        raise click.UsageError("--trust is for heads; leave it out with --prompts")
    return predict_by_text(texts_of(read_prompts(prompts), templates or TEMPLATES), [head, *inputs], **options)


def _without_bar(found: Iterable[Any], bar: Bar) -> Iterator[Any]:
    """Yield the items of ``found``. The progress bar is removed before each item, so that a line can be printed."""
    for one in found:
        bar.clear()
        yield one


def _as_text(classes: list[str], found: Iterable[Any]) -> int:
    failed = 0
    for one in found:
        if one.number is not None:
            line = f"{one.key}: {one.number:.6g}"
        elif one.failed:
            failed += 1
            line = f"{one.key}: failed: {one.reason}: {one.message}"
        else:
            order = (-one.probabilities).argsort(kind="stable")[:_SHOWN].tolist()
            others = ", ".join(f"{classes[code]} {one.probabilities[code]:.3f}" for code in order)
            line = f"{one.key}: {one.label or 'no label'} ({others})"
        say(printable(line))
    return failed


def _as_csv(classes: list[str], found: Iterable[Any], task: str) -> int:
    failed = 0
    rows = CsvRows()
    # Heads of earlier featstore versions sort classes character by character: sort them here in natural order.
    order = sorted(range(len(classes)), key=lambda code: natural(classes[code]))
    own = {"classes": ("label", "probability"), "numbers": ("number",)}.get(task, ("labels",))
    rows.write("key", *own, *(classes[code] for code in order), "reason")
    for one in found:
        if one.number is not None:
            rows.write(one.key, one.number, "")
        elif one.failed:
            failed += 1
            rows.write(one.key, *[""] * (len(own) + len(classes)), one.reason)
        else:
            values = (one.label, one.probability)[: len(own)]
            rows.write(one.key, *values, *one.probabilities[order].tolist(), "")
    return failed


def _as_json(classes: list[str], found: Iterable[Any], notes: list[str]) -> int:
    """Print all predictions as one JSON object, in constant memory; return the number of pictures that failed."""
    failed, count = 0, 0
    say(f'{{\n  "classes": {json_text(classes)},\n  "notes": {json_text(notes)},\n  "images": [', end="")
    for one in found:
        failed += one.failed
        say(("," if count else "") + "\n    " + json_text(one.to_dict(classes)), end="")
        count += 1
    say(f'\n  ],\n  "count": {count},\n  "failures": {failed}\n}}')
    return failed
