"""Search by text and zero-shot classification, with a small text tower (text encoder) that knows colour names."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from featstore.backbones.base import TextTower, digest
from featstore.errors import IdentityError, UsageError
from featstore.heads.zero_shot import TEMPLATES, ZeroShotHead, read_prompts, texts_of
from featstore.stages.index import index
from featstore.stages.predict import predict_by_text
from featstore.stages.queries import Query
from featstore.stages.search import search
from tests.backbones.toy_text import COLOURS, Words, colour_backbone
from tests.chain import make_store, names, write_coloured
from tests.cli.running import run
from tests.made import extract, tiny_backbone


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with four pictures of each colour, and their store and index."""
    folder = tmp_path_factory.mktemp("text")
    random = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        for number in range(4):
            pixels = np.clip(random.normal(0, 12, (24, 20, 3)) + colour, 0, 255).astype(np.uint8)
            path = folder / f"pictures/{name}/{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    extract(folder / "pictures", folder / "s", backbone=colour_backbone(), engine="torch")
    index(folder / "s", out=folder / "s.faiss")
    return folder


def test_text_query_finds_the_pictures_that_it_describes(place: Path) -> None:
    texts = [f"a {name} thing" for name in COLOURS]
    report = search(place / "s.faiss", [], like=Query(texts=texts), k=4, backbone=colour_backbone())
    assert [query.name for query in report.queries] == texts
    for name, query in zip(COLOURS, report.queries, strict=True):
        assert {found.label for found in query.neighbours} == {name}


def test_text_queries_can_be_combined_with_other_queries(place: Path) -> None:
    more, less = Query(texts=["red", "green"]), Query(labels=["blue"])
    report = search(place / "s.faiss", [], like=more, less=less, combine=True, k=4, backbone=colour_backbone())
    assert {found.label for found in report.queries[0].neighbours} == {"yellow"}


@pytest.mark.parametrize("of", ["store", "pictures"])
def test_classes_described_by_texts_are_recognised(place: Path, of: str) -> None:
    texts = texts_of([*COLOURS, "", "red\ta red square"])
    inputs = os.fspath(place / ("s" if of == "store" else "pictures"))
    found = predict_by_text(texts, inputs, backbone=colour_backbone(), engine="torch")
    assert found.classes == list(COLOURS)
    made = list(found)
    assert len(made) == 16
    for one in made:
        assert one.label in one.key.split(os.sep)
        assert one.probabilities is not None
        assert one.probabilities.sum() == pytest.approx(1)


def test_text_prompts_are_given_or_made_from_class_names_and_templates() -> None:
    found = texts_of(["cat\n", "dog\tone dog\r\n", "dog\tsome dogs", " "], ["a {}.", "the {}"])
    assert found == {"cat": ["a cat.", "the cat"], "dog": ["one dog", "some dogs"]}
    assert [len(texts) for texts in texts_of(["a", "b"]).values()] == [len(TEMPLATES)] * 2
    with pytest.raises(UsageError, match="name 1 class, where two"):
        texts_of(["cat", "cat"])
    with pytest.raises(UsageError, match=r"'a photo' has no \{\}"):
        texts_of(["cat", "dog"], ["a photo"])


def test_prompt_file_is_read_as_utf_8(tmp_path: Path) -> None:
    file = tmp_path / "classes.txt"
    file.write_bytes("\ufeffK\u00e4fer\r\nbee".encode())
    assert read_prompts(file) == ["K\u00e4fer", "bee"]
    file.write_bytes(b"K\xe4fer\nbee")
    for path, words in ((file, "UTF-8"), (tmp_path / "none.txt", "cannot be read"), (tmp_path, "cannot be read")):
        with pytest.raises(UsageError, match=words):
            read_prompts(path)


def test_text_vectors_of_a_class_are_normalised_and_then_averaged() -> None:
    made = np.array([[1, 0], [0.6, 0.8], [0, 1]], np.float32)
    head = ZeroShotHead.of({"a": ["x", "y"], "b": ["z"]}, made, 10.0)
    mean = np.array([0.8, 0.4]) / np.hypot(0.8, 0.4)
    np.testing.assert_allclose(head.vectors, [mean, [0, 1]], atol=1e-6)
    ((codes, probabilities),) = head.predict_blocks(np.array([[3.0, 0.0], [0.0, 0.5]], np.float32))
    assert codes.tolist() == [0, 1]
    np.testing.assert_allclose(probabilities[0, 0], 1 / (1 + np.exp(-10 * mean[0])), rtol=1e-5)


def test_search_refuses_a_changed_text_tower(place: Path) -> None:
    words = Words()
    words.table.data += 0.1
    changed = replace(colour_backbone(), weights_digest=digest(words), text=TextTower(words))
    with pytest.raises(IdentityError, match="weights"):
        search(place / "s.faiss", [], like=Query(texts=["red"]), backbone=changed)


