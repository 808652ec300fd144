"""A scikit-learn transformer from pictures to features, for pipelines that begin with pictures."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin

from featstore import defaults
from featstore.columns import column, is_missing
from featstore.embed.embedder import Embedder, Input, make_embedder
from featstore.errors import UsageError
from featstore.files.signatures import is_picture
from featstore.store.features import FeatureArray
from featstore.text import shown

if TYPE_CHECKING:
    from featstore.backbones import Backbone

UNREADABLE = ("raise", "nan", "drop")


class ImageEmbedder(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Transform pictures (n) to features (n, d) float32 with a pretrained network; nothing is learned.

    A picture is a path, a PIL image, or a uint8 array (h, w), (h, w, 3) or (h, w, 4). A picture file gives the same
    features as in ``featstore extract``. To use the same pictures repeatedly, as in a grid search over a pipeline,
    extract their features into a store first.

    Pictures come in a list, an array, a Series, or a table with one column, so a ColumnTransformer can pass a column of
    paths. The features are a FeatureArray; heads and indexes check its identity.

    Parameters
    ----------
    backbone : str or Backbone
        Name of the network, see ``featstore backbones``.
    weights, engine, device, precision, decode : str
        As in ``featstore.extract``.
    size, layer, pool : int, str or None
        As in ``featstore.extract``; None means the setting of the authors of the weights.
    picture_fit : {"crop", "squash", "pad"} or None
        ``fit`` of ``featstore.extract``; here ``fit`` is the name of a method.
    batch : int
        Pictures per forward pass.
    workers : int or None
        Number of decoding threads; None means one per core.
    unreadable : {"raise", "nan", "drop"}
        What ``transform`` does with a picture that cannot be read: raise UsageError, or warn and return a row of NaN, or
        no row.

    Attributes
    ----------
    failures_ : list of tuple
        (position, name, reason, message) of each picture that the last ``transform`` could not read.

    Examples
    --------
    >>> import numpy as np
    >>> from featstore import ImageEmbedder
    >>> embedder = ImageEmbedder("efficientnet_lite0", weights="random:0", engine="torch")
    >>> pictures = [np.zeros((32, 48), np.uint8), np.full((64, 64, 3), 255, np.uint8)]
    >>> embedder.transform(pictures).shape
    (2, 1280)

    ``make_pipeline(ImageEmbedder("efficientnet_lite0"), LogisticHead())`` is a picture classifier.
    """

    def __init__(
        self,
        backbone: str | Backbone = defaults.BACKBONE,
        *,
        weights: str | None = None,
        engine: str = defaults.ENGINE,
        device: str = "auto",
        precision: str = "auto",
        decode: str = "exact",
        size: int | None = None,
        picture_fit: str | None = None,
        layer: str | None = None,
        pool: str | None = None,
        batch: int = defaults.BATCH,
        workers: int | None = None,
        unreadable: str = "raise",
    ) -> None:
        self.backbone = backbone
        self.weights = weights
        self.engine = engine
        self.device = device
        self.precision = precision
        self.decode = decode
        self.size = size
        self.picture_fit = picture_fit
        self.layer = layer
        self.pool = pool
        self.batch = batch
        self.workers = workers
        self.unreadable = unreadable

    def fit(self, X: Any, y: Any = None) -> Self:
        """Load the network and check the types in ``X``; no picture is read, and nothing is learned.

        Raises UsageError for invalid or conflicting parameters, or if ``X`` is not a list of pictures.
        """
        for _ in _inputs(X, load=False):
            pass
        self._embedder()
        return self

    @property
    def _n_features_out(self) -> int:
        """Dimension d of the features, for ``get_feature_names_out``; like ``transform``, available without ``fit``."""
        return self._embedder().identity.dimension

    def transform(self, X: Any) -> FeatureArray:
        """Return the features (n, d) of the pictures ``X`` (n); can be called without ``fit``.

        If ``unreadable`` is "raise", raises UsageError that names the first picture that cannot be read.
        """
        if self.unreadable not in UNREADABLE:
            raise UsageError(f"unreadable is one of {', '.join(UNREADABLE)}, not {self.unreadable!r}")
        embedder = self._embedder()
        blocks = [np.empty((0, embedder.identity.dimension), np.float32)]
        failures: list[tuple[int, str, str, str]] = []
        count = 0
        for part in embedder.blocks(_inputs(X), batch=self.batch, workers=self.workers):
            for row, (reason, message) in sorted(part.failures.items()):
                name = part.inputs[row].name
                if self.unreadable == "raise":
                    raise UsageError(f"{shown(name)}: {reason}: {message}; leave this picture out or mend it")
                failures.append((count + row, name, reason, message))
            count += len(part.inputs)
            vectors = part.vectors
            if self.unreadable == "nan" and part.failures:
                vectors = np.full((len(part.inputs), embedder.identity.dimension), np.nan, np.float32)
                vectors[part.ok] = part.vectors
            blocks.append(vectors)
        self.failures_ = failures
        if failures:
            what = "a row of NaN" if self.unreadable == "nan" else "no row"
            warnings.warn(
                f"{len(failures):,} of {count:,} pictures could not be read and have {what} (see failures_); the first: "
                f"{': '.join(failures[0][1:])}",
                stacklevel=2,
            )
        return FeatureArray(np.concatenate(blocks), embedder.identity)

    def _embedder(self) -> Embedder:
        """Return the loaded network for the current parameters; load it only if they have changed."""
        if self.batch < 1:
            raise UsageError(f"batch has to be at least 1, not {self.batch}")
        names = ("backbone", "weights", "engine", "device", "precision", "decode", "size", "layer", "pool")
        asked = {**{name: getattr(self, name) for name in names}, "fit": self.picture_fit}
        opened: tuple[dict[str, Any], Embedder] | None = getattr(self, "_opened", None)
        if opened is None or opened[0] != asked:
            opened = asked, make_embedder(**asked)
            self._opened = opened
        return opened[1]

    def __getstate__(self) -> dict[str, Any]:
        """Exclude the loaded network from copies and pickles; it is loaded again on demand."""
        state: dict[str, Any] = super().__getstate__()
        return {name: value for name, value in state.items() if name != "_opened"}

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        tags.input_tags.two_d_array = False
        tags.input_tags.string = True
        return tags


