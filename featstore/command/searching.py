"""featstore index, featstore search."""

from __future__ import annotations

from typing import Any

import click

from featstore import defaults
from featstore.command.output import json_option, printable, show


@click.command()
@click.argument("store", type=click.Path())
@click.option("--out", type=click.Path(), help="File of the index (default: STORE.faiss beside the store).")
@click.option(
    "--metric",
    type=click.Choice(["cosine", "l2", "ip"]),
    default="cosine",
    show_default=True,
    help="Cosine, Euclidean distance, or inner product.",
)
@click.option(
    "--kind",
    type=click.Choice(["auto", "flat", "hnsw"]),
    default="auto",
    show_default=True,
    help=f"flat: exact; hnsw: a graph, approximate; auto: flat up to {defaults.EXACT_SCAN_BYTES >> 20} MiB of vectors.",
)
@click.option(
    "--k",
    type=click.IntRange(1),
    default=defaults.NEIGHBOURS,
    show_default=True,
    help="Neighbours that recall is measured at.",
)
@click.option(
    "--recall",
    type=click.FloatRange(0, 1, min_open=True),
    default=defaults.RECALL,
    show_default=True,
    help="Recall that a graph is tuned to.",
)
@click.option("--seed", type=int, default=defaults.SEED, show_default=True)
@click.option("--update", is_flag=True, help="Bring the index up to date with the store, without a rebuild.")
@json_option
def index(store: str, as_json: bool, update: bool, **options: Any) -> None:
    """Build the index for nearest neighbours over STORE, and measure its recall on pictures that it did not hold.

    \b
    Examples:
      featstore index my.store
      featstore index my.store --kind hnsw --recall 0.99
      featstore index my.store --update                   after the store has grown
    """
    from featstore.indexing import index_store

    report = index_store(store, update=update, **options)
    info, recall = report.info, report.info["recall"]
    what = f"{report.path}: {info['rows']:,} vectors, {info['factory']}, {info['metric']}"
    lines = [
        f"{what}; {report.added:,} added, {report.removed:,} removed" if update else what,
        recall_text(info["exact"], recall),
    ]
    lines += [f"note: {printable(note)}" for note in report.notes]
    show(report.to_dict(), "\n".join(lines), as_json)


def recall_text(exact: bool, recall: dict[str, Any]) -> str:
    """Return the recall of an index in words."""
    if exact:
        return "recall: 1, since every vector is compared"
    if recall["value"] is None:
        return f"recall@{recall['k']}: not measured (too few vectors)"
    interval = f"[{recall['low']:.4f}, {recall['high']:.4f}]"
    return f"recall@{recall['k']}: {recall['value']:.4f} {interval} on {recall['queries']:,} held-out queries"


@click.command()
@click.argument("index", type=click.Path())
@click.argument("inputs", nargs=-1, required=True, type=click.Path())
@click.option(
    "--k", type=click.IntRange(1), default=defaults.NEIGHBOURS, show_default=True, help="Neighbours a picture."
)
@click.option(
    "--html", type=click.Path(dir_okay=False), metavar="PAGE.html", help="Write a page that shows the pictures."
)
@click.option("--root", type=click.Path(), help="Where the pictures of the index are now, for the page, if they moved.")
@click.option(
    "--weights", type=click.Path(), help="The checkpoint that the features were made with, if it was a file of yours."
)
@click.option("--engine", default=defaults.ENGINE, show_default=True, help="What runs the network.")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1, ...")
@json_option
def search(
    index: str, inputs: tuple[str, ...], html: str | None, root: str | None, as_json: bool, **options: Any
) -> int:
    """Print the pictures of INDEX that are most like INPUTS: picture files, folders, tables or archives.

    A picture that cannot be read is listed with the reason, and makes the exit code 1.

    \b
    Examples:
      featstore search my.store.faiss cat.jpg
      featstore search my.store.faiss cat.jpg dog.jpg --k 20 --html neighbours.html
    """
    from featstore.searching import search as run

    report = run(index, list(inputs), **options)
    if html is not None:
        from featstore.reports.search_page import write_search_page

        write_search_page(report, html, root=root)
    lines = []
    for query in report.queries:
        if query.reason:
            lines.append(printable(f"{query.name}: failed: {query.reason}: {query.message}"))
            continue
        lines.append(printable(f"{query.name}:"))
        lines += [
            printable(f"  {found.score:.4f}  {found.key}" + (f"  ({found.label})" if found.label is not None else ""))
            for found in query.neighbours
        ]
    lines += [f"note: {printable(note)}" for note in report.notes]
    if html is not None:
        lines.append(f"page: {html}")
    show({**report.to_dict(), "page": html}, "\n".join(lines), as_json)
    if report.failures:
        click.echo(f"featstore: {report.failures:,} pictures could not be read", err=True)
    return 1 if report.failures else 0
