from __future__ import annotations

import importlib.metadata

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import featstore
from featstore.columns import column, is_missing
from featstore.errors import UsageError
from featstore.store import FeatureStore
from tests.chain import make_store, names, write_coloured

VALUES = ["b.png", "a.png"]


@pytest.mark.parametrize(
    "given",
    [
        VALUES,
        tuple(VALUES),
        np.array(VALUES),
        np.array(VALUES, object)[:, None],
        np.array(VALUES, np.dtypes.StringDType())[:, None],
        pd.Series(VALUES, index=[7, 3]),
        pd.Series(VALUES, dtype="category"),
        pd.Series(VALUES, dtype="string"),
        pd.Index(VALUES),
        pd.DataFrame({"path": VALUES}, index=[7, 3]),
        pd.DataFrame({0: pd.Series(VALUES, dtype="string")}),
        pa.array(VALUES),
        pa.chunked_array([VALUES]),
        pa.table({"path": VALUES}),
    ],
    ids=lambda given: type(given).__name__,
)
def test_column_of_paths_is_read_from_lists_arrays_series_and_tables(given):
    assert [str(value) for value in column(given, "pictures")] == VALUES


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("a.png", "not as one str"),
        (b"a.png", "not as one bytes"),
        (3, "not as one int"),
        (np.array("a.png"), "not as one value"),
        ({"a.png", "b.png"}, "in an order"),
        ({"path": VALUES}, "in an order"),
        (pd.DataFrame({"path": VALUES, "label": VALUES}), "this table has 2"),
        (pa.table({"path": VALUES, "label": VALUES}), "this table has 2"),
    ],
)
def test_column_of_paths_must_be_ordered_and_one_dimensional(given, words):
    with pytest.raises(UsageError, match=words):
        column(given, "pictures")


def test_function_is_missing_recognises_none_nan_and_pandas_na():
    assert all(map(is_missing, (None, float("nan"), np.float64("nan"), pd.NA, pd.NaT)))
    assert not any(map(is_missing, ("", "nan", 0, np.zeros(2), "a.png")))


def test_stores_accept_keys_in_data_frames_series_and_arrays_and_rows_as_masks(tmp_path):
    make_store(write_coloured(tmp_path / "p", names("train", 2)), tmp_path / "s")
    store = FeatureStore.open(tmp_path / "s")
    keys = list(store.keys)
    for form in (pd.DataFrame({"key": keys}), pd.Series(keys, index=[9, 8, 7, 6]), np.array(keys)):
        assert store.index_of(form).tolist() == [0, 1, 2, 3]
    with pytest.raises(UsageError, match="not as one str"):
        store.index_of(keys[0])
    mask = store.labels == "bee"
    assert store.keys[mask] == [key for key in keys if "bee" in key]
    assert store.keys[[3, 0]] == [keys[3], keys[0]]


def test_version_equals_that_of_the_installed_distribution():
    assert featstore.__version__ == importlib.metadata.version("image-featstore")