def _inputs(X: Any, *, load: bool = True) -> Iterator[Input]:
    """Yield the pictures of ``X``; decode PIL images if ``load``. Raises UsageError for anything that is not a picture."""
    if isinstance(X, Image.Image):
        raise UsageError("pictures have to come in a list or an array, not as one Image")
    if isinstance(X, Iterator):
        raise UsageError(f"pictures come as a {type(X).__name__}, which can be read only once; make a list of it")
    if isinstance(X, np.ndarray) and X.dtype == np.uint8 and X.ndim == 3 and X.shape[2] in (3, 4):
        raise UsageError(f"an array of shape {X.shape} is one picture; put it into a list")
    for number, picture in enumerate(column(X, "pictures")):
        name = f"picture {number}"
        if is_missing(picture):
            yield Input(name, Path(), b"", failure=("missing", "no picture is named here"))
            continue
        if isinstance(picture, bytes) and is_picture(picture):
            raise UsageError(f"{name} is the content of a file, not its path; give PIL.Image.open(io.BytesIO(content))")
        if isinstance(picture, str | bytes | os.PathLike):
            yield Input(os.fsdecode(picture), Path.cwd(), os.fsencode(picture))
            continue
        if isinstance(picture, np.ndarray):
            picture = _image(picture, name)
        if not isinstance(picture, Image.Image):
            raise UsageError(f"{name} is a {type(picture).__name__}; give a path, a PIL image or a uint8 array")
        if load:
            try:
                # Decode in this thread: if the list holds one image object twice, two threads must not decode it at
                # once.
                picture.load()
            except (OSError, ValueError, SyntaxError) as error:
                name = getattr(picture, "filename", "") or name
                yield Input(os.fsdecode(name), Path(), b"", failure=("corrupt", f"cannot be read: {error}"))
                continue
        yield Input(name, Path(), b"", image=picture)


def _image(pixels: NDArray[Any], name: str) -> Image.Image:
    channels = pixels.shape[2:] in ((), (3,), (4,)) and pixels.ndim in (2, 3)
    if pixels.dtype != np.uint8 or not channels or not pixels.size:
        raise UsageError(
            f"{name} is an array of {pixels.dtype} and shape {pixels.shape}; (h, w), (h, w, 3) or (h, w, 4) of uint8 "
            "is needed"
        )
    return Image.fromarray(np.ascontiguousarray(pixels))
