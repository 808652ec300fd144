"""Convert a store to an Arrow table; vectors, ids, keys and checksums are not copied.

The columns are ``key``, ``id``, ``label``, ``split``, every metadata column, ``sha256`` of the picture's bytes (all
zeros if unknown) and ``vector``, a fixed-size list. Vectors, ids, keys and checksums are views of the memory-mapped
shards (HDF5 files), one chunk per shard. The schema's metadata has the key ``featstore``: JSON with the identity (which
network made the vectors) and its fingerprint, the name of the weights, the store's id, and the provenance of the
vectors.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from featstore.errors import UsageError
from featstore.files.byte_columns import ByteColumn
from featstore.store import tables
from featstore.text import printable, to_bytes

if TYPE_CHECKING:
    from featstore.store.feature_store import FeatureStore
    from featstore.store.live_rows import Places

KEY, ID, SHA256, VECTOR = "key", "id", "sha256", "vector"
OWN: Final = (KEY, ID, tables.LABEL, tables.SPLIT, SHA256, VECTOR)
"""Columns of every Arrow table; a metadata column with one of these names gets a name with an underscore at its end."""
METADATA: Final = b"featstore"
"""Key in the metadata of an Arrow schema; its value is a JSON text with identity, store id and provenance."""
_RUN_ROWS: Final = 64
"""Minimum mean length of the runs of live rows in a shard; if they are shorter, the rows are copied to one chunk."""
_WHOLE: Final = 1 << 53
"""Largest n for which float64 represents all integers up to n exactly."""


def table_of(store: FeatureStore, memory_limit: int) -> Any:
    """Return the rows of ``store`` as a pyarrow.Table with the columns listed in the module's docstring.

    Rows of a shard with many retired (removed or replaced) rows are copied. Raises UsageError if the copies need more
    than ``memory_limit`` bytes.
    """
    import pyarrow as pa

    parts = _parts(store)
    copied = sum(len(piece) for _, piece in parts if not isinstance(piece, slice))
    need = copied * store.dimension * store.identity.numpy_dtype.itemsize
    if need > memory_limit:
        raise UsageError(
            f"{store.path}: {copied:,} vectors lie between removed ones, and copying them needs {need / 2**30:.1f} GiB, more "
            f"than the limit of {memory_limit / 2**30:.1f} GiB; run featstore compact {store.path}, or raise memory_limit"
        )
    vectors = [vector_array(shard.features[piece]) for shard, piece in parts]
    rows = _rows(store, parts)
    return rows.append_column(VECTOR, pa.chunked_array(vectors, vector_type(store)))


def rows_of(store: FeatureStore) -> Any:
    """Return the columns of the store's Arrow table (see table_of) except the vectors."""
    return _rows(store, _parts(store))


def _parts(store: FeatureStore) -> list[tuple[Any, slice | NDArray[np.int64]]]:
    parts: list[tuple[Any, slice | NDArray[np.int64]]] = []
    for shard, _, offsets in store._live.parts(None):
        # Arrow does not check offsets: invalid offsets in a manipulated store could point outside the memory.
        shard.keys.check(len(shard.ids), f"{store.path}: a shard")
        parts += [(shard, piece) for piece in _pieces(offsets, len(shard.ids))]
    return parts


def _rows(store: FeatureStore, parts: list[tuple[Any, slice | NDArray[np.int64]]]) -> Any:
    import pyarrow as pa

    keys = _texts([_key_chunk(shard.keys, piece) for shard, piece in parts])
    columns = {KEY: pa.chunked_array(keys, None if keys else pa.large_string())}
    columns[ID] = pa.chunked_array([pa.array(shard.ids[piece]) for shard, piece in parts], pa.int64())
    columns.update(side_columns(store))
    digests = [_fixed(shard.sha256[piece]) for shard, piece in parts]
    columns[SHA256] = pa.chunked_array(digests, pa.binary(32))
    return pa.table(columns).replace_schema_metadata({METADATA: json.dumps(description(store)).encode()})


def side_columns(store: FeatureStore) -> dict[str, Any]:
    """Return label, split and metadata of all rows as a dict from the table's column name to an Arrow array."""
    return {
        name: _values(store.column(own), is_category=own in (tables.LABEL, tables.SPLIT))
        for own, name in column_names(store.columns).items()
    }


def column_names(columns: list[str]) -> dict[str, str]:
    """Return a dict from the names of a store's columns to the names of these columns in an Arrow table.

    The names in the table are printable and distinct; a metadata column never gets a name in OWN.
    """
    found = {tables.LABEL: tables.LABEL, tables.SPLIT: tables.SPLIT}
    for own in columns:
        name = printable(own)
        while own not in found and (name in OWN or name in found.values()):
            name += "_"
        found.setdefault(own, name)
    return found


def description(store: FeatureStore, unit: int | None = None) -> dict[str, Any]:
    """Return the JSON description of ``store`` for a table's metadata: identity, weights, store id, provenance.

    ``unit``: number of a unit (row range with its own shard); only the provenance of this unit is included.
    """
    units = store.provenance() if unit is None else {unit: store._live.shards[unit].provenance}
    entries = [entry for made in units.values() for entry in made]
    runs = [{name: value for name, value in entry.items() if name != "rows"} for entry in entries]
    made = {json.dumps(run, sort_keys=True): run for run in runs}
    return {
        "identity": store.identity.to_dict(),
        "fingerprint": store.fingerprint,
        "weights_name": store.weights_name,
        "store_id": store.store_id,
        "made_by": [made[text] for text in sorted(made)],
    }


