"""The command ``featstore index``: its options and its output."""

from __future__ import annotations

from typing import Any

import click

from featstore import defaults
from featstore.cli.output import all_printable, columns, json_option, say, show
from featstore.cli.quantities import to_bytes, to_seconds
from featstore.text import counted, printable


@click.command()
@click.argument("store", type=click.Path())
@click.option("--out", type=click.Path(), help="File of the index (default: STORE.faiss beside the store).")
@click.option(
    "--recall",
    type=click.FloatRange(0, 1, min_open=True),
    help=f"Contract: minimum recall, measured on pictures that are not in the index (default {defaults.RECALL}).",
)
@click.option(
    "--at",
    type=click.IntRange(1),
    help=f"Contract: number of neighbours for the recall (default {defaults.NEIGHBOURS}).",
)
@click.option(
    "--memory",
    callback=to_bytes,
    metavar="SIZE",
    help="Contract: memory limit for building and searching, such as 4G or 500M. A tenth of the limit is kept free for building, "
    "so the new index file has at most nine tenths.",
)
@click.option("--latency", callback=to_seconds, metavar="TIME", help="Contract: time limit per query, such as 5ms.")
@click.option(
    "--metric",
    type=click.Choice(["cosine", "l2", "ip"]),
    help="Cosine (the default), Euclidean distance, or inner product.",
)
@click.option(
    "--kind",
    type=click.Choice(["auto", "flat", "hnsw"]),
    help="flat: exact; hnsw: a graph, approximate; auto (the default): by the contract, or without one flat up to "
    f"{defaults.EXACT_SCAN_BYTES >> 20} MiB of vectors.",
)
@click.option("--seed", type=int, default=defaults.SEED, show_default=True)
@click.option(
    "--update",
    is_flag=True,
    help="Add new pictures, exclude removed pictures and copy changed labels, without a rebuild.",
)
@click.option(
    "--export",
    type=click.Path(dir_okay=False),
    metavar="FILE.hdf5",
    help="Also write vectors, held-out queries and their true neighbours as an ann-benchmarks file.",
)
@json_option
def index(store: str, as_json: bool, update: bool, export: str | None, **options: Any) -> int:
    """Build an index for nearest-neighbour search over STORE, and measure its recall on held-out pictures.

    One or more of --recall, --at, --memory and --latency set a contract (limits for the index): several kinds of index
    are tried, and the fastest one that meets the contract is used. The contract is met only if the lower end of the
    95 % interval of its recall, measured on pictures that tuning did not use, reaches the required recall. The latency
    is the median of single queries in one thread, measured on the finished index. featstore info shows everything that
    was tried. An update checks the contract again; the exit code is 1 if the contract is not met.

    The file is a plain FAISS index, whose ids are the store's row ids (FeatureStore.rows_of_ids). An update deletes
    removed pictures from an exact index. Other kinds of index keep removed pictures in the file, and skip them in
    searches, until the index is built again.

    \b
    Examples:
      featstore index my.store
      featstore index my.store --recall 0.95 --at 10 --memory 4G --latency 5ms
      featstore index my.store --kind hnsw --recall 0.99
      featstore index my.store --update                   after the store has grown
      featstore index my.store --export my.hdf5           a file for measuring other indexes
    """
    from featstore.stages.index import export_store
    from featstore.stages.index import index as run

    if export is not None and options["metric"] == "ip":
        raise click.UsageError("--export: files of ann-benchmarks have no inner product; choose another --metric")
    report = run(store, update=update, progress=_tell, **options)
    info = all_printable(report.info)
    what = f"{report.path}: {counted(info['rows'], 'vector')}, {info['factory']}, {info['metric']}"
    lines = [
        f"{what}; {report.added:,} added, {report.removed:,} removed, {report.relabelled:,} relabelled"
        if update
        else what
    ]
    lines += [recall_text(info["exact"], info["recall"])] if update else contract_lines(info)
    lines += removed_lines(info, store)
    lines += [f"note: {printable(note)}" for note in report.notes]
    if export is not None:
        asking = export_store(store, export, metric=info["metric"], seed=options["seed"])
        lines.append(f"{export}: {asking:,} held-out queries with their true neighbours among the others")
    if report.standing.holds is not None:
        lines.append(report.standing.text)
    if report.standing.holds is False:
        lines[-1] += f"; build it again: {_rebuild_command(store, options['out'], info)}"
    show({**report.to_dict(), "export": export}, "\n".join(lines), as_json)
    return 1 if report.standing.holds is False else 0


