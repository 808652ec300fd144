"""The command ``featstore repair``: its options and its output."""

from __future__ import annotations

from typing import Any

import click

from featstore.cli.network import device_option, engine_option, own_backbone_option
from featstore.cli.output import json_option, show
from featstore.text import counted, printable


@click.command()
@click.argument("store", type=click.Path())
@click.option("--root", type=click.Path(), help="Where the pictures are now, if they moved.")
@click.option(
    "--weights", help="Checkpoint file or model folder of the backbone, if it is not found by its name in the store."
)
@own_backbone_option
@engine_option
@device_option
@click.option("--set-aside", is_flag=True, help="Extract nothing: pictures with damaged vectors become failures.")
@json_option
def repair(store: str, as_json: bool, **options: Any) -> None:
    """Restore the damaged files that verify finds in STORE.

    Before a damaged file is replaced, it is moved to STORE/damaged; it is never deleted.

    Single flipped bits are corrected. Damaged vectors are extracted again if their pictures exist with the same bytes;
    otherwise the pictures become failures, which extract --retry-failures tries again. What cannot be restored is
    reported and left unchanged.

    \b
    Examples:
      featstore repair my.store
      featstore repair my.store --root /mnt/pictures
      featstore repair my.store --set-aside
    """
    from featstore.stages.repair import repair as run

    report = run(store, **options)
    lines = [f"restored: {printable(name)}" for name in report.restored]
    lines += [printable(note) for note in report.notes]
    lines += [f"the damaged file is kept: {printable(name)}" for name in report.aside]
    lines.append(
        f"{store}: {counted(len(report.restored), 'file')} restored, {counted(report.remade, 'vector')} made again, {counted(report.failed, 'picture became a failure', 'pictures became failures')}"
        if report.aside
        else f"{store}: nothing is damaged"
    )
    show(report.to_dict(), "\n".join(lines), as_json)
