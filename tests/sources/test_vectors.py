"""Vector files of other programs: which vectors, keys and labels are read from each format, and what is refused."""

from __future__ import annotations

import struct
import zipfile

import faiss
import h5py
import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from featstore.errors import FeatstoreError, UsageError
from featstore.sources.vectors import open_vectors
from featstore.sources.vectors.numpy_files import read_array
from featstore.sources.vectors.rows import read_rows

N, D = 7, 5
VECTORS = np.random.default_rng(0).standard_normal((N, D)).astype(np.float32)
PATHS = [f"a/{number}.jpg" for number in range(N)]
CLASSES = ["cat", "dog", "cat", "dog", "cat", "dog", "dog"]


def lists(vectors: np.ndarray, fixed: bool = True) -> pa.Array:
    values = pa.array(vectors.reshape(-1))
    return pa.FixedSizeListArray.from_arrays(values, vectors.shape[1]) if fixed else pa.array(list(vectors))


def write_npy(path):
    np.save(path, VECTORS)


def write_npz(path):
    with open(path, "wb") as file:
        np.savez_compressed(file, embeddings=VECTORS, paths=np.array(PATHS), y=np.array(CLASSES))


def write_parquet(path):
    parquet.write_table(pa.table({"image_path": PATHS, "label": CLASSES, "embedding": lists(VECTORS)}), path)


def write_parquet_of_lists(path):
    parquet.write_table(
        pa.table({"image_path": PATHS, "label": CLASSES, "embedding": lists(VECTORS, fixed=False)}), path
    )


def write_hdf5(path):
    with h5py.File(path, "w") as file:
        file["features"], file["keys"], file["labels"] = VECTORS, PATHS, CLASSES


def write_hloc(path):
    # Same layout as files written by hloc's extract_features.main.
    with h5py.File(path, "w", libver="latest") as file:
        for name, vector in zip(PATHS, VECTORS, strict=True):
            group = file.create_group(name)
            group.create_dataset("global_descriptor", data=vector)
            group.create_dataset("image_size", data=np.array([4, 3]))


def write_flat(path):
    index = faiss.IndexFlatIP(D)
    index.add(VECTORS)
    faiss.write_index(index, str(path))


def write_flat_with_ids(path):
    index = faiss.IndexIDMap(faiss.IndexFlatL2(D))
    index.add_with_ids(VECTORS, np.arange(10, 10 + N))
    faiss.write_index(index, str(path))


KINDS = [
    (write_npy, None, None),
    (write_npz, PATHS, CLASSES),
    (write_parquet, PATHS, CLASSES),
    (write_parquet_of_lists, PATHS, CLASSES),
    (write_hdf5, PATHS, CLASSES),
    (write_hloc, PATHS, None),
    (write_flat, None, None),
    (write_flat_with_ids, [str(number) for number in range(10, 10 + N)], None),
]


@pytest.mark.slow
@pytest.mark.parametrize(("write", "keys", "labels"), KINDS, ids=lambda value: getattr(value, "__name__", ""))
def test_vector_files_of_every_format_give_vectors_keys_and_labels(tmp_path, write, keys, labels):
    write(tmp_path / "v.npy")
    vectors = open_vectors([tmp_path / "v.npy"])
    assert (vectors.shape, vectors.dtype) == ((N, D), np.float32)
    assert np.concatenate(list(vectors.blocks())).tobytes() == VECTORS.tobytes()
    rows = read_rows(vectors, "v")
    assert [key.decode() for key in rows.keys] == (keys or [str(number) for number in range(N)])
    assert rows.labels == (labels or [None] * N)
    assert bool(rows.notes) == (keys is None)


def test_vector_files_are_concatenated_with_their_common_columns(tmp_path):
    np.savez(tmp_path / "1.npz", x=VECTORS[:3], keys=np.array(PATHS[:3]), only=np.arange(3))
    np.savez(tmp_path / "2.npz", x=VECTORS[3:], keys=np.array(PATHS[3:]))
    vectors = open_vectors([tmp_path])
    assert np.concatenate(list(vectors.blocks())).tobytes() == VECTORS.tobytes()
    assert vectors.columns() == {"keys": PATHS}


def test_imported_float16_vectors_stay_float16_and_float64_becomes_float32(tmp_path):
    np.save(tmp_path / "half.npy", VECTORS.astype(np.float16))
    np.save(tmp_path / "double.npy", VECTORS.astype(np.float64))
    assert open_vectors([tmp_path / "half.npy"]).dtype == np.float16
    double = open_vectors([tmp_path / "double.npy"])
    assert (double.dtype, double.is_rounded) == (np.float32, True)
    assert next(double.blocks()).tobytes() == VECTORS.tobytes()
    mixed = open_vectors([tmp_path / "half.npy", tmp_path / "double.npy"])
    assert (mixed.dtype, mixed.shape) == (np.float32, (2 * N, D))


