"""Models of open_clip: vectors equal those of open_clip, the digest covers the text tower, and errors are clear."""

from __future__ import annotations

import io
import json
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from featstore.backbones import list_backbones, load_backbone
from featstore.embed.texts import embed_texts
from featstore.engines import describe_excess, measure_drift, open_engine
from featstore.engines.parity import EXACT, drift
from featstore.errors import FeatstoreError, UsageError
from tests.engines.parity import plain_path
from tests.made import picture

pytest.importorskip("open_clip")
TINY = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "patch_size": 8, "head_width": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
WITH_TIMM = {
    **TINY,
    "vision_cfg": {
        "timm_model_name": "test_vit",
        "timm_model_pretrained": False,
        "timm_pool": "token",
        "timm_proj": "linear",
        "image_size": 160,
    },
    "text_cfg": {**TINY["text_cfg"], "hf_tokenizer_name": "an-organisation/a-tokenizer"},
}


@pytest.fixture(scope="module", autouse=True)
def _configured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import open_clip
    place = tmp_path_factory.mktemp("configs")
    (place / "featstore-Tiny.json").write_text(json.dumps(TINY))
    (place / "featstore-Timm.json").write_text(json.dumps(WITH_TIMM))
    open_clip.add_model_config(place)
    yield
    open_clip.factory._MODEL_CONFIG_PATHS.remove(place)
    open_clip.factory._rescan_model_configs()


@pytest.mark.slow
def test_picture_and_text_vectors_equal_those_of_open_clip(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    import open_clip

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(1)
        theirs, _, transform = open_clip.create_model_and_transforms("featstore-Tiny", pretrained=None)
        tokenizer = open_clip.get_tokenizer("featstore-Tiny")
    theirs.eval()
    file = tmp_path / "tiny.safetensors"
    save_file({name: value.contiguous() for name, value in theirs.state_dict().items()}, file)
    caplog.clear()
    backbone = load_backbone("open_clip/featstore-tiny", str(file))
    assert not caplog.records
    assert (backbone.name, backbone.dimension, backbone.layer) == ("open_clip/featstore-Tiny", 16, "output")

    images, texts = [picture(seed, (60 + seed, 44)) for seed in range(6)], ["a red car", "two dogs"]
    files = []
    for image in images:
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        files.append(buffer.getvalue())
    with torch.inference_mode():
        expected = theirs.encode_image(torch.stack([transform(image) for image in images])).numpy()
        spoken = theirs.encode_text(tokenizer(texts), normalize=True).numpy()
    assert drift(plain_path(backbone, files), expected)["greatest_difference"] <= EXACT
    np.testing.assert_allclose(embed_texts(backbone, texts), spoken, atol=1e-5)
    assert backbone.text is not None
    assert backbone.text.scale == pytest.approx(float(theirs.logit_scale.detach().exp()))

    # Changed weights of the text tower change the digest. A file without a text tower is refused.
    state = load_file(file)
    state["text_projection"] = state["text_projection"] + 0.1
    save_file(state, tmp_path / "other.safetensors")
    other = load_backbone("open_clip/featstore-Tiny", str(tmp_path / "other.safetensors"))
    assert other.weights_digest != backbone.weights_digest
    save_file(
        {name: value for name, value in state.items() if name.startswith("visual.")}, tmp_path / "half.safetensors"
    )
    with pytest.raises(UsageError, match=r"half\.safetensors does not fit open_clip/featstore-Tiny: it lacks"):
        load_backbone("open_clip/featstore-Tiny", str(tmp_path / "half.safetensors"))

    plain = open_engine(backbone, engine="torch", device="cpu")
    pixels = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), np.uint8)
    for name in ("torch-folded", "openvino"):
        engine = open_engine(backbone, engine=name, device="cpu")
        assert describe_excess(engine.precision, measure_drift(engine, plain, pixels)) == "", name


def test_open_clip_model_with_a_timm_tower_has_the_right_dimension(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = load_backbone("open_clip/featstore-Timm", "random:0")
    with torch.inference_mode():
        assert backbone.module(torch.zeros(1, 3, 160, 160)).shape == (1, backbone.dimension) == (1, 16)
    # This model's tokenizer needs transformers, which open_clip does not require.
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UsageError, match="needs the package transformers; run: pip install transformers"):
        embed_texts(backbone, ["a red car"])


def test_open_clip_models_are_listed_and_unsupported_models_refused() -> None:
    listed = {one.name: one for one in list_backbones("open_clip/")}
    assert listed["open_clip/ViT-B-32"].input_size == 224
    assert "open_clip/roberta-ViT-B-32" not in listed
    for name, words in (
        ("open_clip/roberta-ViT-B-32", "text tower of another library"),
        ("open_clip/ViT-B-33", "did you mean"),
        ("open_clip/hf-hub:some/one", "has no model"),
        ("open_clip/local-dir:/etc", "has no model"),
    ):
        with pytest.raises(UsageError, match=words) as error:
            load_backbone(name, "random:0")
        assert "\n" not in str(error.value)


@pytest.mark.filterwarnings("ignore::featstore.errors.Notice")
def test_the_error_for_missing_weights_names_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(FeatstoreError, match=r"laion2b_s34b_b79k of open_clip/ViT-B-32.*--weights FILE\.safetensors"):
        load_backbone("open_clip/ViT-B-32", "laion2b_s34b_b79k")
    with pytest.raises(UsageError, match="no weights of open_clip/featstore-Tiny were published"):
        load_backbone("open_clip/featstore-Tiny")
