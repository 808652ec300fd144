from __future__ import annotations

import pickle
import shutil

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from featstore.errors import FeatstoreError, UsageError
from featstore.store import FeatureStore
from tests.store.building import Pictures, build, plan, work


def source(count: int = 23) -> Pictures:
    made = Pictures({f"{number:02d}.jpg".encode(): number for number in range(count)})
    made.labels = {key: str(number % 3) for key, number in made.content.items() if number != 5}
    made.splits = {key: "train" if number % 4 else "val" for key, number in made.content.items()}
    return made


@pytest.fixture
def store(tmp_path):
    return build(tmp_path / "s", source())


def test_pytorch_dataset_of_a_split_has_its_rows_in_the_store(store):
    data = store.as_torch("val")
    rows = store.split_rows("val")
    assert (len(data), data.classes) == (len(rows), ["0", "1", "2"])
    for place, row in enumerate(rows.tolist()):
        vector, code = data[place]
        assert vector.numpy().tobytes() == store.features(rows=[row]).tobytes()
        assert data.classes[code] == store.labels[row]
    assert data[-1][0].equal(data[len(data) - 1][0])


def test_pytorch_dataset_reads_rows_in_any_order(store):
    data = store.as_torch()
    wanted = [22, 0, 7, 7, 14]
    vectors, codes = data[wanted]
    assert vectors.numpy().tobytes() == store.features(rows=wanted).tobytes()
    assert codes.tolist() == [int(store.labels[row]) for row in wanted]
    assert data[2:5][0].numpy().tobytes() == store.features(rows=[2, 3, 4]).tobytes()
    with pytest.raises(IndexError):
        data[23]


def test_pytorch_dataset_gives_rows_without_a_label_the_code_minus_1(store):
    assert store.as_torch()[5][1] == -1


def test_pytorch_datasets_of_all_splits_use_the_same_class_codes(tmp_path):
    pictures = source()
    pictures.labels = {key: "z" if split == "val" else "a" for key, split in pictures.splits.items()}
    store = build(tmp_path / "s", pictures)
    assert set(store.as_torch("val").codes.tolist()) == {1}
    assert set(store.as_torch("train").codes.tolist()) == {0}


def test_shuffled_loader_yields_every_row_once_in_a_new_order_per_epoch(store):
    loader = store.as_torch().loader(4, shuffle=True)
    epochs = [torch.cat([vectors for vectors, _ in loader]) for _ in range(2)]
    expected = np.asarray(store.features())
    for epoch in epochs:
        assert sorted(row.tobytes() for row in epoch.numpy()) == sorted(row.tobytes() for row in expected)
    assert not epochs[0].equal(epochs[1])
    again = store.as_torch().loader(4, shuffle=True)
    assert torch.cat([vectors for vectors, _ in again]).equal(epochs[0])
    assert len(loader) == 6
    assert len(store.as_torch().loader(4, drop_last=True)) == 5


def test_plain_data_loader_of_torch_reads_all_rows(store):
    batches = list(DataLoader(store.as_torch(), batch_size=10))
    assert torch.cat([vectors for vectors, _ in batches]).numpy().tobytes() == store.features().tobytes()
    assert torch.cat([codes for _, codes in batches]).tolist() == store.as_torch().codes.tolist()


def test_as_torch_accepts_a_dtype_and_rejects_invalid_options(store):
    assert store.as_torch(dtype="float16")[0][0].dtype == torch.float16
    with pytest.raises(UsageError, match="float64"):
        store.as_torch(dtype="float64")
    with pytest.raises(UsageError, match="splits are"):
        store.as_torch("trian")
    with pytest.raises(UsageError, match="batch_size"):
        store.as_torch().loader(0)


def test_unpickled_pytorch_dataset_is_unchanged_after_the_store_grew(store):
    data = store.as_torch("train")
    packed = pickle.dumps(data)
    pictures = source(30)
    plan(store.path, pictures)
    work(store.path, pictures)
    assert len(FeatureStore.open(store.path)) == 30
    assert pickle.loads(packed)[:][0].equal(data[:][0])


def test_unpickling_a_pytorch_dataset_fails_for_removed_rows_and_another_store(store, tmp_path):
    packed = pickle.dumps(store.as_torch())
    pictures = source()
    del pictures.content[b"07.jpg"]
    plan(store.path, pictures)
    with pytest.raises(FeatstoreError, match="removed meanwhile"):
        pickle.loads(packed)
    shutil.rmtree(store.path)
    build(tmp_path / "s", source())
    with pytest.raises(FeatstoreError, match="another store"):
        pickle.loads(packed)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["fork", "spawn"])
def test_data_loader_workers_read_the_same_rows(store, how):
    data = store.as_torch()
    loader = data.loader(5, num_workers=2, multiprocessing_context=how)
    assert torch.cat([vectors for vectors, _ in loader]).equal(data[:][0])
