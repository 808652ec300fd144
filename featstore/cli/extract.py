"""The command ``featstore extract``: its options and its output."""

from __future__ import annotations

from typing import Any

import click

from featstore import defaults
from featstore.cli.network import PRECISIONS, batch_option, device_option, geometry_options
from featstore.cli.output import Bar, apart, json_option, say, show, stop_on_signals
from featstore.cli.quantities import to_bytes_of_at_least
from featstore.text import counted, printable


def _share(_: click.Context, __: click.Parameter, value: str) -> tuple[int, int]:
    try:
        index, count = (int(part) for part in value.split("/"))
    except ValueError:
        index, count = 0, 0
    if not 0 <= index < count:
        raise click.BadParameter(f"{value!r} is not i/n with 0 <= i < n, such as 0/4")
    return index, count


def _names(_: click.Context, __: click.Parameter, value: str | None) -> tuple[str, ...] | None:
    return None if value is None else tuple(name.strip() for name in value.split(","))


@click.command()
@click.argument("source")
@click.argument("stores", metavar="STORE...", nargs=-1, required=True, type=click.Path())
@click.option(
    "--backbone",
    "backbones",
    multiple=True,
    help="A name that featstore backbones lists, timm/NAME, a model folder, or your own package.module:function; default: the store's, "
    f"for a new one {defaults.BACKBONE}.",
)
@click.option(
    "--weights",
    "weights_names",
    multiple=True,
    help="A torchvision weights name, a .pth or .safetensors file, a model folder, or random:SEED; default: the store's, for a new one the "
    "model's DEFAULT.",
)
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float16"]),
    help=f"Type of the stored numbers; float16 halves the store; default: the store's, for a new one {defaults.DTYPE}.",
)
@click.option(
    "--engine",
    default=defaults.ENGINE,
    show_default=True,
    help="Engine that runs the network: auto, torch, torch-folded, compile, openvino, openvino-int8.",
)
@device_option
@click.option(
    "--precision",
    type=PRECISIONS,
    default="auto",
    show_default=True,
    help="Precision of the arithmetic; auto: the store's, for a new one fp32 on a CPU and bf16 on CUDA.",
)
@click.option(
    "--decode",
    type=click.Choice(["auto", "exact", "fast"]),
    default=defaults.DECODE,
    show_default=True,
    help="exact: the pixels of torchvision's transforms; fast: at most one level off (bicubic: two), so features differ; "
    "auto: the store's, for a new one exact.",
)
@geometry_options
@batch_option
@click.option("--workers", type=click.IntRange(1), help="Reading and decoding threads (default: one per core).")
@click.option(
    "--units",
    default="0/1",
    callback=_share,
    metavar="I/N",
    help="Extract only every N-th unit, starting at unit I, to share the work between N processes, here or on other hosts.",
)
@click.option(
    "--unit-rows",
    type=click.IntRange(1),
    help=f"Number of pictures in a full shard, fixed when the store is made (default: a power of two, at most {defaults.UNIT_BYTES >> 20} MiB of vectors).",
)
@click.option("--retry-failures", is_flag=True, help="Retry pictures that failed before.")
@click.option("--rehash", is_flag=True, help="Detect changes by content instead of size and time; reads every picture.")
@click.option(
    "--kind",
    type=click.Choice(["folder", "table", "tar", "list", "coco", "store"]),
    help="Kind of SOURCE (default: found from its name and content).",
)
@click.option(
    "--root",
    type=click.Path(),
    help="Folder that relative paths start from (default: the folder of SOURCE); for pictures that moved.",
)
@click.option(
    "--layout",
    type=click.Choice(["split/class", "class", "split", "flat", "none"]),
    help="Meaning of the folders in a folder or .tar (default: found by rules).",
)
@click.option("--path-column", help="Table column with the paths.")
@click.option("--label-column", help="Table column with the labels (in a .tar: name in .json); '' for none.")
@click.option("--split-column", help="Table column with the splits (in a .tar: name in .json); '' for none.")
@click.option("--id-column", help="Table column with the keys (default: the paths).")
@click.option("--all-files", is_flag=True, help="Include files whose extension is not a picture's.")
@click.option(
    "--boxes",
    callback=_names,
    metavar="X,Y,W,H",
    help="Table columns of boxes: left, top, width, height. Each row is then a part of its picture.",
)
@click.option(
    "--box-unit",
    type=click.Choice(["auto", "pixels", "shares"]),
    default="auto",
    show_default=True,
    help="Unit of the boxes; auto: shares of the picture if no number is larger than 1.5.",
)
@click.option(
    "--region-column", help="Table column with the names of the boxes (default: their values, as in a.jpg#12,30,40,50)."
)
@click.option(
    "--tiles",
    type=click.IntRange(1),
    metavar="SIDE",
    help="Cut every picture into square tiles with sides of SIDE pixels; large TIFF files are read in parts.",
)
@click.option("--overlap", type=click.IntRange(0), default=0, show_default=True, help="Overlap of tiles in pixels.")
@click.option(
    "--follow",
    is_flag=True,
    help="Always use the labels, splits and metadata of SOURCE, another store, instead of copying them.",
)
@click.option(
    "--views",
    type=click.IntRange(1, defaults.LARGEST_VIEW),
    metavar="N",
    help="Number of views: STORE has the plain pictures, and the stores STORE.views/1 to N-1 augmented ones, for training.",
)
@click.option(
    "--augment",
    type=click.Choice(defaults.POLICIES),
    help="How views are augmented. standard: random crop, mirror image and colours; light: slight crop and mirror image. "
    f"Default: as existing views, for new ones {defaults.AUGMENT}.",
)
@click.option(
    "--augment-seed",
    type=click.IntRange(0, defaults.LARGEST_SEED),
    metavar="S",
    help="Seed of the views (default: that of existing views, for new ones 0).",
)
@click.option(
    "--max-pixels",
    type=click.IntRange(1),
    default=defaults.MAX_PIXELS,
    show_default=True,
    help="Largest picture in pixels; larger ones become failures.",
)
@click.option(
    "--max-memory",
    callback=to_bytes_of_at_least(1 << 20),
    default=f"{defaults.MAX_MEMORY >> 30}G",
    show_default=True,
    metavar="SIZE",
    help="Memory limit for decoding one picture; pictures that need more become failures.",
)
@click.option(
    "--stall-seconds",
    type=click.FloatRange(1),
    default=defaults.STALL_SECONDS,
    show_default=True,
    help="Time limit for reading and decoding a picture; slower ones become failures.",
)
@click.option(
    "--in-process",
    is_flag=True,
    help="Work without a supervised child process: a picture that kills its decoder then ends the run.",
)
@click.option("--quiet", is_flag=True, help="No progress bar.")
@json_option
def extract(
    source: str,
    stores: tuple[str, ...],
    backbones: tuple[str, ...],
    weights_names: tuple[str, ...],
    as_json: bool,
    quiet: bool,
    in_process: bool,
    **options: Any,
) -> int:
    """Extract features of the pictures of SOURCE into STORE, a folder that is made if it is missing.

    SOURCE is a folder (split/class/file, class/file or flat), a CSV or Parquet table with a path column, a WebDataset
    .tar, a file with one path per line (- for stdin), COCO annotations (.json), or another store, whose pictures are
    extracted with another backbone; labels, splits, metadata and label history are copied from that store.
    Pictures that STORE already has are not extracted again; pictures that are no longer in SOURCE are retired: results
    no longer contain them. The run may be interrupted or killed: the same command continues it.

    With several STOREs and one --backbone for each, in the same order, each picture is decoded only once. Every store
    has the same content as after a separate run. With --views, each picture is decoded once for all views; later runs
    with --views extend all views, and a larger N adds more.

    \b
    Examples:
      featstore extract pictures/ my.store
      featstore extract pictures/ my.store --backbone efficientnet_lite0
      featstore extract pictures/ whole.store --fit pad --size 384
      featstore extract pictures/ maps.store --layer layer3 --pool none --dtype float16
      featstore extract table.csv my.store --root /mnt/pictures --label-column species
      find pictures -name '*.jpg' -print0 | featstore extract - my.store
      featstore extract detections.csv my.store --boxes x,y,w,h --label-column species
      featstore extract annotations.json my.store --root /mnt/pictures
      featstore extract slides/ my.store --tiles 256 --overlap 32
      featstore extract pictures/ my.store --views 8 --augment light
      featstore extract my.store other.store --backbone resnet18
      featstore extract pictures/ a.store b.store --backbone resnet50 --backbone efficientnet_lite0
      featstore extract pictures/ my.store --units 0/2 & featstore extract pictures/ my.store --units 1/2
    """
    from featstore.stages.extract import extract_together as run

    with stop_on_signals() as (stop, code), apart() as stream:
        bar = Bar(stream=stream)
        try:
            progress = None if quiet or as_json else bar
            given = {**options, "backbones": backbones, "weights": weights_names, "supervised": not in_process}
            reports = run(source, stores, progress=progress, stop=stop, **given)
        finally:
            bar.close()
    told = [report.to_dict() for report in reports]
    if options["views"] is not None:
        shown = "\n".join([_text(reports[0]), *map(_view_text, reports[1:])])
        show({**told[0], "views": told[1:]}, shown, as_json)
    else:
        show(told[0] if len(told) == 1 else {"stores": told}, "\n".join(map(_text, reports)), as_json)
    if any(report.stopped for report in reports):
        say("featstore: stopped; run the same command to go on", err=True)
        return code()
    return 1 if any(report.fruitless for report in reports) else 0


