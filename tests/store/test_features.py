from __future__ import annotations

import copy
import pickle

import joblib
import numpy as np
import pandas as pd
import pytest
from sklearn.decomposition import PCA
from sklearn.model_selection import GridSearchCV, cross_val_score, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from featstore import FeatureArray, IdentityError, ImageEmbedder, UsageError
from featstore.heads import LogisticHead, train_head
from featstore.indexes import build_index
from featstore.indexes.exact import exact_search
from featstore.store import FeatureStore
from featstore.store.features import identity_of
from tests.chain import make_store, names, write_coloured
from tests.made import tiny_backbone


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """Three stores of the same pictures: float32 features, float16 features, and features of another network with the
    same dimension."""
    place = tmp_path_factory.mktemp("features")
    write_coloured(place / "p", names("train", 10))
    make_store(place / "p", place / "one")
    make_store(place / "p", place / "half", dtype="float16", unit_rows=1000)
    make_store(place / "p", place / "other", backbone=tiny_backbone(seed=1, name="other"))
    return [FeatureStore.open(place / name) for name in ("one", "half", "other")]


@pytest.fixture(scope="module")
def features(stores):
    return stores[0].features()


ROWS = {
    "slice": lambda X: X[2:9:2],
    "mask": lambda X: X[np.arange(len(X)) % 2 == 0],
    "numbers": lambda X: X[[3, 1]],
    "one": lambda X: X[4],
    "rows and all columns": lambda X: X[1:3, :],
    "ellipsis": lambda X: X[2:4, ...],
    "take": lambda X: X.take([0, 2], axis=0),
    "copy": lambda X: X.copy(),
    "copied": copy.deepcopy,
    "float64": lambda X: X.astype(np.float64),
    "below": lambda X: np.concatenate([X[:3], X[5:]]),
    "vstack": lambda X: np.vstack([X[:3], X[5:]]),
    "one, again a matrix": lambda X: X[4][None],
    "pickle": lambda X: pickle.loads(pickle.dumps(X)),
    "split": lambda X: train_test_split(X, random_state=0)[0],
    "repeated": lambda X: X[np.zeros(30, int)],
}
OTHERS = {
    "columns": lambda X: X[:, :4],
    "permuted columns": lambda X: X[:, ::-1],
    "columns by number": lambda X: X[:, [1, 0, 2, 3, 4, 5, 6, 7]],
    "part of a row": lambda X: X[0][::-1],
    "product": lambda X: X * 2,
    "sum": lambda X: X - X.mean(axis=0),
    "matrix product": lambda X: X @ np.eye(X.shape[1]),
    "transposed square": lambda X: X[:8].T,
    "reversed": lambda X: np.flip(X, axis=1),
    "sorted": lambda X: np.sort(X, axis=1),
    "reshaped": lambda X: X.reshape(-1, 8)[:, None],
    "side by side": lambda X: np.hstack([X[:, :4], X[:, 4:]]),
    "concatenated columns": lambda X: np.concatenate([X, X], axis=1),
    "chosen values": lambda X: X[X > 0],
    "integers": lambda X: X.astype(int),
    "another axis": lambda X: X[None],
    "values of a take": lambda X: X.take(np.arange(8)),
}


@pytest.mark.parametrize("way", ROWS)
def test_selecting_rows_of_features_keeps_their_identity(features, stores, way):
    assert identity_of(ROWS[way](features)) == stores[0].identity.to_dict()


@pytest.mark.parametrize("way", OTHERS)
def test_operations_that_may_change_columns_remove_the_identity_of_features(features, way):
    assert identity_of(OTHERS[way](features)) is None


def test_writing_into_a_feature_array_removes_its_identity(features):
    for write in (
        lambda X: X.__setitem__(0, 0),
        lambda X: X.__imul__(2),
        lambda X: np.negative(X, out=X),
        lambda X: X.sort(axis=1),
    ):
        own = features.copy()
        write(own)
        assert own.identity is None
        assert features.identity is not None


def test_reductions_and_comparisons_of_features_give_plain_arrays(features):
    assert type(features.sum()) is np.float32
    assert type(features.mean(axis=0)) is np.ndarray
    assert type(features == features) is np.ndarray
    assert type(np.asarray(features)) is np.ndarray


