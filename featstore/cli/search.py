"""The command ``featstore search``: its options and its output."""

from __future__ import annotations

from typing import Any

import click

from featstore import defaults
from featstore.cli.network import device_option, engine_option, own_backbone_option
from featstore.cli.output import apart, json_option, say, show
from featstore.text import counted, printable


@click.command()
@click.argument("index", type=click.Path())
@click.argument("inputs", nargs=-1, type=click.Path())
@click.option("--key", "keys", multiple=True, metavar="KEY", help="Search for a picture of the store, by its key.")
@click.option(
    "--vector",
    "vectors",
    multiple=True,
    metavar="FILE.npy",
    help="Search for vectors, (d,) or (q, d), of the same backbone.",
)
@click.option("--like-label", "labels", multiple=True, metavar="LABEL", help="Search for the mean vector of a class.")
@click.option(
    "--text",
    "texts",
    multiple=True,
    metavar="TEXT",
    help="Search by a description, if the features come from a network with a text tower.",
)
@click.option("--combine", is_flag=True, help="Search once, for the mean of all queries.")
@click.option(
    "--less", "less_inputs", multiple=True, metavar="PICTURE", help="Combine the queries, and avoid this picture."
)
@click.option("--less-key", "less_keys", multiple=True, metavar="KEY", help="Like --less, for a picture of the store.")
@click.option(
    "--less-label", "less_labels", multiple=True, metavar="LABEL", help="Like --less, for the mean vector of a class."
)
@click.option(
    "--less-weight",
    type=click.FloatRange(0, min_open=True),
    default=defaults.LESS_WEIGHT,
    show_default=True,
    help="Strength of --less: the query moves away from the mean of what to avoid, by this multiple of their distance.",
)
@click.option(
    "--where",
    metavar="CONDITION",
    help="Return only pictures that meet a condition: label == 'cat' and year >= 2020.",
)
@click.option(
    "--k", type=click.IntRange(1), default=defaults.NEIGHBOURS, show_default=True, help="Neighbours per query."
)
@click.option("--by", type=click.Choice(["parent"]), help="Of each picture only its best region.")
@click.option(
    "--html", type=click.Path(dir_okay=False), metavar="PAGE.html", help="Write a page that shows the pictures."
)
@click.option("--root", type=click.Path(), help="Where the pictures of the index are now, for the page, if they moved.")
@click.option(
    "--weights",
    type=click.Path(),
    help="Checkpoint file or model folder of the features, if they were made with your own weights.",
)
@own_backbone_option
@engine_option
@device_option
@json_option
def search(
    index: str,
    inputs: tuple[str, ...],
    keys: tuple[str, ...],
    vectors: tuple[str, ...],
    labels: tuple[str, ...],
    texts: tuple[str, ...],
    less_inputs: tuple[str, ...],
    less_keys: tuple[str, ...],
    less_labels: tuple[str, ...],
    html: str | None,
    root: str | None,
    as_json: bool,
    **options: Any,
) -> int:
    """Print the pictures of INDEX that are most similar to INPUTS: picture files, folders, tables or archives.

    Other queries: pictures of the store by --key, vectors by --vector, classes by --like-label, and descriptions by
    --text. A picture given by --key is not listed among its own neighbours. An unreadable picture is listed with the
    reason; the exit code is then 1.

    The CONDITION of --where compares columns (key, id, label, split, metadata) with texts in quotes, numbers, true or
    false. Comparisons: == != < <= > >=, in ('a', 'b'), startswith 'a', glob '*.png' (* any text, ? one character) and
    "is missing". They are joined by: and, or, not, parentheses. A column name that is not a word is put in back quotes.
    A missing value makes a comparison unknown (except "is missing"), as in SQL: "not" does not make it true.

    \b
    Examples:
      featstore search my.store.faiss cat.jpg
      featstore search my.store.faiss cat.jpg dog.jpg --k 20 --html neighbours.html
      featstore search my.store.faiss --key train/cat/0007.jpg --where "label != 'cat' and split == 'test'"
      featstore search my.store.faiss --like-label cat --where "not key glob '*/studio/*' and year >= 2020"
      featstore search my.store.faiss cat.jpg kitten.jpg --combine
      featstore search my.store.faiss cat.jpg --less basket.jpg --less-label dog
      featstore search clip.faiss --text "a red car" --k 20
      featstore search my.store.faiss --vector queries.npy --json
    """
    from featstore.stages.queries import Query
    from featstore.stages.search import search as run

    like = Query(keys=keys, vectors=vectors, labels=labels, texts=texts)
    less = Query(inputs=less_inputs, keys=less_keys, labels=less_labels)
    with apart():
        report = run(index, list(inputs), like=like, less=less, **options)
        notes = list(report.notes)
        if html is not None:
            from featstore.pages.search import write_search_page

            notes += write_search_page(report, html, root=root)
    lines = []
    if report.where is not None:
        lines.append(f"{report.kept:,} of {report.rows:,} pictures where {printable(report.where)}")
    for query in report.queries:
        if query.reason:
            lines.append(printable(f"{query.name}: failed: {query.reason}: {query.message}"))
            continue
        lines.append(printable(f"{query.name}:"))
        lines += [
            printable(f"  {found.score:.4f}  {found.key}" + (f"  ({found.label})" if found.label is not None else ""))
            for found in query.neighbours
        ]
    lines += [f"note: {printable(note)}" for note in notes]
    if html is not None:
        lines.append(f"page: {html}")
    show({**report.to_dict(), "page": html}, "\n".join(lines), as_json)
    if report.failures:
        say(f"featstore: {counted(report.failures, 'picture')} could not be read", err=True)
    return 1 if report.failures else 0