def _text(report: Any) -> str:
    change, timings = report.change, report.timings
    lines = [
        f"{report.store}: {counted(report.images, 'image')} = {counted(report.vectors, 'vector')} + {counted(report.failures, 'failure')} + {report.pending:,} pending",
        f"source: {change.listed:,} listed: {change.added:,} added, {change.changed:,} changed, {change.retried:,} retried, "
        f"{change.unchanged:,} unchanged; {change.removed:,} removed, {change.relabelled:,} relabelled, {counted(report.ignored, 'file')} ignored"
        + (f", {change.denied:,} left out (removed by featstore remove)" if change.denied else ""),
        f"this run: {counted(report.new_vectors, 'vector')}, {counted(report.new_failures, 'failure')} in {report.seconds:.1f} s",
    ]
    if report.read_as:
        lines.insert(2, f"read: {printable(report.read_as)}")
    lines += [f"note: {printable(note)}" for note in report.notes]
    if report.reasons:
        lines.append(
            "failures: "
            + ", ".join(f"{count:,} {reason}" for reason, count in report.reasons.items())
            + f" (featstore failures {report.store})"
        )
    if report.restarts:
        lines.append(f"the working process died or stalled {report.restarts:,} times and was started again")
    if timings.get("forwarded"):
        lines += _account(timings)
        if report.advice:
            lines.append(report.advice)
    return "\n".join(lines)