def test_unusable_texts_are_refused_with_a_one_line_error(place: Path, tmp_path: Path) -> None:
    folder = write_coloured(tmp_path / "pictures", names("", 2))
    make_store(folder, tmp_path / "s")
    refused = {
        "without a text tower": lambda: search(
            place / "s.faiss", [], like=Query(texts=["a"]), backbone=replace(colour_backbone(), text=None)
        ),
        "1 to 10,000 characters": lambda: search(
            place / "s.faiss", [], like=Query(texts=[" "]), backbone=colour_backbone()
        ),
        "s: has features of tiny, a network without": lambda: predict_by_text(
            {"a": ["a"], "b": ["b"]}, tmp_path / "s", backbone=tiny_backbone()
        ),
        "name it by --backbone": lambda: predict_by_text({"a": ["a"], "b": ["b"]}, folder),
        "name one store": lambda: predict_by_text({"a": ["a"], "b": ["b"]}, [tmp_path / "s", folder]),
        "such as open_clip/ViT-B-32": lambda: predict_by_text(
            {"a": ["a"], "b": ["b"]}, folder, backbone="squeezenet1_1", weights="random:0"
        ),
    }
    for words, work in refused.items():
        with pytest.raises(UsageError, match=words) as error:
            work()
        assert "\n" not in str(error.value)


def test_network_without_a_text_tower_is_refused_before_loading(tmp_path: Path) -> None:
    folder = write_coloured(tmp_path / "pictures", names("", 2))
    store = make_store(
        folder, tmp_path / "s", backbone=replace(colour_backbone(), name="resnet50", weights="IMAGENET1K_V2")
    )
    index(store, out=tmp_path / "s.faiss")
    with pytest.raises(UsageError, match="has features of resnet50, a network without a text tower"):
        search(tmp_path / "s.faiss", [], like=Query(texts=["a red car"]))


def test_text_predictions_for_regions_are_combined_per_picture(tmp_path: Path) -> None:
    left, right = (np.full((24, 20, 3), COLOURS[name], np.uint8) for name in ("red", "blue"))
    (tmp_path / "pictures").mkdir()
    Image.fromarray(np.hstack([left, right, left])).save(tmp_path / "pictures/one.png")
    lines = [f"one.png,{at},0,20,24" for at in (0, 20, 40)]
    (tmp_path / "boxes.csv").write_text("\n".join(["path,x,y,w,h", *lines]))
    extract(
        tmp_path / "boxes.csv",
        tmp_path / "s",
        backbone=colour_backbone(),
        root=tmp_path / "pictures",
        boxes=("x", "y", "w", "h"),
        engine="torch",
    )
    (one,) = predict_by_text(texts_of(COLOURS), tmp_path / "s", backbone=colour_backbone(), by="parent")
    assert (one.key, one.label) == ("one.png", "red")
    assert one.probability == pytest.approx(2 / 3, abs=0.01)
    with pytest.raises(UsageError, match="only predictions for a store are joined"):
        predict_by_text(texts_of(COLOURS), tmp_path / "pictures", backbone=colour_backbone(), by="parent")


@pytest.mark.slow
def test_search_and_predict_commands_take_texts_and_prompts(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "own_colours.py").write_text(
        "from featstore.backbones import OwnBackbone\nfrom tests.backbones.toy_text import colour_backbone\n"
        "def make():\n    b = colour_backbone()\n"
        "    return OwnBackbone(b.module, b.preprocessing, 'own-colours', text=b.text.module, scale=20.0)\n"
    )
    top = Path(__file__).parents[2]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(os.fspath, (place, top))))
    own = ("--backbone", "own_colours:make")
    made = replace(colour_backbone(), name="own-colours", weights="own_colours:make")
    towers = torch.nn.ModuleDict({"module": made.module, "text": made.text.module})
    made = replace(made, weights_digest=digest(towers))
    extract(place / "pictures", place / "own", backbone=made, engine="torch")
    index(place / "own", out=place / "own.faiss")
    shown = run("search", place / "own.faiss", "--text", "a blue car", "--k", "3", "--json", *own).stdout
    assert [one["label"] for one in json.loads(shown)["queries"][0]["neighbours"]] == ["blue"] * 3
    (place / "classes.txt").write_text("\n".join(COLOURS))
    prompts = ("--prompts", place / "classes.txt")
    told = run("predict", place / "own", *prompts, "--template", "a {} one", "--json", *own).stdout
    assert all(image["key"].startswith(image["label"]) for image in json.loads(told)["images"])
    with pytest.raises(UsageError, match="--backbone own_colours:make"):
        predict_by_text(texts_of(COLOURS), place / "own")
