"""featstore.export: what is written where, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from pyarrow import parquet

import featstore
from featstore.errors import UsageError
from featstore.stages.export import export
from featstore.stages.index import index
from tests.chain import make_store, names, write_coloured


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    place = tmp_path_factory.mktemp("export")
    return make_store(write_coloured(place / "pictures", names("train", 6)), place / "s", unit_rows=5)


def test_a_store_becomes_parquet_beside_it(store):
    seen = []
    made = export(store, progress=seen.append)
    assert made.out == f"{store}.parquet"
    assert ([one.done for one in seen], seen[0].total) == ([5, 10, 12], 12)
    opened = featstore.FeatureStore.open(store)
    table = parquet.read_table(made.out)
    assert table["label"].to_pylist() == opened.labels.tolist()
    assert np.stack(table["vector"].to_numpy()).tobytes() == opened.features().tobytes()


def test_npy_goes_where_it_is_asked_for(store, tmp_path):
    made = export(store, to="npy", out=tmp_path / "v")
    assert (made.files, made.rows, made.dimension) == (["vectors.npy", "rows.parquet"], 12, 8)
    assert np.load(tmp_path / "v/vectors.npy").shape == (12, 8)


def test_what_cannot_be_exported_is_refused_in_one_line(store, tmp_path):
    with pytest.raises(UsageError, match="choose one of parquet, npy, csv; did you mean 'parquet'"):
        export(store, to="parqet")
    with pytest.raises(UsageError, match="does not exist"):
        export(tmp_path / "nothing")
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(UsageError, match="is no store, head or index"):
        export(tmp_path / "note.txt")
    built = index(store, out=tmp_path / "i.faiss")
    with pytest.raises(UsageError, match="plain FAISS file already"):
        export(built.path)
