"""Embed pictures, from paths or memory, with the same backbone and preprocessing as an existing store, head or
index."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from io import BufferedReader, BytesIO
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

import numpy as np
from numpy.typing import NDArray

from featstore import defaults
from featstore.embed.geometry import GeometryKeywords
from featstore.files.signatures import SIGNATURE_BYTES, is_picture
from featstore.sources import open_source
from featstore.sources.base import ReadFailure
from featstore.sources.reading import read_picture
from featstore.store.origin import Origin

if TYPE_CHECKING:
    from PIL import Image

    from featstore.backbones import Backbone
    from featstore.embed.pipeline import Done, Loaded
    from featstore.store import Identity

CHUNK = 1024
"""Largest number of vectors in memory at once; fewer if these vectors take more than CHUNK_BYTES."""
CHUNK_BYTES = 256 << 20
FEW = 16
"""Largest number of pictures that plain torch embeds faster than another engine, which takes seconds to start."""
_SOURCE_SUFFIXES = (".csv", ".tsv", ".tab", ".parquet", ".pq", ".tar")


@dataclass(frozen=True)
class Input:
    """One picture to embed.

    ``name``: shown in messages and results. The picture is a file (see read_picture), the bytes ``data`` of a file, or
    a PIL ``image``. ``failure``: if the picture is known to be unreadable, the reason and the message.
    """

    name: str
    root: Path
    location: bytes
    offset: int = -1
    size: int = -1
    image: Image.Image | None = None
    data: bytes | None = None
    failure: tuple[str, str] | None = None


@dataclass(frozen=True)
class Embedded:
    """Result for up to CHUNK inputs.

    ``ok`` (m,): indices of the inputs that have a vector; ``vectors`` (m, d): their vectors. ``failures``: maps the
    index of each other input to (reason, message).
    """

    inputs: list[Input]
    ok: NDArray[np.int64]
    vectors: NDArray[Any]
    failures: dict[int, tuple[str, str]]


def inputs_of(paths: Iterable[str | os.PathLike[str]]) -> Iterator[Input]:
    """Yield the pictures of ``paths``: picture files, folders, tables (.csv, .parquet), archives (.tar).

    "-" is standard input, which holds one picture or a list of paths. A missing file is yielded too; it fails later,
    when it is read. Raises UsageError for a folder or table without pictures.
    """
    for path in paths:
        name = os.fspath(path)
        if name == "-" and (data := _picture_on_stdin()) is not None:
            yield Input("standard input", Path(), b"", data=data)
        elif _is_source(name):
            source = open_source(name)
            for chunk in source.chunks():
                locations = chunk.keys if chunk.locations is None else chunk.locations
                columns = (chunk.keys, locations, chunk.offsets.tolist(), chunk.sizes.tolist())
                for key, location, offset, size in zip(*columns, strict=True):
                    yield Input(key.decode("utf-8", "surrogateescape"), source.root, location, offset, size)
        else:
            # Use an absolute path: a relative path with ".." would be refused, but the user may name any file here.
            yield Input(name, Path.cwd(), os.path.join(os.getcwdb(), os.fsencode(name)))


def count_inputs(paths: Iterable[str | os.PathLike[str]]) -> int:
    """Return the number of pictures that ``inputs_of`` yields, 0 if unknown in advance.

    Raises the same errors as ``inputs_of``.
    """
    count = 0
    for path in paths:
        name = os.fspath(path)
        if name == "-" or _is_pipe(name):
            return 0
        count += sum(map(len, open_source(name).chunks())) if _is_source(name) else 1
    return count


def _is_pipe(name: str) -> bool:
    """Return whether the input ``name`` can be read only once, such as a pipe."""
    try:
        return stat.S_ISFIFO(os.stat(name).st_mode)
    except (OSError, ValueError):
        return False


def _picture_on_stdin() -> bytes | None:
    """Return the picture on standard input, cut off one byte after the size limit; None if there is no picture."""
    # Peek instead of read: if standard input is a list of paths, the list is read from this buffer later.
    start = sys.stdin.buffer.peek(SIGNATURE_BYTES) if isinstance(sys.stdin.buffer, BufferedReader) else b""
    return sys.stdin.buffer.read(defaults.MAX_FILE_BYTES + 1) if is_picture(start) else None


def _are_few_files(paths: Sequence[str | os.PathLike[str]]) -> bool:
    return 0 < len(paths) <= FEW and not any(_is_source(os.fspath(path)) for path in paths)


def _is_source(name: str) -> bool:
    """Return whether ``name`` can hold many pictures (folder, table, archive or "-") instead of being one picture
    file."""
    try:
        is_folder = stat.S_ISDIR(os.stat(name).st_mode)
    except (OSError, ValueError):
        is_folder = False
    return is_folder or name == "-" or name.lower().endswith(_SOURCE_SUFFIXES)


class Embedder:
    """Compute the vectors of pictures with one backbone, preprocessing and engine; made by ``open_embedder`` or
    ``make_embedder``."""

    def __init__(self, identity: Identity, engine: Any) -> None:
        # Import featstore.decode only here: it imports Pillow, which a search by key does not need.
        from featstore.decode import Preprocessing, open_decoder

        self.identity = identity
        self.engine = engine
        self._preprocessing = Preprocessing.from_dict(identity.preprocessing)
        self._decode = open_decoder(identity.decoder)

    def blocks(
        self,
        inputs: Iterable[Input],
        *,
        batch: int = defaults.BATCH,
        workers: int | None = None,
        on_batch: Callable[[int, int], None] | None = None,
    ) -> Iterator[Embedded]:
        """Yield vectors and failures of ``inputs``, in order, CHUNK at a time, with constant memory.

        ``on_batch`` is called after every batch, from another thread, with the number of pictures in the batch
        and the number of those that failed.
        """
        remaining = iter(inputs)
        size = min(CHUNK, max(batch, CHUNK_BYTES // (4 * self.identity.dimension)))
        while chunk := list(islice(remaining, size)):
            yield self._embed(chunk, batch, workers or os.cpu_count() or 1, on_batch)

    def _embed(
        self, chunk: list[Input], batch: int, threads: int, on_batch: Callable[[int, int], None] | None
    ) -> Embedded:
        from featstore.embed import pipeline
        from featstore.engines.shared import claim_process

        claim_process()
        parts: list[NDArray[Any]] = []
        failures: dict[int, tuple[str, str]] = {}

        def write(done: Done) -> None:
            parts.append(done.vectors)
            failures.update({row: (reason, message) for row, reason, message in done.failures})
            if on_batch is not None:
                on_batch(done.batch.stop - done.batch.start, len(done.failures))

        starts = range(0, len(chunk), batch)
        pipeline.run(
            iter([pipeline.Batch(chunk, at, min(at + batch, len(chunk)), False) for at in starts]),
            pipeline.one_by_one(self._load),
            self.engine,
            write,
            dtype=self.identity.numpy_dtype,
            threads=threads,
            ahead=defaults.BATCHES_AHEAD,
            timings=pipeline.Timings(),
        )
        ok = np.array([row for row in range(len(chunk)) if row not in failures], np.int64)
        return Embedded(chunk, ok, np.concatenate(parts), failures)

    def _load(self, chunk: Sequence[Input], row: int) -> Loaded:
        from featstore.decode import DecodeFailure
        from featstore.embed.pipeline import NO_DIGEST, Loaded

        one = chunk[row]
        if one.failure is not None:
            return Loaded(None, NO_DIGEST, *one.failure)
        try:
            if one.image is not None:
                return Loaded(self._decode(_as_file(one.image), self._preprocessing))
            data = one.data
            if data is None:
                data = read_picture(one.root, one.location, one.offset, one.size, limit=defaults.MAX_FILE_BYTES).data
            elif len(data) > defaults.MAX_FILE_BYTES:
                raise ReadFailure("too-large", f"{one.name}: more than {defaults.MAX_FILE_BYTES:,} bytes")
            return Loaded(self._decode(data, self._preprocessing))
        except (ReadFailure, DecodeFailure) as failure:
            return Loaded(None, NO_DIGEST, failure.reason, failure.message)


def _as_file(image: Image.Image) -> bytes:
    """Encode a picture in memory losslessly as a file, so that the rules for files apply to it."""
    from PIL import ImageOps

    from featstore.decode.opening import as_failure

    file = BytesIO()
    with as_failure():
        upright = ImageOps.exif_transpose(image)
        # Convert images that TIFF cannot store: the modes listed here, and transparency that is not a channel.
        if upright.mode in ("P", "PA", "La", "RGBa", "HSV") or (
            upright.mode in "1LRGB" and "transparency" in upright.info
        ):
            upright = upright.convert("RGBA" if upright.has_transparency_data else "RGB")
        upright.save(file, "TIFF", compression="raw")
    return file.getvalue()


def make_embedder(
    backbone: str | Backbone = defaults.BACKBONE,
    *,
    weights: str | None = None,
    engine: str = defaults.ENGINE,
    device: str = "auto",
    precision: str = "auto",
    decode: str = "exact",
    **geometry: Unpack[GeometryKeywords],
) -> Embedder:
    """Return an embedder for new float32 vectors, which need not match any existing features.

    The parameters are those of featstore.extract.

    Raises UsageError for unknown or conflicting values, DamagedError for damaged weights, and FeatstoreError if a
    download fails.
    """
    from featstore.embed.recipe import Request

    request = Request(backbone, weights, engine, device, precision, decode, defaults.DTYPE, **geometry)
    network = request.load(None, Path())
    return Embedder(network.identity, network.engine)


class EmbedKeywords(TypedDict, total=False):
    """The fields of EmbedOptions as keywords, each of which may be left out."""

    weights: str | None
    backbone: str | Backbone | None
    engine: str
    device: str
    batch: int
    workers: int | None


@dataclass(frozen=True)
class EmbedOptions:
    """Options for embedding pictures in the same way as the existing features of a store, head or index.

    Attributes
    ----------
    weights, backbone, engine, device: see open_embedder. batch: pictures per forward pass. workers: number of decoding
        threads, by default one per core.
    """

    weights: str | None = None
    backbone: str | Backbone | None = None
    engine: str = defaults.ENGINE
    device: str = "auto"
    batch: int = defaults.BATCH
    workers: int | None = None

    def open(self, origin: Origin, what: str, inputs: Sequence[str | os.PathLike[str]]) -> Embedder:
        """Load the backbone that made the features of the file ``what``. Raises the errors of open_embedder."""
        how = {name: getattr(self, name) for name in ("weights", "backbone", "engine", "device")}
        return open_embedder(origin, what, inputs=inputs, **how)


def open_embedder(
    origin: Origin,
    what: str,
    *,
    weights: str | None = None,
    backbone: str | Backbone | None = None,
    engine: str = defaults.ENGINE,
    device: str = "auto",
    inputs: Sequence[str | os.PathLike[str]] = (),
) -> Embedder:
    """Load the backbone that made the features of ``what`` (a path, for messages), and check that it is the same.

    ``weights``: a checkpoint file, required if the features were made with the user's own file. ``backbone``: a loaded
    backbone, or "package.module:function", the user's own function, which is imported only if it is named here.
    ``inputs``: the pictures to embed; for a few picture files the engine "auto" is plain torch, because preparing a
    faster engine would take seconds. Raises IdentityError if backbone, weights, preprocessing, decoder or precision
    differ from those of ``origin``; UsageError if the weights are not found. ``origin``: record of the settings with
    which the features were made.
    """
    from featstore.embed.recipe import reopen

    identity = origin.identity
    identity.require_plain(what)
    if engine == "auto" and identity.precision == "fp32" and _are_few_files(inputs):
        engine = "torch"
    network = reopen(
        identity,
        origin.weights_name,
        what,
        backbone=backbone,
        weights=weights,
        engine=engine,
        device=device,
    )
    return Embedder(identity, network.engine)
