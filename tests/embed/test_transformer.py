from __future__ import annotations

import logging
import os
import pickle
import random
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from PIL import Image, ImageFile
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import featstore
from featstore import ImageEmbedder
from featstore.errors import UsageError
from featstore.heads import LogisticHead
from featstore.store import FeatureStore
from tests.made import picture, tiny_backbone, write_pictures


@pytest.fixture(scope="module")
def embedder():
    return ImageEmbedder(tiny_backbone(), engine="torch", batch=4, workers=2)


def paths_of(chain):
    store = FeatureStore.open(chain.store)
    return [chain.folder / key for key in store.keys], store


def test_scikit_learn_pipeline_classifies_pictures(chain, embedder):
    paths, store = paths_of(chain)
    pipeline = make_pipeline(embedder, LogisticHead(C=1.0, cv=3)).fit(paths, store.labels)
    assert (pipeline.predict(paths) == store.labels).mean() >= 0.9
    assert list(pipeline[:-1].get_feature_names_out()) == [f"imageembedder{i}" for i in range(8)]


def test_image_embedder_accepts_paths_bytes_arrays_and_pil_images(chain, embedder):
    paths, store = paths_of(chain)
    expected = store.features()
    found = embedder.transform(paths)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    images = [Image.open(path) for path in paths]
    for form in (
        np.array([str(path) for path in paths]),
        np.array([str(path) for path in paths], object)[:, None],
        images,
        [np.asarray(image) for image in images],
    ):
        np.testing.assert_array_equal(embedder.transform(form), found)


def transparent_palette():
    image = picture(3).quantize(8)
    image.info["transparency"] = 2
    return image


def turned():
    image = picture(4)
    image.getexif()[0x0112] = 6
    return image


SPECIAL = {
    "gray": lambda: picture(1).convert("L"),
    "one-bit": lambda: picture(1).convert("1"),
    "alpha": lambda: Image.merge("RGBA", [*picture(2).split(), picture(5).convert("L")]),
    "palette": transparent_palette,
    "16-bit": lambda: Image.fromarray((np.arange(480, dtype=np.uint16) * 130).reshape(20, 24)),
    "turned": turned,
    "cmyk": lambda: picture(6).convert("CMYK"),
    "float": lambda: Image.fromarray(np.linspace(0, 1, 480, dtype=np.float32).reshape(20, 24)),
}


@pytest.mark.parametrize("kind", SPECIAL)
def test_features_of_an_image_in_memory_equal_those_of_its_file(embedder, tmp_path, kind):
    image = SPECIAL[kind]()
    file = tmp_path / ("a.tif" if kind in ("cmyk", "float") else "a.png")
    image.save(file, **({"exif": image.getexif()} if kind == "turned" else {}))
    np.testing.assert_array_equal(embedder.transform([image, image]), embedder.transform([file, Image.open(file)]))


def test_image_embedder_names_the_unreadable_picture_in_one_line(embedder, tmp_path):
    good = write_pictures(tmp_path, ["a.png", "b.png"])
    (tmp_path / "b.png").write_bytes((good / "b.png").read_bytes()[:300])
    for bad in (tmp_path / "b.png", tmp_path / "none.png"):
        with pytest.raises(UsageError, match=bad.name) as caught:
            embedder.transform([tmp_path / "a.png", bad])
        assert "\n" not in str(caught.value)
    with Image.open(tmp_path / "b.png") as broken, pytest.raises(UsageError, match=r"b\.png: corrupt: cannot be read"):
        embedder.transform([broken])


@pytest.mark.parametrize(
    ("pictures", "message"),
    [
        ("a.png", "in a list"),
        (picture(0), "in a list"),
        (7, "in a list"),
        ([3], "picture 0 is a int"),
        ([np.zeros((4, 4), np.float32)], "of uint8"),
        ([np.zeros((4, 4, 2), np.uint8)], "of uint8"),
        ([np.zeros((0, 4), np.uint8)], "of uint8"),
    ],
)
def test_image_embedder_rejects_input_that_is_not_a_picture(embedder, pictures, message):
    for method in (embedder.fit, embedder.transform):
        with pytest.raises(UsageError, match=message):
            method(pictures)