def vector_type(store: FeatureStore) -> Any:
    """Return the Arrow type of a vector: a fixed-size list of halffloat or float."""
    import pyarrow as pa

    inner = pa.float16() if store.identity.dtype == "float16" else pa.float32()
    return pa.list_(pa.field("element", inner, nullable=False), store.dimension)


def vector_array(vectors: NDArray[Any]) -> Any:
    """Return vectors (n, d), C-contiguous, as a FixedSizeListArray that shares their memory."""
    import pyarrow as pa

    values = pa.array(np.ascontiguousarray(vectors).reshape(-1))
    kind = pa.list_(pa.field("element", values.type, nullable=False), vectors.shape[1])
    return pa.FixedSizeListArray.from_arrays(values, type=kind)


def _pieces(offsets: Places, rows: int) -> Iterator[slice | NDArray[np.int64]]:
    """Yield the ``offsets`` of the live rows in a shard of ``rows`` rows.

    Each run of consecutive offsets becomes a slice. If the runs are short, all offsets are yielded as one index array.
    """
    if isinstance(offsets, slice):
        yield slice(*offsets.indices(rows))
        return
    cuts = np.flatnonzero(np.diff(offsets) != 1) + 1
    if len(offsets) < _RUN_ROWS * (len(cuts) + 1):
        yield offsets
        return
    for run in np.split(offsets, cuts):
        yield slice(int(run[0]), int(run[-1]) + 1)


def _key_chunk(keys: ByteColumn, piece: slice | NDArray[np.int64]) -> Any:
    """Return the ``keys`` that ``piece`` (slice or index array) selects, as LargeBinaryArray; a slice is not copied."""
    import pyarrow as pa

    if not isinstance(piece, slice):
        keys, piece = keys.select(piece), slice(0, len(piece))
    start, stop = piece.start, piece.stop
    buffers = [None, pa.py_buffer(keys.offsets), pa.py_buffer(keys.blob)]
    return pa.Array.from_buffers(pa.large_binary(), stop - start, buffers, offset=start)


def _texts(chunks: list[Any]) -> list[Any]:
    """Return binary ``chunks`` as text arrays without copying, or unchanged if one of them is not valid UTF-8."""
    import pyarrow as pa

    texts = [
        pa.Array.from_buffers(pa.large_string(), len(chunk), chunk.buffers(), offset=chunk.offset) for chunk in chunks
    ]
    try:
        for text in texts:
            text.validate(full=True)
    except pa.ArrowInvalid:
        return chunks
    return texts


def _fixed(rows: NDArray[np.uint8]) -> Any:
    import pyarrow as pa

    return pa.Array.from_buffers(pa.binary(32), len(rows), [None, pa.py_buffer(np.ascontiguousarray(rows))])


def _values(values: NDArray[np.object_], *, is_category: bool) -> Any:
    """Return a column as text, int64, float64 or bool; values of several types become text.

    Texts that are not valid UTF-8 become binary. Categories are dictionary-encoded.
    """
    import pyarrow as pa

    kinds = {type(value) for value in values if value is not None}
    if kinds == {bool}:
        return pa.array(values, pa.bool_())
    if kinds == {int} and all(value is None or -(1 << 63) <= value < 1 << 63 for value in values):
        return pa.array(values, pa.int64())
    if float in kinds and kinds <= {int, float} and all(value is None or abs(value) <= _WHOLE for value in values):
        return pa.array([None if value is None else float(value) for value in values], pa.float64())
    if not kinds <= {str}:
        values = np.array([None if value is None else str(value) for value in values], object)
    if not is_category:
        return _text_array(values)
    # Build the dictionary encoding here: Arrow's own encoder would first make a text for every row.
    places = {value: place for place, value in enumerate(value for value in dict.fromkeys(values) if value is not None)}
    codes = np.fromiter((places.get(value, -1) for value in values), np.int32, len(values))
    return pa.DictionaryArray.from_arrays(pa.array(codes, mask=codes < 0), _text_array(list(places)))


def _text_array(values: Sequence[str | None] | NDArray[np.object_]) -> Any:
    import pyarrow as pa

    try:
        return pa.array(values, pa.string())
    except (UnicodeEncodeError, pa.ArrowInvalid):
        return pa.array([None if value is None else to_bytes(value) for value in values], pa.binary())


def csv_bytes(side: Any, vectors: NDArray[Any], header: list[str] | None) -> bytes:
    """Return rows as CSV. ``header``: column names for a first line; None: no such line."""
    import pyarrow as pa
    from pyarrow import csv

    columns = []
    for name in side.column_names:
        column = side[name]
        if name == SHA256:
            column = pa.array([digest.hex() for digest in column.to_pylist()], pa.string())
        elif pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        columns.append(_as_text(column))
    # Every float16 is exact in float32, and the shortest text of the float32 gives the same value again.
    columns += list(map(pa.array, np.ascontiguousarray(vectors.T.astype(np.float32))))
    names = header or [str(number) for number in range(len(columns))]
    sink = pa.BufferOutputStream()
    csv.write_csv(
        pa.table(columns, names=names),
        sink,
        csv.WriteOptions(include_header=header is not None, quoting_style="needed"),
    )
    return bytes(sink.getvalue())


def _as_text(column: Any) -> Any:
    """Return a column of bytes as text without checking that they are UTF-8; other columns unchanged.

    Arrow writes no bytes to a CSV, and names of files need not be UTF-8.
    """
    import pyarrow as pa

    text = {pa.binary(): pa.string(), pa.large_binary(): pa.large_string()}.get(column.type)
    if text is None:
        return column
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    return pa.chunked_array([chunk.view(text) for chunk in chunks], text)
