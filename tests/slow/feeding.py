"""Check that an extraction is almost as fast as decoding and forward pass allow, so that the engine is seldom idle.

    python -m tests.slow.feeding PICTURES [--count 2500] [--rounds 5] [--rate 500]

Each measurement runs in a fresh process, once per round: decoding alone, from memory; the forward pass of
EfficientNet-Lite0 alone; and extractions into a store, with EfficientNet-Lite0 and with a simulated engine that takes
``rate`` pictures per second without using the processor, like a GPU. Both extractions are repeated with 20 ms added to
every read of a picture, to simulate a network disk.

Required, in pictures per second: the extraction with the simulated engine reaches 0.95 of the smaller of ``rate`` and
decoding alone; the extraction with EfficientNet-Lite0 reaches 0.9 of 1 / (1/decoding + 1/forward); slow reads reduce
both numbers by at most 5 %. The exit code is 1 if a requirement is missed.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import numpy as np

from featstore import defaults
from featstore.stages.bench.pictures import gather
from featstore.stages.bench.rounds import Contender, Measured, alternate

BACKBONE = "efficientnet_lite0"
SLEEP = 0.02


class PacedPending:
    """Result of a batch on the simulated engine, which becomes available at the time ``ready``."""

    def __init__(self, ready: float, features: Any) -> None:
        self._ready, self._features = ready, features

    def result(self) -> Any:
        time.sleep(max(0.0, self._ready - time.perf_counter()))
        return self._features

    def done(self) -> bool:
        return time.perf_counter() >= self._ready


class PacedEngine:
    """A simulated engine that takes ``rate`` pictures per second, one batch after another, without using the
    processor."""

    name, precision, in_flight = "torch", "fp32", 2

    def __init__(self, dimension: int, rate: float) -> None:
        self.dimension, self.rate = dimension, rate
        self._free = 0.0

    def submit(self, pictures: Any) -> PacedPending:
        self._free = max(self._free, time.perf_counter()) + len(pictures) / self.rate
        return PacedPending(self._free, np.zeros((len(pictures), self.dimension), np.float32))

    def provenance(self) -> dict[str, Any]:
        return {"engine": "paced", "device": "none"}


def extraction(folder: str, *, rate: float | None, slow_reads: bool) -> dict[str, Any]:
    """Extract ``folder`` with a simulated engine of ``rate`` pictures per second; None: with EfficientNet-Lite0."""
    from featstore import engines
    from featstore.backbones import load_backbone
    from featstore.embed import loader
    from featstore.embed.progress import Progress
    from tests.made import extract

    model = load_backbone(BACKBONE)
    if rate is not None:
        engines.open_engine = lambda *_, **__: PacedEngine(model.dimension, rate)
    if slow_reads:
        read = loader.read_picture

        def slowly(*arguments: Any, **options: Any) -> Any:
            time.sleep(SLEEP)
            return read(*arguments, **options)

        loader.read_picture = slowly
    begun: list[float] = []

    def tell(_: Progress) -> None:
        begun.append(time.perf_counter())

    with tempfile.TemporaryDirectory(prefix="feeding-") as place:
        report = extract(folder, Path(place) / "store", backbone=model, progress=tell)
        seconds = time.perf_counter() - begun[0]
    return {"rate": report.vectors / seconds, "failures": report.failures, "timings": report.timings}


def verdicts(measured: dict[str, Measured], rate: float) -> list[dict[str, Any]]:
    """Return each bound with the measured value: the median over the rounds of the ratio of two speeds."""

    def median(ratio: Any) -> float:
        return statistics.median(ratio(number) for number in range(len(measured["decoding"].rates)))

    def of(name: str, number: int) -> float:
        return measured[name].rates[number]

    return [
        {
            "what": f"paced engine, of the slower of {rate:g} a second and bare decoding",
            "asked": 0.95,
            "reached": median(lambda n: of("paced engine", n) / min(rate, of("decoding", n))),
        },
        {
            "what": f"{BACKBONE}, of 1 / (1/decode + 1/forward)",
            "asked": 0.9,
            "reached": median(lambda n: of(BACKBONE, n) * (1 / of("decoding", n) + 1 / of("forward", n))),
        },
        *(
            {
                "what": f"{name}, slow reads by plain ones",
                "asked": 0.95,
                "reached": median(lambda n, name=name: of(f"{name}, slow reads", n) / of(name, n)),
            }
            for name in ("paced engine", BACKBONE)
        ),
    ]


@click.command()
@click.argument("pictures", type=click.Path(exists=True))
@click.option("--count", default=2500, show_default=True)
@click.option("--rounds", default=5, show_default=True)
@click.option("--rate", default=500.0, show_default=True)
@click.option("--json", "as_json", is_flag=True)
def main(pictures: str, count: int, rounds: int, rate: float, as_json: bool) -> None:
    """Measure decoding, forward pass and extractions in rounds, and print the pictures per second.

    Exit with 1 if a requirement is missed.
    """
    place, bench = "tests.slow.feeding", "featstore.stages.bench.contenders"
    with tempfile.TemporaryDirectory(prefix="feeding-") as folder:
        gather(pictures, count, Path(folder))
        model = {"folder": folder, "backbone": BACKBONE, "weights": None}
        workers = os.cpu_count() or 1
        engine = {"engine": "auto", "device": "auto", "precision": "auto", "batch": defaults.BATCH}
        contenders = [
            Contender("decoding", f"{bench}:decode", {**model, "decoder": "pillow", "workers": workers}),
            Contender("forward", f"{bench}:forward", {**model, **engine}),
        ]
        for name, asked in (("paced engine", rate), (BACKBONE, None)):
            for ending, slow in (("", False), (", slow reads", True)):
                arguments = {"folder": folder, "rate": asked, "slow_reads": slow}
                contenders.append(Contender(name + ending, f"{place}:extraction", arguments))

        def tell(number: int, name: str, found: float) -> None:
            click.echo(f"round {number}: {name}: {found:.1f} a second", err=True)

        measured = {each.name: each for each in alternate(contenders, rounds, tell)}
    results = verdicts(measured, rate)
    if as_json:
        click.echo(json.dumps({"rates": {n: m.to_dict() for n, m in measured.items()}, "verdicts": results}, indent=2))
    else:
        for name, one in measured.items():
            click.echo(f"{name:<40} {one.median:8.1f} [{min(one.rates):.1f}, {max(one.rates):.1f}] a second")
        for each in results:
            click.echo(f"{each['what']}: {each['reached']:.3f} ({each['asked']} asked)")
    sys.exit(any(each["reached"] < each["asked"] for each in results))


if __name__ == "__main__":
    main()
