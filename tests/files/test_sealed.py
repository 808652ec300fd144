"""Sealed files: HDF5 files of featstore with a header and checksums of all arrays."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tracemalloc

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from featstore.errors import DamagedError
from featstore.files import sealed
from tests.made import fail_first_sync

DTYPES = ["u1", "<i4", "<u8", "<f2", "<f4", "<f8", "?"]
arrays = hnp.arrays(
    st.sampled_from(DTYPES).map(np.dtype), hnp.array_shapes(min_dims=1, max_dims=2, min_side=0, max_side=7)
)
names = st.text("abc", min_size=1, max_size=4)


def write(path, **given):
    return sealed.write(path, "shard", given, {"a": 1}, {"n": 3})


@given(st.dictionaries(names, arrays, max_size=5), st.dictionaries(st.text(), st.integers(), max_size=3))
def test_featstore_and_h5py_read_the_same_arrays(tmp_path_factory, values, meta):
    path = tmp_path_factory.mktemp("sealed") / "a.h5"
    sealed.write(path, "shard", values, meta, {"n": 3})
    file = sealed.SealedFile(path, "shard")
    assert file.meta == meta
    assert file.summary == {"n": 3}
    assert file.verify() == []
    with h5py.File(path) as plain:
        assert json.loads(plain["meta"][:].tobytes()) == meta
        for name, value in values.items():
            for read in (file[name], plain[name][:]):
                assert read.dtype == value.dtype
                np.testing.assert_array_equal(read, value)
            assert not file[name].flags.writeable


def test_writing_a_sealed_file_in_blocks_gives_the_same_bytes(tmp_path):
    value = np.arange(3000, dtype="<f4").reshape(1000, 3)
    write(tmp_path / "a", x=value)
    write(tmp_path / "b", x=sealed.Blocks(value.shape, "<f4", (value[at : at + 7] for at in range(0, 1000, 7))))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_sealed_write_with_missing_rows_leaves_no_file(tmp_path):
    with pytest.raises(ValueError, match="6 rows were given where 7"):
        write(tmp_path / "a", x=sealed.Blocks((7,), "u1", [np.zeros(6, "u1")]))
    assert list(tmp_path.iterdir()) == []


def test_sealed_file_detects_every_flipped_bit_without_a_crash(tmp_path):
    write(tmp_path / "a", x=np.arange(12, dtype="<f4").reshape(4, 3), k=np.frombuffer(b"key", "u1"))
    data = (tmp_path / "a").read_bytes()
    for bit in [*range(0, 8 * 1100, 13), *range(8 * 1100, 8 * len(data), 97)]:
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        (tmp_path / "a").write_bytes(damaged)
        try:
            found = sealed.SealedFile(tmp_path / "a", "shard").verify()
        except DamagedError:
            continue
        assert found, bit


def test_verify_names_the_damaged_array_of_a_sealed_file(tmp_path):
    write(tmp_path / "a", x=np.zeros((4, 3), "<f4"), y=np.zeros(5, "u1"))
    offset = sealed.read_header(tmp_path / "a")["arrays"]["x"]["offset"]
    data = bytearray((tmp_path / "a").read_bytes())
    data[offset + 5] ^= 1
    (tmp_path / "a").write_bytes(data)
    (problem,) = sealed.SealedFile(tmp_path / "a").verify()
    assert problem.endswith(": x does not match its checksum")


@pytest.mark.parametrize("keep", [0, 1, 100, 1023, 1024, -1])
def test_truncated_sealed_file_is_refused(tmp_path, keep):
    write(tmp_path / "a", x=np.zeros((40, 30), "<f4"))
    data = (tmp_path / "a").read_bytes()
    (tmp_path / "a").write_bytes(data[:keep])
    with pytest.raises(DamagedError):
        sealed.SealedFile(tmp_path / "a")


def test_opening_a_shard_file_as_a_head_is_refused(tmp_path):
    write(tmp_path / "a", x=np.zeros(3))
    with pytest.raises(DamagedError, match="holds a shard, where a head is needed"):
        sealed.SealedFile(tmp_path / "a", "head")


def forged(path, **changes):
    """Change the header entry of the array x in the file at ``path`` and update the checksum, as an attacker could."""
    header = sealed.read_header(path)
    size = header.pop("header_bytes")
    header["arrays"]["x"].update(changes)
    with open(path, "r+b") as file:
        file.write(sealed._header_text(header, size))


@pytest.mark.parametrize(
    "changes",
    [
        {"offset": 1 << 62},
        {"offset": -4},
        {"offset": 4097},
        {"shape": [1 << 40, 3]},
        {"shape": [-1, 3]},
        {"shape": [1 << 63, 1 << 63]},
        {"shape": []},
        {"shape": [2, 2, 2]},
        {"shape": "ab"},
        {"shape": [1.5]},
        {"dtype": "|O"},
        {"dtype": "<U9"},
        {"dtype": ["<f4"]},
        {"offset": True},
    ],
)
def test_forged_array_description_allocates_no_memory(tmp_path, changes):
    write(tmp_path / "a", x=np.zeros((40, 3), "<f4"))
    forged(tmp_path / "a", **changes)
    tracemalloc.start()
    try:
        with pytest.raises(DamagedError):
            sealed.SealedFile(tmp_path / "a")
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_reading_a_sealed_file_does_not_import_h5py(tmp_path):
    write(tmp_path / "a", x=np.zeros((4, 3), "<f4"))
    code = f"import sys; from featstore.files import sealed; sealed.SealedFile({str(tmp_path / 'a')!r})['x'].sum(); assert 'h5py' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_exclusive_sealed_write_keeps_the_existing_file(tmp_path):
    sealed.write(tmp_path / "a", "k", {"x": np.zeros(3)}, {}, exclusive=True)
    with pytest.raises(FileExistsError):
        sealed.write(tmp_path / "a", "k", {"x": np.ones(3)}, {}, exclusive=True)
    assert sealed.SealedFile(tmp_path / "a")["x"].tolist() == [0, 0, 0]


def test_sealed_write_raises_a_disk_error_that_the_system_reports_only_once(tmp_path, monkeypatch):
    fail_first_sync(monkeypatch)
    with pytest.raises(OSError, match="the disk"):
        write(tmp_path / "a.h5", large=np.zeros(sealed._LARGE, np.uint8), small=np.zeros(9))
    assert not os.listdir(tmp_path)
    write(tmp_path / "a.h5", large=np.zeros(sealed._LARGE, np.uint8), small=np.zeros(9))
    assert sealed.SealedFile(tmp_path / "a.h5", "shard")["small"].shape == (9,)
