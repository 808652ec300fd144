"""The stage behind ``featstore bench``: speed of feature extraction on this machine, in total and by part."""

from __future__ import annotations

import os
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Unpack

from featstore import defaults
from featstore.embed.geometry import Geometry, GeometryKeywords
from featstore.errors import UsageError
from featstore.stages.bench.rounds import Contender, Measured, Tell, alternate, apart

_PLACE: Final = "featstore.stages.bench.contenders"
TUTORIAL: Final = "tutorial loop"
PRODUCTS: Final = "as matrix products, fp32"
_WORTH_INT8: Final = 1.2
"""Minimum speed-up of openvino-int8 over openvino; below this value, a note says that int8 gains nothing."""
_PEERS: Final = {"img2vec": "img2vec-pytorch", "timm": "timm DataLoader loop"}
_DECODERS: Final = {"exact": "pillow", "fast": "pillow-torch"}


@dataclass(frozen=True)
class SpeedReport:
    """Result of a benchmark: rates in pictures per second, and ratios of rates.

    ``shares``: for each contender (measured function), its rate divided by other rates. Each ratio is computed within
    every round; the median over the rounds is given. ``times_tutorial`` (every contender): ratio to the tutorial loop.
    ``of_forward`` (end-to-end contenders): ratio to the bare forward pass of the same engine. ``of_ceiling``
    (end-to-end contenders): ratio to the upper bound, which is 1 / (1/decode + 1/forward) on a CPU, where decoding and
    network share the processors, and the smaller of the two rates on a GPU.
    """

    pictures: int
    distinct: int
    unreadable: int
    backbone: str
    weights: str
    rounds: int
    machine: dict[str, Any]
    contenders: list[Measured]
    shares: dict[str, dict[str, float]]
    notes: list[str]

    def to_dict(self) -> dict[str, Any]:
        """Return the benchmark's result as JSON types."""
        return {**self.__dict__, "contenders": [contender.to_dict() for contender in self.contenders]}


def bench(
    pictures: str | os.PathLike[str] | None = None,
    *,
    backbone: str = defaults.BACKBONE,
    weights: str | None = None,
    engines: Sequence[str] = (),
    device: str = "auto",
    precision: str = "auto",
    count: int = defaults.BENCH_PICTURES,
    batch: int = defaults.BATCH,
    workers: int | None = None,
    rounds: int = defaults.BENCH_ROUNDS,
    tell: Tell | None = None,
    **geometry: Unpack[GeometryKeywords],
) -> SpeedReport:
    """Measure each engine's bare forward pass, decoding alone, end-to-end extractions, and the tutorial loop.

    ``pictures``: any source of pictures, from which ``count`` are drawn (None: two sample photographs of scikit-learn).
    ``engines``: by default all available engines. ``weights``: untrained by default, which does not change the speed.
    ``geometry``: ``size``, ``fit``, ``layer`` and ``pool`` as in ``extract``; if any is given, other libraries are not
    measured. ``tell`` is called with every measured rate. Raises UsageError for invalid options, FeatstoreError if a
    contender fails.
    """
    if min(count, batch, rounds, 1 if workers is None else workers) < 1:
        raise UsageError("count, batch, rounds and workers have to be at least 1")
    asked = Geometry(**geometry)
    machine = apart(f"{_PLACE}:at_hand", {"device": device, "backbone": backbone}, "what is at hand")
    there, peers, usual = machine.pop("engines"), machine.pop("peers"), str(machine.pop("weights"))
    if missing := [engine for engine in engines if engine not in there]:
        raise UsageError(f"there is no engine {missing[0]!r} here; there are {', '.join(there)}")
    with tempfile.TemporaryDirectory(prefix="featstore-bench-") as place:
        distinct, unreadable = _gather(pictures, count, Path(place))
        model = {"folder": place, "backbone": backbone, "weights": weights, "geometry": asdict(asked)}
        options = {"device": device, "precision": precision, "batch": batch}
        contenders = _contenders(model, options, workers or machine["cores"], list(engines) or there)
        left_out = peers if asked != Geometry() else []
        contenders += _peers([name for name in peers if name not in left_out], model, options)
        measured = alternate(contenders, rounds, tell)
    by_name = {each.name: each for each in measured}
    return SpeedReport(
        count,
        distinct,
        unreadable,
        backbone,
        weights or usual,
        rounds,
        machine,
        measured,
        _shares(by_name, on_cpu=str(machine["device"]) == "cpu"),
        _notes(pictures, weights or usual, distinct, count, measured, peers)
        + [f"not measured with this size, fit or layer: {_PEERS[name]}" for name in left_out],
    )