@pytest.mark.slow
def test_image_embedder_checks_parameters_at_fit_and_pickles_without_its_network(embedder):
    for wrong in ({"backbone": "none"}, {"engine": "none"}, {"decode": "none"}, {"batch": 0}):
        with pytest.raises(UsageError):
            clone(embedder).set_params(**wrong).fit([picture(0)])
    expected = embedder.transform([picture(0)])
    copy = pickle.loads(pickle.dumps(embedder))
    assert len(pickle.dumps(copy)) < 100_000
    np.testing.assert_array_equal(copy.transform([picture(0)]), expected)
    changed = clone(embedder).set_params(backbone=tiny_backbone(1, dimension=5))
    assert changed.transform([]).shape == (0, 5)


def test_image_embedder_has_feature_names_before_fit():
    names = ImageEmbedder(tiny_backbone(), engine="torch").get_feature_names_out()
    assert (len(names), names[0]) == (8, "imageembedder0")


def test_image_embedder_is_imported_lazily():
    assert featstore.ImageEmbedder is ImageEmbedder
    code = "import sys, featstore; print('ImageEmbedder' in dir(featstore), 'sklearn' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split() == ["True", "False"]


@pytest.mark.parametrize(
    "form",
    [
        lambda paths: pd.DataFrame({"path": paths}, index=range(5, 5 + len(paths))),
        lambda paths: pd.Series(paths, index=range(5, 5 + len(paths))),
        lambda paths: pa.array(paths),
    ],
    ids=["frame", "series", "arrow"],
)
def test_paths_in_a_series_or_table_give_the_same_features_as_a_list(chain, embedder, form):
    paths = [str(path) for path in paths_of(chain)[0]]
    np.testing.assert_array_equal(embedder.fit_transform(form(paths)), embedder.transform(paths))


@pytest.mark.parametrize("chosen", ["path", ["path"], 0, [0]])
def test_image_embedder_works_in_a_column_transformer(chain, embedder, chosen):
    paths, store = paths_of(chain)
    frame = pd.DataFrame({"path": list(map(str, paths)), "width": np.arange(len(paths), dtype=float)})
    columns = ColumnTransformer([("pictures", clone(embedder), chosen), ("numbers", StandardScaler(), ["width"])])
    pipeline = make_pipeline(columns, LogisticHead(C=1.0, cv=3)).fit(frame, store.labels)
    assert pipeline[:-1].transform(frame).shape == (len(paths), 9)
    assert (pipeline.predict(frame) == store.labels).mean() >= 0.9


def test_pandas_output_of_the_image_embedder_keeps_the_index(chain, embedder):
    paths = [str(path) for path in paths_of(chain)[0]]
    frame = pd.DataFrame({"path": paths}, index=range(5, 5 + len(paths)))
    found = clone(embedder).set_output(transform="pandas").fit_transform(frame)
    assert list(found.index) == list(frame.index)
    np.testing.assert_array_equal(found.to_numpy(), embedder.transform(paths))


@pytest.fixture
def with_bad_ones(tmp_path):
    """Return a list of five pictures, of which only those at positions 0 and 3 are readable."""
    write_pictures(tmp_path, ["a.png", "b.png", "c.png"])
    (tmp_path / "b.png").write_bytes(b"<html>")
    with Image.open(tmp_path / "c.png") as image:
        whole = image.copy()
    return [tmp_path / "a.png", tmp_path / "b.png", None, whole, str(tmp_path / "none.png")]


def test_image_embedder_gives_nan_rows_for_unreadable_pictures_on_request(embedder, with_bad_ones):
    marking = clone(embedder).set_params(unreadable="nan")
    with pytest.warns(UserWarning, match=r"3 of 5 pictures could not be read .*b\.png: not-a-picture"):
        found = marking.transform(with_bad_ones)
    assert np.isnan(found).all(axis=1).tolist() == [False, True, True, False, True]
    np.testing.assert_array_equal(found[[0, 3]], embedder.transform([with_bad_ones[0], with_bad_ones[3]]))
    assert [(place, reason) for place, _, reason, _ in marking.failures_] == [
        (1, "not-a-picture"),
        (2, "missing"),
        (4, "missing"),
    ]
    assert marking.transform(with_bad_ones[:1]).shape == (1, 8)
    assert marking.failures_ == []


