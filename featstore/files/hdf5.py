"""Read and write HDF5 with h5py; this is the only module that imports h5py.

The module ``sealed`` writes its files with Writer, and reads them without libhdf5. ``open_plain`` and ``write_plain``
read and write HDF5 files of other programs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from featstore.files.hdf5_sink import Device


class Writer:
    """Writer of an HDF5 file of contiguous, uncompressed datasets.

    ``user_block``: bytes reserved at the start of the file. ``alignment``: alignment of the data in bytes.
    """

    def __init__(self, device: Device, *, user_block: int, alignment: int) -> None:
        import h5py

        self._h5 = h5py
        self._file = h5py.File(
            device,
            "w",
            userblock_size=user_block,
            alignment_threshold=1,
            alignment_interval=alignment,
            track_order=False,
        )

    def add(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any], pieces: Iterable[NDArray[Any]]) -> int:
        """Write the dataset ``name`` (``/`` makes groups) from ``pieces`` along axis 0; return its absolute offset.

        The offset of an empty dataset is 0. Raises ValueError if the pieces do not add up to ``shape``.
        """
        h5 = self._h5
        plist = h5.h5p.create(h5.h5p.DATASET_CREATE)
        plist.set_layout(h5.h5d.CONTIGUOUS)
        plist.set_alloc_time(h5.h5d.ALLOC_TIME_EARLY)
        plist.set_fill_time(h5.h5d.FILL_TIME_NEVER)
        plist.set_obj_track_times(False)
        if "/" in name:
            self._file.require_group(name.rpartition("/")[0])
        space = h5.h5s.create_simple(shape)
        dataset = h5.Dataset(
            h5.h5d.create(self._file.id, name.encode(), h5.h5t.py_create(dtype, logical=True), space, plist)
        )
        _fill(dataset, name, pieces)
        return int(dataset.id.get_offset() or 0) if dataset.size else 0

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()


def _fill(dataset: Any, name: str, pieces: Iterable[NDArray[Any]]) -> None:
    start = 0
    for piece in pieces:
        if piece.shape[0]:
            dataset[start : start + piece.shape[0]] = piece
        start += piece.shape[0]
    if start != dataset.shape[0]:
        raise ValueError(f"{name}: {start} rows were given where {dataset.shape[0]} were announced")


def write_plain(
    path: Path,
    attributes: Mapping[str, Any],
    matrices: Mapping[str, tuple[tuple[int, int], DTypeLike, Iterable[NDArray[Any]]]],
) -> None:
    """Write a file with ``attributes`` and ``matrices`` (name: shape, dtype, pieces along axis 0). Raises OSError if
    writing fails.
    """
    import h5py

    with contextlib.closing(Device(path)) as device, h5py.File(device, "w") as file:
        file.attrs.update(attributes)
        for name, (shape, dtype, pieces) in matrices.items():
            _fill(file.create_dataset(name, shape, dtype), name, pieces)


class Plain:
    """An HDF5 file of another program, open for reading; see open_plain."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def attribute(self, name: str) -> str:
        """Return the attribute ``name`` of the HDF5 file as text; "None" if there is no such attribute."""
        value = self._file.attrs.get(name)
        return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)

    def matrix(self, name: str) -> Any:
        """Return the numeric 2-D dataset ``name``, which can be sliced like an array.

        Raises ValueError if there is no such dataset, or if its data is in another file.
        """
        import h5py

        # Look at an HDF5 link before following it, because following an external link would open another file.
        link = self._file.get(name, getlink=True)
        part = self._file[name] if isinstance(link, h5py.HardLink) else None
        if not isinstance(part, h5py.Dataset) or part.ndim != 2 or part.dtype.kind not in "fiu":
            raise ValueError(f"has no matrix {name!r} of numbers")
        if part.external or part.is_virtual:
            raise ValueError(f"its {name!r} lies in other files; copy it into one")
        return part

    def datasets(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """Return (shape, NumPy's dtype.kind) of each dataset by its path; links are not followed."""
        import h5py

        found: dict[str, tuple[tuple[int, ...], str]] = {}

        def visit(name: str, part: Any) -> None:
            if isinstance(part, h5py.Dataset):
                found[name] = tuple(part.shape or ()), part.dtype.kind

        self._file.visititems(visit)
        return found

    def array(self, name: str, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        """Return the rows ``start`` to ``stop`` of a dataset listed by ``datasets``; texts are returned as bytes.

        Raises ValueError if the data of the dataset is in another file.
        """
        part = self._file[name]
        if part.external or part.is_virtual:
            raise ValueError(f"its {name!r} lies in other files; copy it into one")
        return np.asarray(part[start:stop])


@contextlib.contextmanager
def open_plain(path: Path) -> Iterator[Plain]:
    """Open an HDF5 file that featstore did not write. Raises OSError, and what h5py raises for damaged files."""
    import h5py

    with h5py.File(path, "r") as file:
        yield Plain(file)
