"""Measure augmented views: one extraction of N views beside N separate extractions of the plain pictures.

    python -m tests.slow.views FOLDER [--pictures 200] [--views 8] [--backbone efficientnet_lite0] [--augment standard]

FOLDER: a folder of pictures, the first of which are used. Prints the seconds, the processor seconds and the bytes of
both ways, and the number of decoded pictures. Required: each picture is decoded once for all views; view 0 equals a
plain extraction bit for bit; every view has every picture; the views need fewer processor seconds than the separate
extractions. The exit code is 1 if a requirement is missed.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click

from featstore.stages.extract import ExtractOptions
from featstore.stages.extract.jobs import Job, extract_jobs
from featstore.stages.extract.views import runs_with_views
from featstore.store import FeatureStore, folders
from featstore.store.view_stores import view_stores


def measured(*arguments: str) -> tuple[float, float]:
    """Run ``featstore extract`` with ``arguments``; return its seconds and processor seconds, with all children."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, "-m", "featstore", "extract", *arguments, "--quiet"], check=True, stdout=sys.stderr)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    taken = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - started, taken


def decodings(listed: Path, store: Path, backbone: str, views: int) -> int:
    """Extract all views in this process; return how many pictures were decoded."""
    from featstore.embed import sharing

    seen, load = [], sharing.load_rgb

    def counted(data: bytes, *, max_pixels: int) -> object:
        seen.append(len(data))
        return load(data, max_pixels=max_pixels)

    sharing.load_rgb = counted  # type: ignore[assignment]
    try:
        runs = runs_with_views(store, ExtractOptions(backbone=backbone), views, "light", 0)
        extract_jobs([Job(store if at else listed, *run, after_first=at > 0) for at, run in enumerate(runs)])
    finally:
        sharing.load_rgb = load
    return len(seen)


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True))
@click.option("--pictures", default=200, show_default=True)
@click.option("--views", default=8, show_default=True)
@click.option("--backbone", default="efficientnet_lite0", show_default=True)
@click.option("--augment", default="standard", show_default=True)
def main(folder: Path, pictures: int, views: int, backbone: str, augment: str) -> None:
    """Measure both ways and print the figures; exit with 1 if a requirement is missed."""
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))[:pictures]
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        listed, store = place / "list.txt", place / "all.store"
        listed.write_text("\n".join(map(str, files)))
        together = measured(
            str(listed), str(store), "--backbone", backbone, "--views", str(views), "--augment", augment
        )
        alone = [measured(str(listed), str(place / f"{at}.store"), "--backbone", backbone) for at in range(views)]
        seconds, processor = (sum(each[at] for each in alone) for at in range(2))
        print(f"{len(files)} pictures, {views} views, {backbone}, {augment}")
        print(f"views in one run: {together[0]:.1f} s, {together[1]:.1f} processor s")
        print(f"{views} plain runs: {seconds:.1f} s, {processor:.1f} processor s")
        print(
            f"ratio: {together[0] / seconds:.2f} of the seconds, {together[1] / processor:.2f} of the processor seconds"
        )
        plain, found = FeatureStore.open(place / "0.store"), FeatureStore.open(store)
        every = [FeatureStore.open(path) for path in view_stores(store).values()]
        sizes = [folders.size(each.path) for each in (found, *every)]
        print(f"bytes: view 0 {sizes[0]:,}; the {len(every)} other views {sum(sizes[1:]):,}")
        count = decodings(listed, place / "count.store", backbone, views)
        print(f"decoded: {count} pictures for {views} views")
        missed = [
            text
            for text, held in (
                ("view 0 differs from a plain run", found.features().tobytes() == plain.features().tobytes()),
                ("a view lacks pictures", all(len(each) == len(plain) for each in every) and len(every) == views - 1),
                ("a picture was decoded more than once", count == len(files)),
                ("the views need more processor seconds", together[1] < processor),
            )
            if not held
        ]
        print("missed: " + "; ".join(missed) if missed else "all requirements hold")
        sys.exit(bool(missed))


if __name__ == "__main__":
    main()
