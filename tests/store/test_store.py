"""Tests that compare a store with a simple model after random changes, killed commands, labellings and compactions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featstore.stages.compact import compact
from featstore.store import FeatureStore
from featstore.store.claims import Claims
from featstore.store.labels import set_columns
from featstore.store.manifest import Manifest
from featstore.store.plan import Plan
from featstore.store.repair.verify import verify_store
from featstore.store.writer import UnitWriter
from tests.store.building import Pictures, block_of, plan, sha256, vector, work

KEYS = [b"a/1", b"a/2", b"b/1", b"b/\xff\n2", b"c", "d/ü 3".encode(), b"e", b"f", b"g", b"h", b"i", b"j"]
steps = st.lists(
    st.one_of(
        st.tuples(
            st.just("set"), st.lists(st.tuples(st.sampled_from(KEYS), st.integers(-3, 9)), min_size=1, max_size=8)
        ),
        st.tuples(st.just("remove"), st.lists(st.sampled_from(KEYS), min_size=1, max_size=4)),
        st.tuples(st.just("extract"), st.none()),
        st.tuples(st.just("extract some"), st.integers(0, 2)),
        st.tuples(st.just("die"), st.integers(1, 4)),
        st.tuples(st.just("retry"), st.none()),
        st.tuples(
            st.just("label"),
            st.dictionaries(st.sampled_from(KEYS), st.sampled_from(["x", "y"]), min_size=1, max_size=5),
        ),
        st.tuples(st.just("compact"), st.none()),
    ),
    max_size=9,
)


class Model:
    """A simple model of the expected content of the store at ``path``."""

    def __init__(self, path):
        self.path, self.source = path, Pictures({b"first": 1})
        self.planned: dict[bytes, int] = {}
        self.labels: dict[bytes, str] = {}
        self.rescan()

    def rescan(self, retry=False):
        plan(self.path, self.source, retry=retry)
        self.planned = dict(self.source.content)

    def run(self, name, value):
        if name == "set":
            self.source.content.update(value)
            self.rescan()
        elif name == "remove":
            for key in value:
                self.source.content.pop(key, None)
            self.rescan()
        elif name == "extract":
            work(self.path, self.source)
        elif name == "extract some":
            work(self.path, self.source, units=value)
        elif name == "die":
            self.die(value)
        elif name == "retry":
            self.rescan(retry=True)
        elif name == "label":
            known = {key: label for key, label in value.items() if key in self.source.content}
            if known:
                set_columns(self.path, list(value), {"label": list(value.values())})
                self.labels.update(known)
        elif name == "compact":
            before = len(FeatureStore(self.path)._plan.segments)
            compact(self.path)
            assert before >= 0
            self.labels = {key: label for key, label in self.labels.items() if key in self.source.content}

    def die(self, rows):
        """Write some rows of the first pending unit to its journal, and stop as if the process was killed."""
        manifest = Manifest.read(self.path)
        current = Plan(self.path, manifest.epoch)
        pending = FeatureStore(self.path)._pending_units()
        if pending:
            with Claims(self.path) as claims:
                writer = UnitWriter(self.path, manifest, current, pending[0], claims.take(pending[0].number), {})
                stop = min(writer.next_row + rows, len(pending[0]))
                if stop > writer.next_row:
                    writer.append(block_of(writer, self.source, writer.next_row, stop))
                writer.close()

    def check(self):
        store = FeatureStore.open(self.path)
        counts = store.counts
        assert counts.images == len(self.source.content)
        keys = [key.encode("utf-8", "surrogateescape") for key in store.keys]
        failed = {key.encode("utf-8", "surrogateescape"): failure for key, failure in store.failures()}
        assert len(set(keys)) == len(keys) == len(store) == counts.vectors
        assert len(failed) == counts.failures
        assert not set(keys) & set(failed)
        assert set(keys) | set(failed) <= set(self.source.content)
        assert counts.pending == len(self.source.content) - len(keys) - len(failed)
        features = store.features()
        for row, key in enumerate(keys):
            np.testing.assert_array_equal(features[row], vector(key, self.source.content[key]))
            assert store.sha256[row].tobytes() == sha256(key, self.source.content[key])
        assert all(self.source.content[key] < 0 for key in failed)
        assert store.index_of(keys).tolist() == list(range(len(keys)))
        assert (np.diff(store.ids) > 0).all()
        assert [store.labels[row] for row in range(len(keys))] == [self.labels.get(key) for key in keys]
        if len(keys):
            np.testing.assert_array_equal(np.concatenate(list(store.blocks(block_rows=3))), features)
            order = np.random.default_rng(0).permutation(len(keys))
            np.testing.assert_array_equal(store.features(rows=order), features[order])
            np.testing.assert_array_equal(np.concatenate(list(store.blocks(order, block_rows=4))), features[order])
        return store


@pytest.mark.slow
@settings(max_examples=40)
@given(steps)
def test_store_has_the_content_of_its_source_after_any_sequence_of_changes(tmp_path_factory, history):
    model = Model(tmp_path_factory.mktemp("store") / "s")
    ids: dict[bytes, int] = {}
    highest = -1
    for name, value in history:
        model.run(name, value)
        store = model.check()
        new = dict(zip(store._key_bytes(None), store.ids.tolist(), strict=True))
        # An id is never reused for another picture.
        assert all(value > highest or value in ids.values() for value in new.values())
        ids.update(new)
        highest = max([highest, *new.values()])
    work(model.path, model.source)
    store = model.check()
    assert store.counts.pending == 0
    assert verify_store(model.path).problems == []
    compact(model.path)
    again = model.check()
    assert again.ids.tolist() == store.ids.tolist()
    assert len(again._plan.retired) == 0
    assert verify_store(model.path).problems == []
