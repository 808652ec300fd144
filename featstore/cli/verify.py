"""The command ``featstore verify``: its options and its output."""

from __future__ import annotations

import os

import click

from featstore.cli.output import json_option, show, strangers
from featstore.text import counted, printable


@click.command()
@click.argument("path", type=click.Path())
@json_option
def verify(path: str, as_json: bool) -> int:
    """Check every byte of the store, head or index at PATH against its checksums; exit code 1 if anything is damaged.

    \b
    Examples:
      featstore verify my.store
      featstore verify my.head
      featstore verify my.store --json
    """
    from featstore.stages.verify import verify as run

    report = run(path)
    lines = [printable(str(problem)) for problem in report.problems]
    state = counted(len(lines), "problem") if lines else "whole"
    lines.append(f"{path}: {counted(report.files, 'file')}, {report.bytes / 2**20:,.1f} MiB: {state}")
    lines[-1] += strangers(report.strangers)
    if report.problems and os.path.isdir(path):
        lines.append(f"featstore repair {path} restores what can be restored")
    show(report.to_dict(), "\n".join(lines), as_json)
    return 1 if report.problems else 0
