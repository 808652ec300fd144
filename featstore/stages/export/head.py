"""Export a head to ONNX (alone, or as one model with preprocessing and network) or to scikit-learn."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from featstore.artifacts import origins_of_head
from featstore.errors import FeatstoreError, UsageError
from featstore.files import atomic, sealed
from featstore.heads.export import to_onnx
from featstore.heads.sklearn_export import export_sklearn
from featstore.store.targets import NUMBERS
from featstore.text import counted, printable

if TYPE_CHECKING:
    from featstore.backbones import Backbone
    from featstore.embed.recipe import Network
    from featstore.heads import TrainedHead

FORMATS: Final = ("onnx", "sklearn")
_ENDINGS: Final = {"onnx": ".onnx", "sklearn": ".joblib"}
_CHECKED: Final = ((301, 260), (224, 500), (97, 64))
"""Sizes (height, width) of the pictures with which an exported model is tested. The model shrinks the first two
pictures and enlarges the last."""
_LARGEST_DIFFERENCE: Final = 1e-3
"""Largest allowed difference of a probability between an exported file and featstore; float32 rounding causes about
1e-6."""


@dataclass(frozen=True)
class HeadExport:
    """Result of an export. ``inputs``: text that describes the model's inputs. ``notes``: messages for the user.

    ``greatest_difference``: largest difference of a probability between the exported file and featstore on synthetic
    inputs; None if it was not measured.
    """

    out: str
    format: str
    head: str
    classes: list[str]
    inputs: str
    bytes: int
    greatest_difference: float | None
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Return the result of the export as JSON types."""
        return asdict(self)

    def text(self) -> str:
        """Return the result of the export as text for the user."""
        close = self.greatest_difference
        what = "probabilities" if self.classes else "numbers"
        checked = "" if close is None else f"; {what} differ from featstore's by at most {close:.1e}"
        known = f"{self.head}, {counted(len(self.classes), 'class', 'classes')}" if self.classes else self.head
        line = f"{self.out}: {known} ({self.bytes / 2**20:,.1f} MiB){checked}"
        lines = [line, f"takes: {self.inputs}", *(f"note: {note}" for note in self.notes)]
        # A name in a forged head may contain a newline, so that the rest of the name would look like an error message.
        return "\n".join(map(printable, lines))


def export_head(
    head: TrainedHead,
    path: str | os.PathLike[str],
    to: str,
    out: str | os.PathLike[str] | None,
    *,
    features_only: bool,
    weights: str | None,
    backbone: str | Backbone | None,
) -> HeadExport:
    """Write ``head``, which was read from ``path``, in the format ``to``; parameters as in featstore.export."""
    place = Path(out) if out is not None else Path(f"{Path(path)}{_ENDINGS[to]}")
    atomic.require_place(place)
    _require_replaceable(place, _ENDINGS[to])
    if to == "sklearn":
        notes = export_sklearn(head, place)
        note = "a joblib file is a pickle: whoever loads it runs it; give it only with the version of scikit-learn that wrote it"
        return _result(
            head, place, to, _features(head), None, [*notes, note, f"written by scikit-learn {_sklearn_version()}"]
        )
    if features_only:
        model = to_onnx(head)
        notes = []
        with atomic.new_file(place) as temporary:
            temporary.write_bytes(model)
            close = _check_features(head, temporary, notes)
        return _result(head, place, to, _features(head), close, notes)
    network = _network(head, os.fspath(path), weights, backbone)
    notes = _notes(network)
    model = _whole(head, network).SerializeToString()
    with atomic.new_file(place) as temporary:
        temporary.write_bytes(model)
        close = _check_pictures(head, network, temporary, notes)
    return _result(head, place, to, INPUTS, close, notes)


def _require_replaceable(place: Path, ending: str) -> None:
    """Raise UsageError if the file ``place`` is not an earlier export, but for example a head or a picture."""
    if os.path.lexists(place) and (place.suffix != ending or not place.is_file() or sealed.begins_like_one(place)):
        raise UsageError(
            f"{place}: exists and is no export of a head; name another file with --out (one whose name ends in {ending} is "
            "replaced)"
        )


INPUTS: Final = (
    "pixels (height, width, 3) uint8: one decoded picture, RGB, upright (EXIF orientation applied), gray as R = G = B, "
    "transparency over white, no colour profile applied"
)


def _result(head: TrainedHead, place: Path, to: str, inputs: str, close: float | None, notes: list[str]) -> HeadExport:
    return HeadExport(os.fspath(place), to, head.kind, head.classes, inputs, os.path.getsize(place), close, notes)


def _features(head: TrainedHead) -> str:
    return f"features (n, {head.dimension:,}) float32, of {head.identity.get('backbone', 'several networks')}"


def _sklearn_version() -> str:
    import sklearn

    return str(sklearn.__version__)


def _network(head: TrainedHead, what: str, weights: str | None, backbone: str | Backbone | None) -> Network:
    from featstore.embed.recipe import reopen

    origins = origins_of_head(head, what)
    if len(origins) != 1:
        raise UsageError(
            f"{what}: takes the features of {len(origins)} networks side by side; export the head alone with --features-only"
        )
    (origin,) = origins
    identity = origin.identity

    if identity.is_imported:
        raise UsageError(
            f"{what}: its features were imported as {identity.backbone!r}, whose network featstore does not have; export the head "
            "alone with --features-only"
        )
    identity.require_plain(what)
    return reopen(
        identity,
        origin.weights_name,
        what,
        backbone=backbone,
        weights=weights,
        device="cpu",
        otherwise=", or export the head alone with --features-only",
    )


