"""Decode each picture once for several runs at the same time, each with a backbone of its own.

The first run that needs a picture decodes it, resizes and crops it for every run, and keeps these small results for the
other runs. All runs go through the same pictures in the same order, so few results are kept. If ``limit`` bytes of
results are kept for a run, the other runs wait. If that run takes no result within two seconds (it waits for another
process, or its store already has these pictures), its results are dropped and it decodes these pictures itself. So no
run can block another run, and the features equal those of separate runs.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import xxhash
from numpy.typing import NDArray

from featstore import defaults
from featstore.decode import Augment, Fitting, Preprocessing, load_rgb, open_fitting
from featstore.decode.opening import as_failure
from featstore.store.cutting import CutPicture

if TYPE_CHECKING:
    from featstore.decode import Decoder
    from featstore.embed.recipe import Network

Pixels = NDArray[np.uint8]
_PATIENCE_SECONDS: Final = 2.0


class SharedDecoding:
    """State shared by ``runs`` extractions (runs) in one process, which decode each picture once for all of them.

    ``loading``: lock to hold while a network is loaded, because loading uses global state of torch. ``decoded``: number
    of decoded pictures. ``limit``: largest number of bytes kept for one run. ``views``: whether the runs are views of one
    store, which share one network: ``network``, once a run has loaded it. Read and set it while holding ``loading``.
    """

    def __init__(self, runs: int, limit: int = defaults.SHARED_BYTES, *, views: bool = False) -> None:
        self.views = views
        self.network: Network | None = None
        self.loading = threading.Lock()
        self.decoded, self.limit = 0, limit
        self._changed = threading.Condition()
        self._expected = set(range(runs))
        self._fit: dict[int, tuple[Fitting, Preprocessing]] = {}
        self._kept: dict[int, dict[bytes, deque[Future[Pixels]]]] = {run: defaultdict(deque) for run in range(runs)}
        self._count, self._taken = [0] * runs, [0] * runs
        self._cut: OrderedDict[Hashable, tuple[CutPicture, set[int]]] = OrderedDict()

    def join(self, run: int, decoder: str, preprocessing: Preprocessing, augment: Augment | None = None) -> Decoder:
        """Wait until every run has joined or left; return the decoder function for run number ``run``.

        ``decoder``: name of the decoder with which the features of this run are made. ``augment``: how the pictures of
        this run are augmented; None for plain pictures.
        """
        with self._changed:
            self._fit[run] = open_fitting(decoder, augment), preprocessing
            self._expected.discard(run)
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._expected)

        def decode(data: bytes, preprocessing: Preprocessing, *, max_pixels: int = defaults.MAX_PIXELS) -> Pixels:
            return self._decode(run, data, max_pixels)

        return decode

    def cut(self, run: int, place: Hashable, make: Callable[[], CutPicture]) -> CutPicture:
        """Return the CutPicture of the file that ``place`` identifies; ``make`` creates it for the first run.

        The CutPicture is kept until every other run has taken it; if kept pictures exceed ``limit`` bytes, the oldest
        are dropped.
        """
        with self._changed:
            picture, waiting = self._cut.pop(place) if place in self._cut else (make(), set(self._fit))
            waiting.discard(run)
            if waiting:
                self._cut[place] = picture, waiting
            while len(self._cut) > 1 and sum(kept.held for kept, _ in self._cut.values()) > self.limit:
                self._cut.popitem(last=False)
            return picture

    def leave(self, run: int) -> None:
        """Declare that the extraction number ``run`` needs no more decoded pictures."""
        with self._changed:
            for place in [place for place, (_, waiting) in self._cut.items() if waiting <= {run}]:
                del self._cut[place]
            self._expected.discard(run)
            self._fit.pop(run, None)
            self._drop(run)

    def _drop(self, run: int) -> None:
        self._kept[run].clear()
        self._count[run] = 0
        self._changed.notify_all()

    def _decode(self, run: int, data: bytes, max_pixels: int) -> Pixels:
        key = xxhash.xxh3_128_digest(data)
        with self._changed:
            waiting = self._kept[run].get(key)
            if waiting:
                made = waiting.popleft()
                if not waiting:
                    del self._kept[run][key]
                self._count[run] -= 1
                self._taken[run] += 1
                self._changed.notify_all()
            else:
                made = None
                others = self._promise(run, key)
        if made is not None:
            return made.result()
        try:
            with as_failure():
                image = load_rgb(data, max_pixels=max_pixels)
        except BaseException as error:
            for future in others.values():
                future.set_exception(error)
            raise
        with self._changed:
            self.decoded += 1
            own, fits = self._fit[run], {other: self._fit.get(other) for other in others}
        results: dict[tuple[Fitting, str], Pixels] = {}
        augmented = any(fit is not None and fit[0].augment is not None for fit in (own, *fits.values()))
        digest = hashlib.sha256(data).digest() if augmented else b""
        for other, future in others.items():
            fit = fits[other]
            try:
                # If the other run has left, its preprocessing is unknown, and it will not read this result. Use the
                # preprocessing of this run, because the future needs some result.
                future.set_result(_fitted(image, digest, fit or own, results))
            except BaseException as error:
                future.set_exception(error)
        return _fitted(image, digest, own, results)

    def _moved(self, run: int, full: int, taken: int) -> bool:
        """Wait until the extraction number ``run`` takes its results; return whether the waiting extraction may
        continue.

        True if fewer than ``full`` results are kept for ``run``, or if ``run`` has taken a result during the wait.
        ``taken``: number of results that ``run`` had taken before the wait.
        """
        return self._count[run] < full or self._taken[run] != taken

    def _promise(self, run: int, key: bytes) -> dict[int, Future[Pixels]]:
        """Return one future for each extraction (run) other than ``run``. Through it that run gets the picture that
        ``run`` decodes.

        The caller must hold the lock.
        """
        promised = {}
        for other in [each for each in self._fit if each != run]:
            crop = self._fit[other][1].crop
            full = max(1, self.limit // (3 * crop * crop))
            if self._count[other] >= full:
                self._changed.wait_for(partial(self._moved, other, full, self._taken[other]), _PATIENCE_SECONDS)
            if other not in self._fit:
                continue
            if self._count[other] >= full:
                self._drop(other)
            future: Future[Pixels] = Future()
            self._kept[other][key].append(future)
            self._count[other] += 1
            promised[other] = future
        return promised


def _fitted(
    image: Any, digest: bytes, fit: tuple[Fitting, Preprocessing], known: dict[tuple[Fitting, str], Pixels]
) -> Pixels:
    """Return the pixels that ``fit`` (function, preprocessing) makes of a whole picture.

    ``digest``: SHA-256 of the picture's file. ``known``: results made so far; the result for an equal ``fit`` is
    returned again.
    """
    function, preprocessing = fit
    name = (function, repr(preprocessing))
    if name not in known:
        with as_failure():
            known[name] = function(image, preprocessing, digest)
    return known[name]