def test_features_of_a_float16_store_are_a_read_only_memory_map(stores):
    halves = stores[1].features()
    assert halves.dtype == np.float16
    assert not halves.flags.writeable
    assert not halves.flags.owndata
    np.testing.assert_array_equal(halves, pickle.loads(pickle.dumps(halves)))
    # The identities differ only in the stored dtype, so a head accepts both.
    head = train_head(stores[0].features(), stores[0].labels, C=1.0)
    assert (head.predict(halves) == stores[0].labels).mean() > 0.8


def test_joblib_keeps_the_identity_of_a_feature_array_and_memory_maps_it(features, tmp_path):
    joblib.dump(features, tmp_path / "f.joblib")
    back = joblib.load(tmp_path / "f.joblib", mmap_mode="r")
    assert identity_of(back) == identity_of(features)
    np.testing.assert_array_equal(back, features)
    assert not back.flags.writeable


def test_pandas_data_frame_can_be_made_from_a_feature_array(features):
    frame = pd.DataFrame(features)
    assert type(frame.to_numpy()) is np.ndarray
    assert frame.sum().shape == (8,)
    assert (frame * 2).shape == features.shape


def test_transform_blocks_and_stream_keep_the_identity_of_features(stores, features):
    embedder = ImageEmbedder(tiny_backbone(), engine="torch")
    paths = [stores[0].path.parent / "p" / key for key in stores[0].keys]
    assert identity_of(embedder.transform(paths)) == stores[0].identity.to_dict()
    assert all(identity_of(block) == stores[0].identity.to_dict() for block in stores[0].blocks())
    assert identity_of(stores[0].stream()) == stores[0].identity.to_dict()


def test_heads_refuse_features_of_another_network_of_the_same_dimension(stores, features, tmp_path):
    other, y = stores[2].features(), stores[0].labels
    head = LogisticHead(C=1.0).fit(features, y)
    kept = pickle.loads(pickle.dumps(head))
    joblib.dump(make_pipeline(LogisticHead(C=1.0)).fit(features, y), tmp_path / "pipeline")
    trained = train_head(features, y, C=1.0)
    assert trained.fingerprint == stores[0].fingerprint
    for one in (head, kept, joblib.load(tmp_path / "pipeline"), trained):
        one.predict_proba(features)
        with pytest.raises(IdentityError, match="backbone tiny.* and other"):
            one.predict_proba(other)
        with pytest.raises(IdentityError):
            one.predict(stores[2].stream())
        # A plain array is accepted without a check; FeatureArray adds an identity, which is checked.
        one.predict(np.asarray(other))
        with pytest.raises(IdentityError):
            one.predict(FeatureArray(np.asarray(other), stores[2]))


def test_indexes_refuse_features_of_another_network(stores, features):
    other = stores[2].features()
    index = build_index(features, stores[0].ids, stores[0].keys)
    assert index.fingerprint == stores[0].fingerprint
    index.search(features[:2], 3)
    index.search(np.asarray(other)[:2], 3)
    for refused in (
        lambda: index.search(other[:2], 3),
        lambda: index.add(other[:1], np.array([1000]), ["new"]),
        lambda: exact_search(features, other[:2], 3),
    ):
        with pytest.raises(IdentityError, match="another identity"):
            refused()


def test_head_fitted_after_a_pca_in_a_pipeline_records_no_identity(stores, features):
    y = stores[0].labels
    pipeline = make_pipeline(StandardScaler(), PCA(3), LogisticHead(C=1.0)).fit(features, y)
    pipeline.predict(features)
    assert pipeline[-1].feature_identity_ is None


@pytest.mark.slow
def test_cross_validation_in_processes_accepts_a_feature_array(features, stores):
    y = stores[0].labels
    assert len(cross_val_score(LogisticHead(C=1.0, calibrate=False), features, y, cv=2, n_jobs=2)) == 2
    search = GridSearchCV(LogisticHead(cv=2), {"C": [0.1, 1.0]}, cv=2).fit(features, y)
    assert search.best_estimator_.feature_identity_ == stores[0].identity.to_dict()


def test_feature_array_rejects_an_identity_of_another_dimension(stores):
    with pytest.raises(UsageError, match="no features of 8 values"):
        FeatureArray(np.zeros((3, 7)), stores[0])