def test_vectors_take_keys_and_labels_from_lists_arrays_and_tables(tmp_path):
    write_npy(tmp_path / "v.npy")
    vectors = open_vectors([tmp_path / "v.npy"])
    (tmp_path / "k.txt").write_text("\n".join(PATHS) + "\n")
    np.save(tmp_path / "y.npy", np.array(CLASSES))
    listed = read_rows(vectors, "v", [tmp_path / "k.txt"], [tmp_path / "y.npy"])
    assert ([key.decode() for key in listed.keys], listed.labels) == (PATHS, CLASSES)
    lines = [f"{path},{label},val,{at}" for at, (path, label) in enumerate(zip(PATHS, CLASSES, strict=True))]
    (tmp_path / "t.csv").write_text("\n".join(["path,label,split,size", *lines]) + "\n")
    table = read_rows(vectors, "v", [tmp_path / "t.csv"])
    assert ([key.decode() for key in table.keys], table.labels, set(table.splits)) == (PATHS, CLASSES, {"val"})
    assert (table.metadata["size"][3], table.from_text) == ("3", {"size"})
    assert table.read_as == "2 classes from 'label', 1 split (val) from 'split', keys from 'path', columns size"
    renamed = read_rows(vectors, "v", [tmp_path / "t.csv"], ["size"], "")
    assert (renamed.labels[3], renamed.splits[3]) == ("3", None)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["k.txt"], "--keys: 6 rows for 7 vectors"),
        (["nothing.txt"], "--keys: 'nothing.txt' is neither a file nor a column"),
    ],
)
def test_vectors_with_missing_or_too_few_keys_are_refused(tmp_path, monkeypatch, names, message):
    monkeypatch.chdir(tmp_path)
    write_npy(tmp_path / "v.npy")
    (tmp_path / "k.txt").write_text("\n".join(PATHS[:-1]))
    with pytest.raises(UsageError, match=message):
        read_rows(open_vectors(["v.npy"]), "v.npy", names)


def test_empty_key_of_a_vector_is_refused(tmp_path):
    np.savez(tmp_path / "v.npz", x=VECTORS, keys=np.array(["a", "", *PATHS[2:]]))
    with pytest.raises(UsageError, match="the key of row 2 is empty"):
        read_rows(open_vectors([tmp_path / "v.npz"]), "v.npz")


def test_error_for_nan_or_overflow_names_the_row_of_the_vector(tmp_path):
    wrong = VECTORS.astype(np.float64)
    wrong[3, 1] = np.nan
    np.save(tmp_path / "nan.npy", wrong)
    with pytest.raises(UsageError, match="the vector of row 4 has NaN"):
        list(open_vectors([tmp_path / "nan.npy"]).blocks())
    wrong[3, 1] = 1e300
    np.save(tmp_path / "large.npy", wrong)
    with pytest.raises(UsageError, match="too large for float32"):
        list(open_vectors([tmp_path / "large.npy"]).blocks())


def test_vector_files_of_different_dimensions_are_refused(tmp_path):
    write_npy(tmp_path / "1.npy")
    np.save(tmp_path / "2.npy", VECTORS[:, :4])
    with pytest.raises(UsageError, match=r"2\.npy: has vectors of 4 numbers, those of .*1\.npy have 5"):
        open_vectors([tmp_path / "1.npy", tmp_path / "2.npy"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no vectors"),
        (b"\x93NUMPY\x01\x00nonsense", "no array that can be read"),
        (b"PK\x03\x04nonsense", "no archive that can be read"),
        (b"IxFI", "ends in the middle"),
        (struct.pack("<4siqqqBiQ", b"IxFI", D, 1 << 40, 0, 0, 1, 0, (1 << 40) * D), "do not fit one another"),
        (struct.pack("<4siqqqBiQ", b"IwFl", D, N, 0, 0, 1, 0, N * D), "packed"),
        (b"hello, world", "holds no vectors"),
    ],
)
def test_files_without_readable_vectors_are_refused_in_one_line(tmp_path, content, message):
    (tmp_path / "v").write_bytes(content)
    with pytest.raises(FeatstoreError, match=message) as caught:
        open_vectors([tmp_path / "v"])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "shape",
    ["(6, 5", "(True, 5)", "(6,\n  5)\n )", "('6, 5)", "(06, 5)", "(-6, 5)", "(6, -5)", f"({1 << 62}, 5)", "(6, 5))"],
)
@pytest.mark.parametrize("packed", [False, True])
def test_invalid_numpy_headers_are_refused(tmp_path, shape, packed):
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    content = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + VECTORS.tobytes()
    if packed:
        with zipfile.ZipFile(tmp_path / "v", "w") as archive:
            archive.writestr("v.npy", content)
    else:
        (tmp_path / "v").write_bytes(content)
        with pytest.raises(UsageError):
            read_array(tmp_path / "v")
    with pytest.raises(UsageError):
        list(open_vectors([tmp_path / "v"]).blocks())