def test_image_embedder_drops_unreadable_pictures_on_request(embedder, with_bad_ones):
    dropping = clone(embedder).set_params(unreadable="drop")
    with pytest.warns(UserWarning, match="no row"):
        found = dropping.transform(with_bad_ones)
    np.testing.assert_array_equal(found, embedder.transform([with_bad_ones[0], with_bad_ones[3]]))
    assert [failure[0] for failure in dropping.failures_] == [1, 2, 4]


def test_image_embedder_raises_an_error_for_unreadable_pictures_by_default(embedder, with_bad_ones):
    with pytest.raises(UsageError, match=r"picture 1: missing: no picture is named here"):
        embedder.transform([with_bad_ones[0], None])
    with pytest.raises(UsageError, match="raise, nan, drop"):
        clone(embedder).set_params(unreadable="ignore").transform(with_bad_ones)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (iter(["a.png"]), "only once"),
        (np.zeros((20, 24, 3), np.uint8), "is one picture; put it into a list"),
        ({"a.png": 1}, "in an order"),
    ],
)
def test_image_embedder_rejects_an_iterator_a_single_picture_and_a_mapping(embedder, given, words):
    with pytest.raises(UsageError, match=words):
        embedder.fit_transform(given)


def test_image_embedder_rejects_file_content_given_as_a_path(embedder, tmp_path):
    content = (write_pictures(tmp_path, ["a.png"]) / "a.png").read_bytes()
    with pytest.raises(UsageError, match=r"picture 0 is the content of a file.*give PIL\.Image\.open\(io\.BytesIO"):
        embedder.transform([content])
    with pytest.raises(UsageError) as caught:
        embedder.transform(["no\n\x1b[1m.png"])
    assert str(caught.value).isprintable()


def test_image_embedder_accepts_paths_of_every_type(embedder, tmp_path):
    folder = write_pictures(tmp_path, ["a.png", "b.png"])
    paths = [folder / "a.png", folder / "b.png"]
    expected = embedder.transform(paths)
    texts = list(map(str, paths))
    for form in (
        pd.Series(paths),
        pd.Categorical(texts),
        pd.Series(texts, dtype="string[pyarrow]"),
        pd.DataFrame({"path": texts}, index=pd.MultiIndex.from_tuples([(1, 2), (1, 3)])),
        [os.fsencode(path) for path in paths],
        sorted(os.scandir(folder), key=lambda entry: entry.name),
    ):
        np.testing.assert_array_equal(embedder.transform(form), expected)
    assert embedder.transform(pd.DataFrame({"path": []})).shape == (0, 8)


def test_embedding_leaves_the_global_state_of_the_process_unchanged(tmp_path):
    def state():
        umask = os.umask(0o22)
        os.umask(umask)
        return (
            random.getstate(),
            np.random.get_state()[1].tobytes(),
            torch.get_rng_state().tolist(),
            (torch.is_grad_enabled(), torch.get_default_dtype(), torch.is_inference_mode_enabled()),
            (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, umask, Path.cwd(), np.geterr()),
            [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE)],
            (logging.getLogger().handlers[:], logging.getLogger().level, sys.excepthook, warnings.showwarning),
            dict(os.environ),
        )

    paths = [write_pictures(tmp_path, ["a.png", "b.png"]) / name for name in ("a.png", "b.png")]
    make_pipeline(ImageEmbedder(tiny_backbone(), engine="torch"), LogisticHead(C=1.0)).fit(paths * 2, ["a", "b"] * 2)
    before = state()
    pipeline = make_pipeline(ImageEmbedder(tiny_backbone(), engine="torch"), LogisticHead(C=1.0))
    pipeline.fit(paths * 2, ["a", "b"] * 2).predict(paths)
    assert state() == before
