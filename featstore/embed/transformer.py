"""A scikit-learn transformer from pictures to features, for pipelines that begin with pictures."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin

from featstore import defaults
from featstore.embed.embedder import Embedder, Input, make_embedder
from featstore.errors import UsageError

if TYPE_CHECKING:
    from featstore.backbones import Backbone


class ImageEmbedder(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Transform pictures (n) to features (n, d) float32 with a pretrained network; nothing is learned.

    A picture is a path, a PIL image, or a uint8 array (h, w), (h, w, 3) or (h, w, 4). A picture file gives the same
    features as in ``featstore extract``. To use the same pictures repeatedly, as in a grid search over a pipeline,
    extract their features into a store first.

    Parameters
    ----------
    backbone : str or Backbone
        Name of the network, see ``featstore backbones``.
    weights, engine, device, precision, decode : str
        As in ``featstore.extract``.
    batch : int
        Pictures per forward pass.
    workers : int or None
        Number of decoding threads; None means one per core.

    Attributes
    ----------
    _n_features_out : int
        Dimension d of the features, for ``get_feature_names_out``. Set by ``fit``.

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
        batch: int = defaults.BATCH,
        workers: int | None = None,
    ) -> None:
        self.backbone = backbone
        self.weights = weights
        self.engine = engine
        self.device = device
        self.precision = precision
        self.decode = decode
        self.batch = batch
        self.workers = workers

    def fit(self, X: Any, y: Any = None) -> Self:
        """Load the network and check the types in ``X``; no picture is read, and nothing is learned.

        Raises UsageError: invalid or conflicting parameters, an ``X`` that is not a list of pictures.
        """
        for _ in _inputs(X, load=False):
            pass
        self._n_features_out = self._embedder().identity.dimension
        return self

    def transform(self, X: Any) -> NDArray[np.float32]:
        """Return the features (n, d) of the pictures ``X`` (n); needs no fit.

        Raises UsageError, naming the first picture that cannot be read.
        """
        embedder = self._embedder()
        blocks = [np.empty((0, embedder.identity.dimension), np.float32)]
        for part in embedder.blocks(_inputs(X), batch=self.batch, workers=self.workers):
            for row, (reason, message) in sorted(part.failures.items()):
                raise UsageError(f"{part.inputs[row].name}: {reason}: {message}; leave this picture out or mend it")
            blocks.append(part.vectors)
        return np.concatenate(blocks)

    def _embedder(self) -> Embedder:
        """Return the network for the current parameters; load it only when they change."""
        if self.batch < 1:
            raise UsageError(f"batch has to be at least 1, not {self.batch}")
        names = ("backbone", "weights", "engine", "device", "precision", "decode")
        asked = {name: getattr(self, name) for name in names}
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
    if isinstance(X, str | bytes | os.PathLike | Image.Image) or not isinstance(X, Iterable):
        raise UsageError(f"pictures have to come in a list or an array, not as one {type(X).__name__}")
    if isinstance(X, np.ndarray) and X.dtype.kind in "OUS" and X.ndim == 2 and X.shape[1] == 1:
        X = X[:, 0]
    for number, picture in enumerate(X):
        name = f"picture {number}"
        if isinstance(picture, str | bytes | os.PathLike):
            yield Input(os.fsdecode(picture), Path.cwd(), os.fsencode(picture))
            continue
        if isinstance(picture, np.ndarray):
            picture = _image(picture, name)
        if not isinstance(picture, Image.Image):
            raise UsageError(f"{name} is a {type(picture).__name__}; give a path, a PIL image or a uint8 array")
        if load:
            try:
                # Decode in this thread: the list may hold the same image twice.
                picture.load()
            except (OSError, ValueError, SyntaxError) as error:
                raise UsageError(f"{getattr(picture, 'filename', '') or name}: cannot be read: {error}") from None
        yield Input(name, Path(), b"", image=picture)


def _image(pixels: NDArray[Any], name: str) -> Image.Image:
    channels = pixels.shape[2:] in ((), (3,), (4,)) and pixels.ndim in (2, 3)
    if pixels.dtype != np.uint8 or not channels or not pixels.size:
        raise UsageError(
            f"{name} is an array of {pixels.dtype} and shape {pixels.shape}; (h, w), (h, w, 3) or (h, w, 4) of uint8 "
            "is needed"
        )
    return Image.fromarray(np.ascontiguousarray(pixels))
