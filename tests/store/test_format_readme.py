"""Run the plain-h5py program of the format's README on stores of random histories."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import featstore.store
from featstore.stages.compact import compact
from featstore.store import FeatureStore
from featstore.store.label_history import label_history, undo_label
from featstore.store.labels import set_columns
from tests.store.building import Pictures, plan, vector, work

README = Path(featstore.store.__file__).with_name("README.md")
(PROGRAM,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
KEYS = [b"a/1", b"a/2", b"b/1", b"b/\xff\n2", b"c", "d/ü 3".encode(), b"e", b"f", b"g", b"h"]
keys = st.sampled_from(KEYS)
source = st.integers(0, 1)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("set"), source, st.dictionaries(keys, st.integers(-2, 9), min_size=1, max_size=8)),
        st.tuples(st.just("remove"), source, st.sets(keys, min_size=1, max_size=4)),
        st.tuples(st.just("work"), source, st.integers(1, 3)),
        st.tuples(st.just("retry"), source, st.none()),
        st.tuples(st.just("label"), source, st.dictionaries(keys, st.sampled_from(["x", "y", None]), min_size=1)),
        st.tuples(st.just("undo"), source, st.none()),
        st.tuples(st.just("compact"), source, st.none()),
    ),
    max_size=10,
)


def run_program(store: Path) -> dict[str, object]:
    """Run the README's program, which reads ``store`` with h5py and compares the result with the library."""
    text = PROGRAM.replace('Path("digits.store")', f"Path({str(store)!r})")
    assert text != PROGRAM
    names: dict[str, object] = {}
    exec(compile(text, str(README), "exec"), names)
    return names


@pytest.mark.slow
@settings(max_examples=40)
@given(steps)
def test_plain_h5py_program_reads_the_same_as_the_library_for_random_histories(tmp_path_factory, history):
    path = tmp_path_factory.mktemp("history") / "s"
    # The second source uses other keys, because in a store each key belongs to one picture only.
    sources = [
        Pictures({b"first": 1}, {b"first": "z"}),
        Pictures({b"second/first": 1}, {b"second/first": "z"}, location="/other"),
    ]
    for each in sources:
        plan(path, each)
    for name, which, value in history:
        each, prefix = sources[which], b"second/" * which
        if name == "set":
            each.content.update({prefix + key: content for key, content in value.items()})
            each.labels.update({prefix + key: f"of {content}" for key, content in value.items() if content % 2})
            plan(path, each)
        elif name == "remove":
            for key in value:
                each.content.pop(prefix + key, None)
            plan(path, each)
        elif name == "work":
            work(path, both(sources), units=value)
        elif name == "retry":
            plan(path, each, retry=True)
        elif name == "label" and any(prefix + key in each.content for key in value):
            set_columns(path, [prefix + key for key in value], {"label": list(value.values())})
        elif name == "undo" and any(each.origin == "user" and not each.undone_by for each in label_history(path)):
            undo_label(path)
        elif name == "compact":
            compact(path)
    work(path, both(sources))
    names, store = run_program(path), FeatureStore.open(path)
    content = both(sources).content
    assert len(names["keys"]) == len(store) == sum(value >= 0 for value in content.values())
    for key, features in zip(names["keys"], names["vectors"], strict=True):
        assert (features == vector(key, content[key])).all()


def both(sources: list[Pictures]) -> Pictures:
    return Pictures({key: value for each in sources for key, value in each.content.items()})