def _gather(pictures: str | os.PathLike[str] | None, count: int, folder: Path) -> tuple[int, int]:
    from featstore.stages.bench.pictures import gather

    return gather(pictures, count, folder)


def _contenders(
    model: dict[str, Any], options: dict[str, Any], workers: int, engines: Sequence[str]
) -> list[Contender]:
    found = [Contender(PRODUCTS, f"{_PLACE}:products", {**_without_folder(model), "device": options["device"]})]
    found += [
        Contender(f"forward, {engine}", f"{_PLACE}:forward", {**model, **_for(engine, options)}) for engine in engines
    ]
    found += [
        Contender(f"decoding, {name}", f"{_PLACE}:decode", {**model, "decoder": decoder, "workers": workers})
        for name, decoder in _DECODERS.items()
    ]
    found += [
        Contender(
            f"end to end, {engine}, {name}",
            f"{_PLACE}:end_to_end",
            {**model, **_for(engine, options), "workers": workers, "decode": name},
        )
        for engine in engines
        if engine != "torch" or len(engines) == 1
        for name in _DECODERS
    ]
    found.append(Contender(TUTORIAL, f"{_PLACE}:tutorial", {**model, "device": options["device"]}))
    return found


def _peers(names: Sequence[str], model: dict[str, Any], options: dict[str, Any]) -> list[Contender]:
    place = "featstore.stages.bench.peers"
    asked = {"folder": model["folder"], "backbone": model["backbone"], "device": options["device"]}
    arguments = {
        "img2vec": (f"{place}:img2vec", asked),
        "timm": (f"{place}:timm_loop", {**asked, "batch": options["batch"]}),
    }
    return [Contender(_PEERS[name], *arguments[name]) for name in names]


def _without_folder(model: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in model.items() if name != "folder"}


def _for(engine: str, options: dict[str, Any]) -> dict[str, Any]:
    """Return ``options`` with ``engine``; torch always gets precision fp32, and openvino-int8 always int8."""
    fixed = {"torch": "fp32", "openvino-int8": "int8"}
    return {**options, "engine": engine, "precision": fixed.get(engine, options["precision"])}


def _shares(measured: dict[str, Measured], *, on_cpu: bool) -> dict[str, dict[str, float]]:
    shares = {}
    for name, one in measured.items():
        shares[name] = {"times_tutorial": one.share_of(measured[TUTORIAL])}
        if name.startswith("end to end"):
            _, engine, decoder = name.split(", ")
            forward, decoding = measured[f"forward, {engine}"], measured[f"decoding, {decoder}"]
            ceilings = [
                1 / (1 / f + 1 / d) if on_cpu else min(f, d) for f, d in zip(forward.rates, decoding.rates, strict=True)
            ]
            shares[name]["of_forward"] = one.share_of(forward)
            shares[name]["of_ceiling"] = statistics.median(
                rate / ceiling for rate, ceiling in zip(one.rates, ceilings, strict=True)
            )
    return shares


def _notes(
    pictures: Any, weights: str, distinct: int, count: int, measured: Sequence[Measured], peers: Sequence[str]
) -> list[str]:
    notes = []
    if missing := [title for name, title in _PEERS.items() if name not in peers]:
        notes.append(
            f"not measured, not installed or without this backbone: {', '.join(missing)} (pip install 'image-featstore[bench]')"
        )
    if pictures is None:
        notes.append(
            "the pictures are two photographs that scikit-learn carries; name your own for figures of your own"
        )
    if distinct < count:
        notes.append(f"{distinct:,} pictures, repeated to {count:,}")
    if weights.startswith("random:"):
        notes.append(f"the weights are untrained ({weights}): speed does not depend on them, the features mean nothing")
    other = sorted({each.said["engine"] for each in measured if each.said.get("precision", "fp32") != "fp32"})
    if other:
        notes.append(f"not exact, features of their own: {', '.join(other)}")
    forward = {each.name.removeprefix("forward, "): each for each in measured}
    if {"openvino", "openvino-int8"} <= forward.keys():
        gain = forward["openvino-int8"].share_of(forward["openvino"])
        if gain < _WORTH_INT8:
            notes.append(f"openvino-int8 gains nothing here: {gain:.2f} times the rate of openvino, which is exact")
    return notes
