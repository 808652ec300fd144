"""featstore.label: keys of a table are matched with keys of the store; notes and errors explain mismatches."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from featstore.errors import UsageError
from featstore.stages.label import label
from featstore.store import FeatureStore
from featstore.store.splitting import split_store
from tests.chain import make_store, names, write_coloured
from tests.made import write_pictures


@pytest.fixture
def store(tmp_path: Path) -> Path:
    files = ["ant/1.png", "ant/cafe\u0301.png", "bee/2.png", "bee/3.png"]
    return make_store(write_pictures(tmp_path / "pictures", files), tmp_path / "s")


def csv(tmp_path: Path, text: str) -> Path:
    (tmp_path / "t.csv").write_text(text)
    return tmp_path / "t.csv"


def labels_of(store: Path) -> dict[str, object]:
    opened = FeatureStore.open(store)
    return dict(zip(opened.keys, opened.labels.tolist(), strict=True))


@pytest.mark.parametrize(
    ("key", "found", "words"),
    [
        ("ant/caf\u00e9.png", "ant/cafe\u0301.png", "another Unicode form"),
        ("ant\\1.png", "ant/1.png", "backslashes"),
        ("{root}/ant/1.png", "ant/1.png", "the folder that the pictures were read from"),
        (" ant/1.png", "ant/1.png", "blanks around"),
        (".\\ant\\1.png", "ant/1.png", "backslashes"),
    ],
)
def test_keys_in_other_spellings_match_the_stored_keys_and_are_reported(
    store: Path, tmp_path: Path, key: str, found: str, words: str
):
    report = label(store, csv(tmp_path, f"path,label\n{key.format(root=tmp_path / 'pictures')},queen\n"))
    assert (report.matched, report.unknown) == (1, 0)
    assert labels_of(store)[found] == "queen"
    assert any(words in note for note in report.notes), report.notes


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("Ant/1.PNG", "differ from the store's in upper and lower case"),
        ("1.png", "are names of files without their folders"),
        ("1", "are names of files without folders and endings"),
        ("data/images/1.png", "have other folders in front"),
    ],
)
def test_label_note_explains_why_keys_are_unknown(store: Path, tmp_path: Path, key: str, words: str):
    report = label(store, csv(tmp_path, f"path,label\nbee/2.png,queen\n{key},x\n"))
    assert (report.matched, report.unknown) == (1, 1)
    assert any(words in note and "'ant/1.png'" in note for note in report.notes), report.notes
    with pytest.raises(UsageError, match=words):
        label(store, csv(tmp_path, f"path,label\n{key},x\n"))


def test_label_refuses_a_table_with_two_spellings_of_one_key(store: Path, tmp_path: Path):
    with pytest.raises(UsageError, match="in the table in two forms"):
        label(store, csv(tmp_path, "path,label\nant/1.png,a\nant\\1.png,b\n"))


def test_error_suggests_the_table_column_that_holds_the_keys(store: Path, tmp_path: Path):
    table = csv(tmp_path, "id,path,label\n7,ant/1.png,queen\n8,bee/2.png,drone\n")
    with pytest.raises(
        UsageError, match=r"none of the 2 keys.*; those of the column 'path' are: use --key-column path"
    ):
        label(store, table)
    assert label(store, table, key_column="path").matched == 2


def test_error_names_the_unknown_key_of_a_table_with_one_row(store: Path, tmp_path: Path):
    (tmp_path / "t.csv").write_text("key,label\nzzz,ant\n")
    with pytest.raises(UsageError, match="the only key of the table, 'zzz', is not in the store"):
        label(store, tmp_path / "t.csv")
    with pytest.raises(UsageError, match="the key 'zzz' has no vector here"):
        FeatureStore.open(store).index_of(["zzz"])


def test_label_report_names_the_table_columns_that_were_read(store: Path, tmp_path: Path):
    report = label(store, csv(tmp_path, "path,label,note\nant/1.png,queen,x\nbee/2.png,,y\n"))
    assert report.read_as == (
        "1 class from the column 'label' (1 of 2 without a label), no splits, keys from the column 'path', columns note"
    )
    assert "1 row has an empty label: their pictures have none now" in report.notes


def test_label_accepts_decimals_and_refuses_lists(store: Path, tmp_path: Path):
    keys = ["ant/1.png", "bee/2.png"]
    parquet.write_table(pa.table({"path": keys, "label": [Decimal("1"), Decimal("2")]}), tmp_path / "t.parquet")
    label(store, tmp_path / "t.parquet")
    assert [labels_of(store)[key] for key in keys] == ["1", "2"]
    label(store, csv(tmp_path, "path,label\nant/1.png,1.0\nbee/2.png,2.0\n"))
    assert {labels_of(store)[key] for key in keys} == {"1", "2"}
    parquet.write_table(pa.table({"path": keys, "label": [["a"], ["b"]]}), tmp_path / "t.parquet")
    with pytest.raises(UsageError, match="row 1 has a label that is a list"):
        label(store, tmp_path / "t.parquet")
    assert {labels_of(store)[key] for key in keys} == {"1", "2"}


def test_label_refuses_a_misspelt_column(store: Path, tmp_path: Path):
    with pytest.raises(UsageError, match="did you mean 'label'"):
        label(store, csv(tmp_path, "path,lable\nant/1.png,queen\n"))
    assert label(store, csv(tmp_path, "path,lable\nant/1.png,queen\n"), label_column="lable").matched == 1


@pytest.mark.parametrize(("given", "meant"), [("1.png", "ant/1.png"), ("ant/1.pgn", "ant/1.png")])
def test_error_for_an_unknown_key_suggests_a_similar_key(store: Path, given: str, meant: str):
    with pytest.raises(UsageError, match=f"did you mean '{meant}'"):
        FeatureStore.open(store).index_of([given])


def test_label_finds_a_key_in_another_unicode_form(store: Path):
    opened = FeatureStore.open(store)
    assert opened.index_of(["ant/caf\u00e9.png"]).tolist() == opened.index_of(["ant/cafe\u0301.png"]).tolist()


def test_error_for_an_unknown_column_suggests_a_similar_column(store: Path):
    opened = FeatureStore.open(store)
    with pytest.raises(UsageError, match="did you mean 'label'"):
        opened.column("lable")


def test_splits_named_training_set_and_test_set_are_recognised(tmp_path: Path):
    folder = tmp_path / "pictures"
    for split in ("training_set", "test_set"):
        write_coloured(folder, names(split, 4), seed=len(split))
    split = split_store(FeatureStore.open(make_store(folder, tmp_path / "s")))
    assert (split.kind, split.names) == ("given", ("training_set", "test_set"))


def test_note_on_unknown_keys_shows_the_store_key_with_the_same_ending(tmp_path: Path):
    store = make_store(write_pictures(tmp_path / "p", ["1/0.png", "2/0.png", "3/0.png"]), tmp_path / "s")
    report = label(store, csv(tmp_path, "path,label\n1/0.png,a\nfile:///data/p/3/0.png,b\n"))
    assert any("('file:///data/p/3/0.png' for '3/0.png')" in note for note in report.notes), report.notes
