"""Past states of a store: opening shows the former content, or an error names the missing pictures."""

from __future__ import annotations

import datetime
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featstore.errors import DamagedError, UsageError
from featstore.stages.compact import compact
from featstore.stages.remove import purge, remove
from featstore.store import FeatureStore, history
from featstore.store.label_history import label_history, undo_label
from featstore.store.labels import set_columns
from featstore.store.manifest import Manifest
from featstore.store.past import record_of
from featstore.store.repair.repairing import repair_store
from featstore.store.repair.verify import verify_store
from tests.store.building import Pictures, build, plan, work

KEYS = [f"{letter}/{number}".encode() for letter in "ab" for number in range(4)]
keys = st.sampled_from(KEYS)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("set"), st.dictionaries(keys, st.integers(-1, 9), min_size=1, max_size=5)),
        st.tuples(st.just("remove"), st.sets(keys, min_size=1, max_size=3)),
        st.tuples(st.just("work"), st.integers(1, 2)),
        st.tuples(st.just("label"), st.dictionaries(keys, st.sampled_from(["x", "y", None]), min_size=1, max_size=4)),
        st.tuples(st.just("undo"), st.none()),
        st.tuples(st.just("compact"), st.none()),
        st.tuples(st.sampled_from(["erase", "purge"]), st.sets(keys, min_size=1, max_size=2)),
    ),
    min_size=4,
    max_size=20,
)
EXAMPLES = int(os.environ.get("FEATSTORE_PAST_EXAMPLES", "25"))


def known_keys(path: Path, wanted: set[bytes]) -> list[bytes]:
    """Return the keys of ``wanted`` that are in the store, sorted."""
    some = sorted(wanted)
    return [
        key
        for key, number in zip(some, FeatureStore.open(path)._plan.find_keys(some).tolist(), strict=True)
        if number >= 0
    ]


@dataclass
class Seen:
    """Content of a store in one past state."""

    record: dict[str, object]
    generation: tuple[int, int, int]
    ids: list[int]
    rows: dict[str, tuple[bytes, object, object]]

    @classmethod
    def of(cls, store: FeatureStore) -> Seen:
        values = zip(store.features(), store.labels.tolist(), store.splits.tolist(), strict=True)
        rows = {
            key: (vector.tobytes(), label, split)
            for key, (vector, label, split) in zip(store.keys, values, strict=True)
        }
        return cls(record_of(store), store.generation, store.ids.tolist(), rows)

    def check(self, path: Path) -> None:
        """Open the store at this past state and compare its content; only rows that are no longer in the store may be
        missing.
        """
        found = FeatureStore.open(path, at=self.record, missing="skip")
        there = set(found.ids.tolist())
        assert there <= set(self.ids)
        assert found.missing.count == len(set(self.ids) - there)
        shown = Seen.of(found)
        assert shown.rows == {key: row for key, row in self.rows.items() if key in shown.rows}
        assert shown.ids == [number for number in self.ids if number in there]
        assert found.generation[:2] == self.generation[:2]
        if found.missing.count:
            with pytest.raises(UsageError, match=f"{found.missing.count} pictures? of then"):
                FeatureStore.open(path, at=self.record)
            assert set(found.missing.keys) <= set(map(repr, self.rows))


