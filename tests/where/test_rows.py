from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featstore.errors import UsageError
from featstore.store.labels import set_columns
from featstore.where import absent_values, rows, rows_where
from featstore.where.tree import Compare, Condition
from tests.store.building import Pictures, build
from tests.where.made import COLUMNS, CONDITIONS, VALUES, said, written


class Table:
    """A stand-in for a store with the attributes that rows_where uses; columns may have any values."""

    def __init__(self, columns: dict[str, list[object]]) -> None:
        self.path, self.keys, self._columns = "table", columns["key"], columns
        self.ids = np.arange(len(self.keys))
        self.columns = [name for name in columns if name != "key"]

    def __len__(self) -> int:
        return len(self.keys)

    def column(self, name: str) -> np.ndarray:
        return np.array([*self._columns[name], None], object)[:-1]


@given(CONDITIONS, st.lists(st.tuples(*[VALUES] * len(COLUMNS)), max_size=12), st.integers(1, 5))
def test_rows_where_equals_the_reference_evaluation(
    condition: Condition, values: list[tuple[object, ...]], block: int
) -> None:
    table = Table({name: [row[at] for row in values] for at, name in enumerate(COLUMNS)})
    wanted = [said(condition, dict(zip(COLUMNS, row, strict=True))) is True for row in values]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows, "_BLOCK_ROWS", block)
        patch.setattr(rows, "_check_kinds", lambda *_: None)
        assert rows_where(table, written(condition)).tolist() == wanted


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory):
    keys = [b"%s/%02d.png" % (label, number) for label in (b"ant", b"bee") for number in range(6)]
    keys.append(b"\xff.png")
    source = Pictures(
        {key: number for number, key in enumerate(keys)},
        {key: key[:3].decode() for key in keys[:10]},
        {key: "train" if number % 3 else "test" for number, key in enumerate(keys[:11])},
    )
    source.metadata = {
        "year": {key: 2000 + number for number, key in enumerate(keys[:9])},
        "wide": {key: number / 2 for number, key in enumerate(keys[:9])},
        "outdoors": {keys[0]: True, keys[1]: False},
        "id": {keys[0]: "x1"},
        "big": {keys[0]: 2**53, keys[1]: 2**53 + 1},
    }
    return build(tmp_path_factory.mktemp("where") / "s", source)


@pytest.mark.parametrize(
    ("where", "count"),
    [
        ("label == 'ant'", 6),
        ("label != 'ant'", 4),
        ("not label == 'ant'", 4),
        ("label is missing", 3),
        ("label in ('ant', 'bee') and split == 'test'", 4),
        ("label == 'ant' or split is missing", 8),
        ("year >= 2004 and year < 2007", 3),
        ("wide > 3 or wide <= 0.5", 4),
        ("year == 2001.0", 1),
        ("outdoors == false", 1),
        ("big == 9007199254740993", 1),
        ("key startswith 'bee/' and not key glob '*/0[0-2].png'", 6),
        ("key glob 'ant/0?.png'", 6),
        ("key == '\udcff.png'", 1),
        ("id_ == 'x1'", 1),
        ("label == 'cow'", 0),
    ],
)
def test_rows_where_selects_by_every_column(store, where: str, count: int) -> None:
    assert rows_where(store, where).sum() == count


def test_rows_where_selects_by_keys_and_ids(store) -> None:
    wanted = int(store.ids[7])
    assert np.flatnonzero(rows_where(store, f"id == {wanted}")).tolist() == [7]
    assert rows_where(store, "key > 'ant/03.png'").tolist() == [key > "ant/03.png" for key in store.keys]


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("x == 1 and lable == 'ant'", r"character 1: there is no column 'x' in .*; there are key, id, label, split"),
        ("label == 3", "character 1: label holds texts, and is compared with the number 3; write '3'"),
        ("label != true", "truth value true; write 'true'"),
        ("year in (2000, '2001')", "year holds numbers, and is compared with the text '2001'; write it without quotes"),
        ("key glob 'a' or id == '7'", "character 17: id holds numbers, and is compared with the text '7'"),
    ],
)
def test_rows_where_rejects_unknown_columns_and_wrong_types(store, where: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        rows_where(store, where)


def test_rows_where_uses_labels_set_after_extraction(store) -> None:
    set_columns(store.path, [b"\xff.png"], {"label": ["cow"], "note": ["007"]})
    again = type(store).open(store.path)
    assert rows_where(again, "label == 'cow' and note == '007'").sum() == 1
    assert Compare("label", "==", "cow").holds(again.labels[-1])


@pytest.mark.parametrize(
    ("where", "notes"),
    [
        ("label == 'bee'", ["no picture has the label 'bee'; did you mean 'bees'?"]),
        ("label in ('bees', 'cow')", ["no picture has the label 'cow'"]),
        ("not label == 'ants' and split == 'Train'", ["no picture has the split 'Train'; did you mean 'train'?"]),
        ("label != 'bee' and key == 'none' and label startswith 'x'", []),
    ],
)
def test_filter_values_that_match_no_row_are_reported(tmp_path, where: str, notes: list[str]) -> None:
    keys = [b"a", b"b", b"c"]
    labels = {b"a": "ants", b"b": "bees"}
    store = build(tmp_path / "s", Pictures(dict.fromkeys(keys, 1), labels, dict.fromkeys(keys, "train")))
    assert absent_values(store, where) == notes
