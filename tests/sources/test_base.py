from __future__ import annotations

import dataclasses
import datetime
import json
import os
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featstore.sources.base import NoLabel, Row, chunked, is_picture_name, label_text, without_dot
from featstore.text import shown


def test_rows_of_a_source_are_divided_into_chunks_of_equal_length():
    rows = [Row(b"%d" % i, i, i * 10, label=str(i), metadata=(i, None)) for i in range(7)]
    chunks = list(chunked(iter(rows), 3, ["a", "b"]))
    assert [len(chunk) for chunk in chunks] == [3, 3, 1]
    assert chunks[1].keys == [b"3", b"4", b"5"]
    assert chunks[1].sizes.dtype == np.int64
    assert chunks[1].mtimes.tolist() == [30, 40, 50]
    assert chunks[1].offsets.tolist() == [-1, -1, -1]
    assert chunks[1].metadata == {"a": [3, 4, 5], "b": [None, None, None]}
    assert chunks[1].locations is None
    assert list(chunked([], 3, [])) == []


def test_chunk_of_a_source_has_locations_if_a_location_differs_from_its_key():
    (chunk,) = chunked([Row(b"a", 1, 1), Row(b"b", 1, 1, location=b"c")], 5, [])
    assert chunk.locations == [b"a", b"c"]


def test_selecting_rows_of_a_chunk_selects_them_in_every_column():
    rows = [Row(b"%d#r" % i, i, i, i, b"at", f"l{i}", f"s{i}", (i,), (i, 1, 2, 3, 1)) for i in range(4)]
    (chunk,) = chunked(iter(rows), 9, ["a"])
    (expected,) = chunked([rows[3], rows[1]], 9, ["a"])
    part = chunk.take(np.array([3, 1]))
    for name in (field.name for field in dataclasses.fields(chunk)):
        np.testing.assert_equal(getattr(part, name), getattr(expected, name))


def test_dividing_rows_of_a_source_rejects_chunks_of_zero_rows():
    with pytest.raises(ValueError, match="at least 1"):
        list(chunked([], 0, []))


@pytest.mark.parametrize("name", [b"a.jpg", b"A.JPEG", b"a.b.PnG", b"\xff.webp", b"a\nb.tif"])
def test_names_with_a_picture_extension_are_pictures(name: bytes):
    assert is_picture_name(name)


@pytest.mark.parametrize("name", [b"", b"jpg", b".jpg", b"a.txt", b"a.jpg~", b"a.jpg.part"])
def test_names_without_a_picture_extension_are_not_pictures(name: bytes):
    assert not is_picture_name(name)


@pytest.mark.parametrize(
    ("path", "expected"),
    [(b"./a", b"a"), (b"././/a", b"a"), (b"a/./b", b"a/./b"), (b"../a", b"../a"), (b".a", b".a"), (b"./", b"")],
)
def test_leading_dot_slash_of_a_path_is_removed(path: bytes, expected: bytes):
    assert without_dot(path) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("cat", "cat"),
        ("", None),
        (3, "3"),
        (3.0, "3"),
        (2.5, "2.5"),
        (float("nan"), None),
        (float("inf"), "inf"),
        (True, "True"),
        (None, None),
        (b"a\xff", "a\udcff"),
    ],
)
def test_function_label_text_converts_scalars_to_text(value: object, expected: str | None):
    assert label_text(value) == expected


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=20))
def test_any_file_name_becomes_printable_text_and_survives_json(name: bytes):
    text = shown(name)
    assert text.isprintable()
    text.encode()
    assert os.fsencode(json.loads(json.dumps(os.fsdecode(name)))) == name


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (Decimal("1"), "1"),
        (Decimal("1.50"), "1.5"),
        (Decimal("100"), "100"),
        (Decimal("NaN"), None),
        (datetime.date(2024, 2, 29), "2024-02-29"),
        (datetime.datetime(2024, 2, 29, 1, 2), "2024-02-29T01:02:00"),
        (datetime.time(1, 2), "01:02:00"),
        (datetime.timedelta(days=1), "1 day, 0:00:00"),
        ("1.0", "1"),
        ("1.00", "1"),
        ("1.10", "1.10"),
        ("01", "01"),
        (" cat\t", "cat"),
        ("\u00a0", None),
        ("cafe\u0301", "caf\u00e9"),
    ],
)
def test_function_label_text_normalises_dates_decimals_blanks_and_unicode(value: object, expected: str | None):
    assert label_text(value) == expected


@pytest.mark.parametrize("value", [["a"], [], {"a": 1}, (1,), object()])
def test_function_label_text_rejects_non_scalars(value: object):
    with pytest.raises(NoLabel, match="can be no label"):
        label_text(value)