@pytest.mark.slow
@pytest.mark.parametrize("content", [b"PAR1nonsense", b"\x89HDF\r\n\x1a\nnonsense"])
def test_damaged_parquet_and_hdf5_vector_files_are_refused(tmp_path, content):
    (tmp_path / "v").write_bytes(content)
    with pytest.raises(FeatstoreError, match="that can be read") as caught:
        open_vectors([tmp_path / "v"])
    assert "\n" not in str(caught.value)


def test_pickled_objects_in_numpy_files_are_not_loaded(tmp_path):
    np.save(tmp_path / "o.npy", np.array([{}, {}], object), allow_pickle=True)
    with pytest.raises(UsageError, match="no array that can be read"):
        open_vectors([tmp_path / "o.npy"])
    np.savez(tmp_path / "o.npz", x=VECTORS, keys=np.array([{}] * N, object))
    assert open_vectors([tmp_path / "o.npz"]).columns() == {}


@pytest.mark.slow
def test_hdf5_links_to_other_files_are_not_followed(tmp_path):
    write_hdf5(tmp_path / "secret.h5")
    with h5py.File(tmp_path / "v.h5", "w") as file:
        file["features"] = h5py.ExternalLink("secret.h5", "features")
    with pytest.raises(UsageError, match="--array has to name"):
        open_vectors([tmp_path / "v.h5"])
    with h5py.File(tmp_path / "e.h5", "w") as file:
        file.create_dataset("features", (N, D), "f4", external=[(str(tmp_path / "secret.h5"), 0, N * D * 4)])
    with pytest.raises(UsageError, match="lies in other files"):
        open_vectors([tmp_path / "e.h5"])


@pytest.mark.slow
def test_parquet_column_with_a_dot_in_its_name_is_not_confused_with_a_field_of_a_struct(tmp_path):
    structs = pa.array([{"b": 1}] * len(VECTORS))
    parquet.write_table(pa.table({"a": structs, "a.b": lists(VECTORS)}), tmp_path / "v.parquet")
    assert np.array_equal(np.concatenate(list(open_vectors([tmp_path / "v.parquet"]).blocks())), VECTORS)


def test_parquet_texts_that_are_not_utf8_are_refused_in_one_line(tmp_path):
    bad = pa.Array.from_buffers(pa.string(), 2, [None, pa.py_buffer(np.int32([0, 1, 2])), pa.py_buffer(b"a\xff")])
    vectors = pa.array([[1.0, 2.0], [3.0, 4.0]], pa.list_(pa.float32()))
    parquet.write_table(pa.table({"vector": vectors, "label": bad}), tmp_path / "v.parquet")
    with pytest.raises(FeatstoreError, match="v.parquet: is no Parquet file that can be read"):
        open_vectors([tmp_path / "v.parquet"]).columns()


def test_parquet_vectors_of_different_lengths_are_refused(tmp_path):
    parquet.write_table(pa.table({"v": pa.array([[1.0, 2.0], [3.0]])}), tmp_path / "v.parquet")
    with pytest.raises(UsageError, match="the vector of row 2 has 1 numbers, that of row 1 2"):
        open_vectors([tmp_path / "v.parquet"])


def test_option_array_chooses_the_vectors_in_a_file_of_several_arrays(tmp_path):
    np.savez(tmp_path / "v.npz", one=VECTORS, two=VECTORS + 1)
    with pytest.raises(UsageError, match="--array has to name the vectors among one, two"):
        open_vectors([tmp_path / "v.npz"])
    assert next(open_vectors([tmp_path / "v.npz"], "two").blocks()).tobytes() == (VECTORS + 1).tobytes()
    with pytest.raises(UsageError, match="did you mean 'two'"):
        open_vectors([tmp_path / "v.npz"], "tow")