def _notes(network: Network) -> list[str]:
    identity, notes = network.identity, []
    if identity.precision != "fp32":
        notes.append(
            f"the head was trained on features of the precision {identity.precision}; the network in this file computes in fp32, "
            "so that probabilities differ somewhat"
        )
    if identity.decoder != "pillow":
        notes.append(
            f"the pictures were decoded by {identity.decoder}; the file resizes as Pillow does, within one level of it (bicubic: two)"
        )
    return notes


def _whole(head: TrainedHead, network: Network) -> Any:
    """Return preprocessing, network and head as one ONNX model."""
    try:
        import onnx
        from onnx import compose, helper
    except ImportError:
        raise UsageError("exporting to ONNX needs the package onnx; run: pip install 'image-featstore[onnx]'") from None
    from featstore.backbones.onnx_network import to_onnx as network_to_onnx
    from featstore.decode import onnx_pixels

    backbone = network.backbone
    pixels = onnx_pixels.to_onnx(backbone.preprocessing)
    body = compose.add_prefix(network_to_onnx(backbone, onnx_pixels.OPSET), "network/")
    last = compose.add_prefix(onnx.load_from_string(to_onnx(head)), "head/")
    model = compose.merge_models(pixels, body, io_map=[(onnx_pixels.OUTPUT, body.graph.input[0].name)])
    features = model.graph.output[0].name
    if network.identity.dtype == "float16":
        features = _rounded(model, features)
    model = compose.merge_models(model, last, io_map=[(features, last.graph.input[0].name)])
    # Give the outputs their names without the prefix "head/", which prevented name clashes in the merge.
    for output in model.graph.output:
        plain = output.name.removeprefix("head/")
        model.graph.node.append(helper.make_node("Identity", [output.name], [plain]))
        output.name = plain
    identity = json.dumps(network.identity.to_dict(), sort_keys=True)
    own = {"featstore head": head.kind, "fingerprint": head.fingerprint, "identity": identity, "input": INPUTS}
    helper.set_model_props(model, own)
    onnx.checker.check_model(model)
    return model


def _rounded(model: Any, features: str) -> str:
    """Add a step to the model that rounds the features to float16, because the head was trained on rounded features.

    Returns the name of the rounded output.
    """
    from onnx import TensorProto, helper

    half, again = f"{features}_float16", f"{features}_rounded"
    model.graph.node.append(helper.make_node("Cast", [features], [half], to=TensorProto.FLOAT16))
    model.graph.node.append(helper.make_node("Cast", [half], [again], to=TensorProto.FLOAT))
    model.graph.output[0].name = again
    return again


def _check_features(head: TrainedHead, file: Path, notes: list[str]) -> float | None:
    X = np.random.default_rng(0).standard_normal((64, head.dimension)).astype(np.float32)
    return _compare(file, [({"features": X}, _expected(head, X))], notes)


def _expected(head: TrainedHead, X: Any) -> Any:
    """Return the expected outputs for features ``X``: probabilities (n, k), or numbers (n, 1)."""
    return head.predict(X)[:, None] if head.task == NUMBERS else head.predict_proba(X)


def _check_pictures(head: TrainedHead, network: Network, file: Path, notes: list[str]) -> float | None:
    """Return the largest difference between the probabilities of ``file`` and featstore on synthetic pictures."""
    from PIL import Image

    from featstore.decode.pillow import resize_and_crop

    cases = []
    for number, (height, width) in enumerate(_CHECKED):
        coarse = np.random.default_rng(number).integers(0, 256, (6, 7, 3), np.uint8)
        picture = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        cropped = resize_and_crop(picture, network.backbone.preprocessing)[None]
        features = network.engine(cropped).astype(network.identity.numpy_dtype)
        cases.append(({"pixels": np.asarray(picture)}, _expected(head, features.astype(np.float32))))
    return _compare(file, cases, notes)


def _compare(file: Path, cases: list[tuple[dict[str, Any], Any]], notes: list[str]) -> float | None:
    try:
        import onnxruntime
    except ImportError:
        notes.append("not checked: the package onnxruntime, which would run the file, is not installed")
        return None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(file.read_bytes(), options, providers=["CPUExecutionProvider"])
    name = next(one.name for one in session.get_outputs() if one.name in ("probabilities", "number"))
    # Numbers may be large: their differences are relative to the largest of them.
    largest = 1.0 if name == "probabilities" else max(1.0, *(float(np.abs(expected).max()) for _, expected in cases))
    differences = [
        float(np.abs(session.run([name], inputs)[0] - expected).max()) / largest for inputs, expected in cases
    ]
    if max(differences) > _LARGEST_DIFFERENCE:
        raise FeatstoreError(
            f"the exported model gives probabilities that differ from featstore's by {max(differences):.1e}; it was not kept: "
            "export the head alone with --features-only"
        )
    return max(differences)