def _tell(stage: str, done: int, total: int) -> None:
    if stage.startswith("tried"):
        say(f"{stage} ({done} of {total})", err=True)


def _rebuild_command(store: str, out: str | None, info: dict[str, Any]) -> str:
    """Return the command that builds the index again with the same contract."""
    contract = info["contract"]
    words = ["featstore", "index", store, "--recall", f"{contract['recall']:g}", "--at", str(contract["at"])]
    if contract["memory"] is not None:
        words += ["--memory", str(contract["memory"])]
    if contract["latency"] is not None:
        words += ["--latency", f"{contract['latency']:g}s"]
    if info["metric"] != "cosine":
        words += ["--metric", info["metric"]]
    if out is not None:
        words += ["--out", out]
    return printable(" ".join(words))


def recall_text(exact: bool, recall: dict[str, Any]) -> str:
    """Return the recall of an index as text."""
    if exact:
        return "recall: 1, since every vector is compared"
    if recall["value"] is None:
        return f"recall@{recall['k']}: not measured (too few vectors)"
    interval = f"[{recall['low']:.4f}, {recall['high']:.4f}]"
    return f"recall@{recall['k']}: {recall['value']:.4f} {interval} on {recall['queries']:,} held-out queries"


def removed_lines(info: dict[str, Any], store: str) -> list[str]:
    """Return a list with one line about removed rows that are still in the FAISS file, or an empty list."""
    if not info["removed"]:
        return []
    return [
        f"removed: {counted(info['removed'], 'picture')} still in the FAISS file; featstore passes over them, "
        f"faiss.read_index does not; built again, they are gone: {printable(f'featstore index {store}')}"
    ]


def contract_lines(info: dict[str, Any]) -> list[str]:
    """Return lines about an index: its recall and, if it has a contract, the limits and a table of the trials."""
    lines = [recall_text(info["exact"], info["recall"])]
    contract = info["contract"]
    if contract is None:
        return lines
    limits = [f"recall@{contract['at']} of at least {contract['recall']:g}"]
    if contract["memory"] is not None:
        limits.append(f"at most {contract['memory']:,} bytes of memory")
    if contract["latency"] is not None:
        limits.append(f"a query in at most {1000 * contract['latency']:g} ms")
    sample = f"; tried on a sample of {contract['rows_tried']:,} vectors" if contract["sampled"] else ""
    return [*lines, f"contract: {', '.join(limits)}{sample}", trials_table(info["trials"], contract["at"])]


def trials_table(trials: list[dict[str, Any]], at: int) -> str:
    """Return a text table of the kinds of index that were tried; a kind that was not built has empty cells."""
    rows: list[tuple[Any, ...]] = []
    for trial in trials:
        recall = trial["recall"] or {"value": None}
        known = recall["value"] is not None
        effort = ", ".join(f"{name} {value:g}" for name, value in (trial["effort"] or {}).items())
        rows.append(
            (
                trial["name"],
                f"{recall['value']:.4f}" if known else "",
                f"[{recall['low']:.4f}, {recall['high']:.4f}]" if known else "",
                _figure(trial["queries_per_second"], 1, ",.0f"),
                _figure(trial["latency_seconds"], 1000, ".3g"),
                f"{trial['bytes'] / 2**20:,.1f}",
                _figure(trial["build_seconds"], 1, ".1f"),
                effort,
                trial["outcome"],
            )
        )
    header = (
        "tried",
        f"recall@{at}",
        "95 % interval",
        "queries/s/thread",
        "ms/query",
        "MiB",
        "build s",
        "effort",
        "outcome",
    )
    return columns(rows, header)


def _figure(value: float | None, factor: float, form: str) -> str:
    return "" if value is None else format(factor * value, form)
