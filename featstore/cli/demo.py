"""The command ``featstore demo``: its options and its output."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from featstore.cli.network import engine_option
from featstore.cli.output import Bar, json_option, say, show
from featstore.text import printable


@click.command()
@click.argument("folder", type=click.Path(), default="featstore-demo")
@click.option("--limit", type=click.IntRange(1), help="Use only this many of the 1,797 digits.")
@engine_option
@click.option("--open", "open_page", is_flag=True, help="Open the page in the browser at the end.")
@json_option
def demo(folder: str, limit: int | None, engine: str, open_page: bool, as_json: bool) -> None:
    """Run all steps, from pictures to a page, on 1,797 handwritten digits; needs no network connection.

    Writes pictures, features, four heads, an index, and a page with the results into FOLDER (default: featstore-demo).
    A second run keeps finished results.

    \b
    Examples:
      featstore demo
      featstore demo /tmp/demo --open
    """
    from featstore.pages.demo import write_demo_page
    from featstore.stages.demo import Step
    from featstore.stages.demo import demo as run

    bar = Bar()

    def on_step(step: Step) -> None:
        bar.close()
        if not as_json:
            say(
                f"{step.seconds:6.1f} s  {printable(step.command)}\n          {printable(step.result)}{' (kept)' if step.kept else ''}"
            )

    def progress(value: Any) -> None:
        if not as_json:
            bar(value)

    report = run(folder, limit=limit, engine=engine, progress=progress, on_step=on_step, write_page=write_demo_page)
    address = Path(report.page).resolve().as_uri()
    show({**report.to_dict(), "address": address}, f"{report.seconds:6.1f} s  in all\nopen {address}", as_json)
    if open_page:
        import webbrowser

        webbrowser.open(address)