@pytest.mark.slow
@settings(max_examples=EXAMPLES, deadline=None)
@given(steps)
def test_store_can_be_opened_at_each_past_state(tmp_path_factory, history):
    path = tmp_path_factory.mktemp("past") / "s"
    source = Pictures({b"first": 1}, {b"first": "z"}, {b"first": "train"})
    build(path, source)
    seen = [Seen.of(FeatureStore.open(path))]
    for name, value in history:
        if name == "set":
            source.content.update(value)
            source.labels.update({key: f"of {content}" for key, content in value.items() if content % 2})
            source.splits.update({key: ("train", "test")[content % 2] for key, content in value.items()})
            plan(path, source)
        elif name == "remove":
            for key in value:
                source.content.pop(key, None)
            plan(path, source)
        elif name == "work":
            work(path, source, units=value)
        elif name == "label" and known_keys(path, set(value)):
            set_columns(path, list(value), {"label": list(value.values())})
        elif name == "undo" and any(each.origin == "user" and not each.undone_by for each in label_history(path)):
            undo_label(path)
        elif name == "compact":
            compact(path)
        elif name in ("erase", "purge"):
            known = known_keys(path, value)
            remove(path, known)
            if name == "purge" and known:
                purge(path)
        seen.append(Seen.of(FeatureStore.open(path)))
    for each in seen:
        each.check(path)
    assert verify_store(path).problems == []


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Return a store with three states: eight pictures; then a new label of a/0; then a/3 removed and b/9 added."""
    source = Pictures(dict(zip(KEYS, range(8), strict=True)), dict.fromkeys(KEYS, "z"))
    build(tmp_path / "s", source)
    set_columns(tmp_path / "s", [b"a/0"], {"label": ["x"]})
    del source.content[b"a/3"]
    source.content[b"b/9"] = 9
    build(tmp_path / "s", source)
    return tmp_path / "s"


def test_store_can_be_opened_at_a_generation_or_label_version(store: Path):
    before = FeatureStore.open(store, at=(0, 1))
    assert list(before.keys) == [key.decode() for key in KEYS]
    assert before.labels.tolist() == ["x", *["z"] * 7]
    assert FeatureStore.open(store, at=1).labels.tolist() == ["z"] * 8
    now = FeatureStore.open(store)
    for at in (now.generation, now._tables.version, datetime.datetime.now(datetime.UTC)):
        assert list(FeatureStore.open(store, at=at).keys) == list(now.keys)


def test_store_can_be_opened_at_its_state_on_a_date(store: Path):
    began = history.states_of(FeatureStore.open(store)._plan)[0].created.astimezone()
    assert len(FeatureStore.open(store, at=began.date())) == 8
    assert len(FeatureStore.open(store, at=began.isoformat())) == 8
    with pytest.raises(UsageError, match="nothing is known of 2001-02-03"):
        FeatureStore.open(store, at="2001-02-03")
    with pytest.raises(UsageError, match="no head and no index"):
        FeatureStore.open(store, at="yesterday")


@pytest.mark.parametrize(
    ("at", "words"),
    [((5, 1), r"known are \(0, 1\) to \(0, 2\)"), (9, "there are 0 to 3"), ((1,), "two or three numbers")],
)
def test_error_for_an_unknown_past_state_lists_the_known_states(store: Path, at, words: str):
    with pytest.raises(UsageError, match=words):
        FeatureStore.open(store, at=at)


def test_error_names_purged_pictures_until_their_keys_are_erased(store: Path):
    compact(store)
    with pytest.raises(UsageError, match=r"1 picture of then is gone \(the first: 'a/3'\)"):
        FeatureStore.open(store, at=(0, 1))
    assert history.forget_keys(store, lambda keys: np.array([key == b"a/3" for key in keys])) == 1
    assert verify_store(store).problems == []
    with pytest.raises(UsageError, match="1 picture of then is gone, 1 of them without a trace"):
        FeatureStore.open(store, at=(0, 1))
    assert not any(b"a/3" in file.read_bytes() for file in store.rglob("*.h5"))


def test_missing_history_file_is_reported_as_damage(store: Path):
    compact(store)
    assert Manifest.read(store).requires == ("history",)
    (store / "history" / "000000.h5").unlink()
    assert len(FeatureStore.open(store)) == 8
    with pytest.raises(DamagedError, match="is missing, and with it the store's past"):
        FeatureStore.open(store, at=(0, 1))
    assert "the store's past" in str(verify_store(store).problems[0])


def test_repair_moves_a_damaged_history_and_keeps_format_features(store: Path):
    undo_label(store)
    compact(store)
    file = store / "history" / "000000.h5"
    file.write_bytes(file.read_bytes()[:700])
    (store / "featstore.json").write_bytes(b"{}")
    report = repair_store(store, None)
    assert any("the store's past before that compaction is not known" in note for note in report.notes)
    assert verify_store(store).problems == []
    assert Manifest.read(store).requires == ("history", "undo")
    assert FeatureStore.open(store).labels.tolist()[0] == "z"
    with pytest.raises(UsageError, match="the history before that is lost"):
        FeatureStore.open(store, at=(0, 1))


def test_error_says_that_older_versions_kept_no_past_states(store: Path):
    compact(store)
    (store / "history" / "000000.h5").unlink()
    (store / "written" / "history-000000").unlink()
    with pytest.raises(UsageError, match="an older featstore compacted and kept none"):
        FeatureStore.open(store, at=(0, 1))


def test_repeated_undo_undoes_one_labelling_at_a_time(store: Path):
    set_columns(store, [b"a/1", b"a/2"], {"label": ["y", "z"], "note": [1, 2]})
    latest = undo_label(store)
    assert (latest.version, latest.reverts, latest.changed, latest.columns) == (5, 4, 2, ["label", "note"])
    opened = FeatureStore.open(store)
    assert (opened.labels.tolist()[:3], opened.columns) == (["x", "z", "z"], ["label", "split"])
    assert undo_label(store).reverts == 2
    assert FeatureStore.open(store).labels.tolist()[0] == "z"
    with pytest.raises(UsageError, match="no labelling is left to undo"):
        undo_label(store)
    compact(store)
    assert Manifest.read(store).requires == ("history", "undo")
    told = [(each.origin, each.rows, each.changed, each.undone_by) for each in label_history(store)]
    assert told == [
        ("source", 7, 7, None),
        ("user", 1, 1, 6),
        ("source", 1, 0, None),
        ("user", 2, 2, 5),
        ("undo", 2, 2, None),
        ("undo", 1, 1, None),
    ]
    assert FeatureStore.open(store, at=4).labels.tolist()[:3] == ["x", "y", "z"]
