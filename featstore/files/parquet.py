"""Write a Parquet file with one row group and a column of vectors, as fast as writing plain bytes.

pyarrow writes the small columns. This module writes the vectors, one list of d numbers per row: in Parquet's PLAIN
encoding, a page consists of repetition and definition levels, which are the same for every page, and the numbers as
they are in memory. pyarrow computes the levels for every number: for 400 MB of float16, pyarrow took 1.6 to 2.3 s on
two cores and this module 0.2 s.

This module also writes the footer of the file (Thrift, compact protocol). Source: the Apache Parquet format 2.10
(parquet.thrift, README.md, LogicalTypes.md, Encodings.md).
"""

from __future__ import annotations

import base64
import io
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from featstore import __version__
from featstore.files import atomic

_MAGIC: Final = b"PAR1"
_PAGE_BYTES: Final = 4 << 20
_TYPES: Final = {"BOOLEAN": 0, "INT64": 2, "FLOAT": 4, "DOUBLE": 5, "BYTE_ARRAY": 6, "FIXED_LEN_BYTE_ARRAY": 7}
_ENCODINGS: Final = {"PLAIN": 0, "PLAIN_DICTIONARY": 2, "RLE": 3, "BIT_PACKED": 4, "RLE_DICTIONARY": 8}
_CODECS: Final = {"UNCOMPRESSED": 0, "SNAPPY": 1}
_REQUIRED, _OPTIONAL, _REPEATED = 0, 1, 2
_STRING, _LIST, _FLOAT16 = 1, 3, 15
"""Numbers of the logical types in parquet.thrift."""
_UTF8, _LIST_CONVERTED = 0, 3
"""Numbers of the older "converted types" for text and lists in parquet.thrift, which older readers need."""