def _view_text(report: Any) -> str:
    """Return one line that describes an augmented view, followed by the view's notes."""
    counts = f"{counted(report.vectors, 'vector')} + {counted(report.failures, 'failure')} + {report.pending:,} pending"
    lines = [f"view {report.store}: {counts}; this run: {counted(report.new_vectors, 'vector')}"]
    return "\n".join([*lines, *(f"note: {printable(note)}" for note in report.notes)])


_STAGES = {
    "startup": "start-up",
    "planning": "planning",
    "verifying": "verifying the engine",
    "forward": "network",
    "copy": "copying",
    "waiting": "waiting for pictures",
    "scheduling": "scheduling",
    "blocked": "writing",
    "others": "waiting for other processes",
    "restarts": "starting again",
    "closing": "closing",
}


def _account(timings: dict[str, float]) -> list[str]:
    """Return two lines of text: the seconds of each stage of a run, and the seconds of its threads by kind of work."""
    stages = {words: timings.get(name, 0.0) for name, words in _STAGES.items()}
    shown = [f"{words} {seconds:.1f} s" for words, seconds in stages.items() if seconds >= 0.05]
    threads = ", ".join(
        f"{words} {timings[n]:.1f} s"
        for n, words in (("read", "reading"), ("decode", "decoding"), ("write", "writing"))
    )
    return [f"time: {sum(stages.values()):.1f} s = {' + '.join(shown)}", f"meanwhile, over the threads: {threads}"]