def write(
    path: Path,
    side: Any,
    name: str,
    vectors: Iterable[NDArray[Any]],
    kind: Any,
    metadata: Mapping[str, str],
) -> None:
    """Write the columns of ``side`` (a pyarrow.Table of m rows), then the column ``name`` of m vectors.

    ``side`` has columns of text, bytes, int64, float64 and bool. ``vectors``: blocks (b, d), float16 or float32.
    ``kind``: the Arrow type of the vectors, a fixed-size list. ``metadata``: key-value texts of the file.
    Raises OSError, and ValueError if the number of vectors is not m.
    """
    import pyarrow as pa

    # Arrow reads key-value metadata from its serialised schema, other readers from the footer of the file.
    schema = pa.schema([*side.schema, pa.field(name, kind, nullable=False)], dict(metadata))
    texts = {**metadata, "ARROW:schema": base64.b64encode(schema.serialize().to_pybytes()).decode()}
    with open(path, "xb") as file:
        file.write(_MAGIC)
        elements, chunks, total = _copy_small(file, side)
        column = _Vectors(file, kind.list_size, kind.value_type.bit_width // 8)
        for block in vectors:
            column.write(block)
        if column.rows != side.num_rows:
            raise ValueError(f"{name}: {column.rows} vectors were given for {side.num_rows} rows")
        elements += column.elements(name)
        chunks.append(column.chunk(name))
        group = [(1, chunks), (2, total + column.size), (3, side.num_rows)]
        root = [(4, b"schema"), (5, _I32(side.num_columns + 1))]
        pairs = [[(1, key.encode()), (2, text.encode())] for key, text in texts.items()]
        maker = f"featstore version {__version__}".encode()
        footer = _struct(
            [(1, _I32(2)), (2, [root, *elements]), (3, side.num_rows), (4, [group]), (5, pairs), (6, maker)]
        )
        file.write(footer + struct.pack("<I", len(footer)) + _MAGIC)


def read_metadata(path: Path) -> dict[str, str]:
    """Return the key-value texts in the footer of a Parquet file.

    Raises OSError and pyarrow's errors; DamagedError if ``path`` is a link or no regular file.
    """
    from pyarrow import parquet

    with atomic.open_regular(path, follow=False) as file:
        found = parquet.read_metadata(file).metadata or {}
    return {key.decode("utf-8", "replace"): text.decode("utf-8", "replace") for key, text in found.items()}


def _copy_small(file: BinaryIO, side: Any) -> tuple[list[Any], list[Any], int]:
    """Let pyarrow write the table ``side`` (the small columns), and copy its pages to ``file``.

    Return schema elements, column chunks and uncompressed size for the footer of the file.
    """
    from pyarrow import parquet

    small = io.BytesIO()
    parquet.write_table(side, small, row_group_size=max(1, side.num_rows), store_schema=False)
    found = parquet.ParquetFile(small).metadata
    elements: list[Any] = []
    chunks: list[Any] = []
    total = 0
    for at in range(side.num_columns):
        column = found.schema.column(at)
        text = column.logical_type.type == "STRING"
        elements.append(
            [
                (1, _I32(_TYPES[column.physical_type])),
                *([(2, _I32(column.length))] if column.physical_type == "FIXED_LEN_BYTE_ARRAY" else []),
                (3, _I32(_OPTIONAL if column.max_definition_level else _REQUIRED)),
                (4, column.name.encode()),
                *([(6, _I32(_UTF8)), (10, [(_STRING, [])])] if text else []),
            ]
        )
        if not side.num_rows:
            chunks.append(_chunk(file.tell(), _TYPES[column.physical_type], [0], [column.name], 0, 0, 0))
            continue
        one = found.row_group(0).column(at)
        start = one.dictionary_page_offset if one.has_dictionary_page else one.data_page_offset
        moved = file.tell() - start
        file.write(small.getbuffer()[start : start + one.total_compressed_size])
        total += one.total_uncompressed_size
        chunks.append(
            _chunk(
                one.data_page_offset + moved,
                _TYPES[one.physical_type],
                [_ENCODINGS[encoding] for encoding in one.encodings],
                [column.name],
                one.num_values,
                one.total_uncompressed_size,
                one.total_compressed_size,
                codec=_CODECS[one.compression],
                dictionary=one.dictionary_page_offset + moved if one.has_dictionary_page else None,
            )
        )
    return elements, chunks, total


class _Vectors:
    """Writer of the pages of a vector column; a vector has ``dimension`` numbers of ``width`` bytes."""

    def __init__(self, file: BinaryIO, dimension: int, width: int) -> None:
        self._file, self._dimension, self._width = file, dimension, width
        self._begin = file.tell()
        self._page_rows = max(1, _PAGE_BYTES // (dimension * width))
        self.rows = 0

    @property
    def size(self) -> int:
        """Number of bytes of the column written so far, including page headers."""
        return self._file.tell() - self._begin

    def write(self, block: NDArray[Any]) -> None:
        """Write vectors (b, d) as pages of the Parquet column."""
        for start in range(0, len(block), self._page_rows):
            page = np.ascontiguousarray(block[start : start + self._page_rows])
            levels = self._levels(len(page))
            size, values = len(levels) + page.nbytes, page.size
            header = [(1, _I32(values)), (2, _I32(0)), (3, _I32(_ENCODINGS["RLE"])), (4, _I32(_ENCODINGS["RLE"]))]
            self._file.write(_struct([(1, _I32(0)), (2, _I32(size)), (3, _I32(size)), (5, header)]) + levels)
            self._file.write(page.view(np.uint8).data)
            self.rows += len(page)

    def _levels(self, rows: int) -> bytes:
        """Return the encoded repetition and definition levels of a Parquet page with ``rows`` vectors.

        The repetition level is 0 at the start of a vector and 1 elsewhere; the definition level is always 1.
        """
        rest = self._dimension - 1
        repetition = (b"\x02\x00" + _varint(rest << 1) + b"\x01") * rows if rest else _varint(rows << 1) + b"\x00"
        definition = _varint(rows * self._dimension << 1) + b"\x01"
        return b"".join(struct.pack("<I", len(runs)) + runs for runs in (repetition, definition))

    @property
    def _type(self) -> int:
        return _TYPES["FLOAT" if self._width == 4 else "FIXED_LEN_BYTE_ARRAY"]

    def elements(self, name: str) -> list[Any]:
        """Return the Parquet schema elements of the vector column: a required list of required numbers."""
        half = self._width == 2
        return [
            [
                (3, _I32(_REQUIRED)),
                (4, name.encode()),
                (5, _I32(1)),
                (6, _I32(_LIST_CONVERTED)),
                (10, [(_LIST, [])]),
            ],
            [(3, _I32(_REPEATED)), (4, b"list"), (5, _I32(1))],
            [
                (1, _I32(self._type)),
                *([(2, _I32(2))] if half else []),
                (3, _I32(_REQUIRED)),
                (4, b"element"),
                *([(10, [(_FLOAT16, [])])] if half else []),
            ],
        ]

    def chunk(self, name: str) -> Any:
        """Return the Parquet metadata of the vector column."""
        path, values = [name, "list", "element"], self.rows * self._dimension
        encodings = [_ENCODINGS["PLAIN"], _ENCODINGS["RLE"]]
        return _chunk(self._begin, self._type, encodings, path, values, self.size, self.size)


def _chunk(
    offset: int,
    kind: int,
    encodings: list[int],
    path: list[str],
    values: int,
    uncompressed: int,
    compressed: int,
    *,
    codec: int = 0,
    dictionary: int | None = None,
) -> Any:
    meta = [
        (1, _I32(kind)),
        (2, [_I32(encoding) for encoding in encodings]),
        (3, [part.encode() for part in path]),
        (4, _I32(codec)),
        (5, values),
        (6, uncompressed),
        (7, compressed),
        (9, offset),
        *([] if dictionary is None else [(11, dictionary)]),
    ]
    return [(2, 0), (3, meta)]


class _I32(int):
    """An integer to encode as i32 in Thrift; a plain int is encoded as i64."""


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def _struct(fields: list[tuple[int, Any]]) -> bytes:
    """Encode a struct in Thrift's compact protocol. ``fields``: (number, value) of each field, sorted by number.

    A value that is a list of tuples is encoded as a struct, any other list as a list of elements of one type.
    """
    out, last = bytearray(), 0
    for number, value in fields:
        kind = _kind(value)
        out += bytes([(number - last) << 4 | kind]) + _encoded(value)
        last = number
    return bytes(out) + b"\0"


def _is_struct(value: Any) -> bool:
    return isinstance(value, list) and (not value or isinstance(value[0], tuple))


def _kind(value: Any) -> int:
    if isinstance(value, _I32):
        return 5
    if isinstance(value, int):
        return 6
    return 8 if isinstance(value, bytes) else 12 if _is_struct(value) else 9


def _encoded(value: Any) -> bytes:
    if isinstance(value, int):
        return _varint(value << 1 if value >= 0 else (-value << 1) - 1)
    if isinstance(value, bytes):
        return _varint(len(value)) + value
    if _is_struct(value):
        return _struct(value)
    count, kind = len(value), _kind(value[0])
    head = bytes([count << 4 | kind]) if count < 15 else bytes([0xF0 | kind]) + _varint(count)
    return head + b"".join(map(_encoded, value))
