from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featstore.errors import IdentityError, UsageError
from featstore.heads import TrainedHead, load_head, save_head
from featstore.heads.models import LinearModel, NeighboursModel
from featstore.stages.units import stage, units
from featstore.store import FeatureStore
from tests.store import building
from tests.store.building import Pictures, build, identity, plan, work

LABELS = ("ant", "bee", "cow")
KEYS = [f"{LABELS[number % 3]}/{(number * 7) % 17:02d}.png".encode() for number in range(17)]


def made(path, **changes) -> FeatureStore:
    """Build a store of 17 pictures in shards of five rows; two other pictures were extracted and then vanished."""
    asked = identity(**changes)
    source = Pictures(dict.fromkeys([*KEYS, b"ant/0gone.png", b"cow/zgone.png"], 1))
    source.labels = {key: key.split(b"/")[0].decode() for key in source.content}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(building, "D", asked.dimension)
        build(path, source, identity=asked)
        for key in (b"ant/0gone.png", b"cow/zgone.png"):
            del source.content[key]
        plan(path, source, identity=asked)
        work(path, source)
    return FeatureStore.open(path)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return made(tmp_path_factory.mktemp("units") / "s")


def expected(keys, values, n, *, largest):
    """Return (key, value, percentile) of the ``n`` pictures at one end, by sorting all pictures."""
    values = np.asarray(values, np.float32)
    order = sorted(range(len(keys)), key=lambda row: (-values[row] if largest else values[row], keys[row]))
    shares = 100 * (values[None, :] < values[:, None]).mean(axis=1)
    return [(keys[row], float(values[row]), pytest.approx(shares[row])) for row in order[:n]]


def told(pictures):
    return [(one.key, one.value, one.percentile) for one in pictures]


@pytest.mark.parametrize("passes", [1, 4])
def test_pictures_of_every_unit_equal_those_of_a_full_sort(store, monkeypatch, passes):
    if passes > 1:
        monkeypatch.setattr(stage, "_COLUMN_BYTES", 1)
    report = units(store.path, range(building.D), n=4, least=True)
    features = np.asarray(store.features())
    assert len(store) == 17
    for unit, one in enumerate(report.units):
        assert one.unit == unit
        assert told(one.most) == expected(store.keys, features[:, unit], 4, largest=True)
        assert told(one.least) == expected(store.keys, features[:, unit], 4, largest=False)
        assert (one.lowest, one.highest) == (features[:, unit].min(), features[:, unit].max())
        assert one.mean == pytest.approx(features[:, unit].mean())
        assert [store.ids[store.index_of([each.key])][0] for each in one.most] == [each.id for each in one.most]
        assert all(each.key.startswith(str(each.label)) and each.cell is None for each in one.most)
    assert json.loads(json.dumps(report.to_dict(), allow_nan=False))["count"] == building.D


def test_a_repeated_unit_is_shown_once_and_n_may_exceed_the_pictures(store):
    report = units(store.path, [2, 0, 2], n=100)
    assert [(one.unit, len(one.most), one.least) for one in report.units] == [(2, 17, []), (0, 17, [])]


def test_where_selects_pictures_and_percentiles_stay_among_all(store):
    report = units(store.path, 1, where="label == 'bee'", n=3)
    values = np.asarray(store.features())[:, 1]
    every = expected(store.keys, values, len(store), largest=True)
    assert told(report.units[0].most) == [each for each in every if each[0].startswith("bee")][:3]
    assert report.kept == sum(key.startswith("bee") for key in store.keys)
    none = units(store.path, 1, where="label == 'be'")
    assert (none.kept, none.units[0].most) == (0, [])
    assert none.notes[0].startswith("no picture meets the condition")
    assert "did you mean 'bee'" in none.notes[1]


@pytest.mark.parametrize("shape", [(2, 3, 2), (3, 4)])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_units_of_maps_are_channels_with_their_maximum(tmp_path, shape, dtype):
    size = int(np.prod(shape))
    maps = made(tmp_path / "s", dimension=size, pool="none", shape=shape, layer="output of layer3", dtype=dtype)
    values = np.asarray(maps.features()).astype(np.float32).reshape(len(maps), *shape)
    channels = values if len(shape) == 3 else values.transpose(0, 2, 1)
    report = units(maps.path, range(channels.shape[1]), n=5, least=True)
    for unit, one in enumerate(report.units):
        own = channels[:, unit].reshape(len(maps), -1)
        assert told(one.most) == expected(maps.keys, own.max(axis=1), 5, largest=True)
        assert told(one.least) == expected(maps.keys, own.max(axis=1), 5, largest=False)
        places = [np.argmax(own[maps.index_of([each.key])[0]]) for each in one.most]
        cells = [divmod(int(place), 2) for place in places] if len(shape) == 3 else [None] * 5
        assert [each.cell for each in one.most] == cells
    assert (report.count, report.grid) == (channels.shape[1], (3, 2) if len(shape) == 3 else None)
    with pytest.raises(UsageError, match=f"its units are 0 to {report.count - 1}"):
        units(maps.path, report.count)


@given(
    st.lists(st.sampled_from([-1.5, -0.0, 0.0, 2.0]), min_size=17, max_size=17),
    st.lists(st.booleans(), min_size=17, max_size=17),
    st.integers(1, 18),
)
def test_equal_values_are_in_the_order_of_the_keys(store, values, kept, n):
    found = np.array(values, np.float32)
    for largest in (True, False):
        order = stage.first_rows(store, -found if largest else found, np.flatnonzero(kept), n)
        some = expected(store.keys, values, len(store), largest=largest)
        rows = store.index_of([key for key, _, _ in some])
        assert order.tolist() == [row for row in rows.tolist() if kept[row]][:n]


@given(st.lists(st.sampled_from([0.0, 1.0, np.nan, np.inf, -np.inf]), min_size=17, max_size=17))
def test_values_that_are_not_finite_or_all_equal_are_refused(store, values):
    column, odd = np.array(values, np.float32)[:, None], [not np.isfinite(value) for value in values]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage, "activations", lambda store, units: column)
        if any(odd):
            first = store.keys[odd.index(True)]
            with pytest.raises(UsageError, match=f"unit 3 is NaN or infinite for {sum(odd)} picture.*'{first}'"):
                units(store.path, 3)
        elif len(set(values)) == 1:
            with pytest.raises(UsageError, match=f"unit 3 has the value {values[0]:g} for every picture"):
                units(store.path, 3)
        else:
            assert told(units(store.path, 3).units[0].most) == expected(store.keys, values, 12, largest=True)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({}, "no unit is named"),
        ({"unit": 4}, "has no unit 4; its units are 0 to 3"),
        ({"unit": [0, -1]}, "has no unit -1"),
        ({"unit": 0, "n": 0}, "n has to be at least 1"),
        ({"unit": 0, "count": 0}, "count has to be at least 1"),
        ({"unit": 0, "class_name": "ant"}, "need both"),
        ({"head": "a.head"}, "need both"),
        ({"unit": 0, "where": "colour == 'red'"}, "there is no column 'colour'"),
    ],
)
def test_wrong_requests_are_refused_in_one_line(store, asked, words):
    with pytest.raises(UsageError, match=words) as error:
        units(store.path, **asked)
    assert "\n" not in str(error.value)


def test_store_without_vectors_is_refused(tmp_path):
    with pytest.raises(UsageError, match="has no vectors yet"):
        units(build(tmp_path / "s", Pictures({b"a": -1})).path, 0)


def write_head(path, store, classes, model):
    save_head(path, TrainedHead("made-up", list(classes), model, store.fingerprint, store.identity.to_dict()))
    return path


def linear(coef):
    return LinearModel(np.asarray(coef, np.float64), np.zeros(len(coef)))


@pytest.mark.parametrize(("classes", "outputs"), [(LABELS, 3), (LABELS[:2], 1)])
@pytest.mark.parametrize("shape", [(), (2, 3, 2), (3, 4)])
def test_units_of_a_class_have_the_largest_weighted_difference_from_the_mean(tmp_path, classes, outputs, shape):
    changes = {"pool": "none", "shape": shape, "dimension": 12, "layer": "output of layer3"} if shape else {}
    opened = made(tmp_path / "s", **changes)
    coef = np.random.default_rng(0).normal(size=(outputs, opened.dimension))
    head = write_head(tmp_path / "h", opened, classes, linear(coef))
    features = np.asarray(opened.features(), np.float64)
    for code, name in enumerate(classes):
        weights = coef[code] if outputs > 1 else coef[0] * (1 if code else -1)
        added = weights * (features[opened.labels == name].mean(axis=0) - features.mean(axis=0))
        if shape:
            added = added.reshape(shape).sum(axis=(1, 2) if len(shape) == 3 else 0)
        if added.max() <= 0:
            with pytest.raises(UsageError, match=f"no unit has a positive contribution to the class '{name}'"):
                units(opened.path, head=head, class_name=name)
            continue
        report = units(opened.path, head=head, class_name=name, count=2)
        order = [unit for unit in np.argsort(-added).tolist() if added[unit] > 0][:2]
        assert [one.unit for one in report.units] == order
        assert [one.contribution for one in report.units] == pytest.approx(added[order].tolist())
        own = np.asarray(stage.activations(opened, order), np.float64)[opened.labels == name].mean(axis=0)
        assert [one.class_mean for one in report.units] == pytest.approx(own.tolist())
        asked = units(opened.path, [0, 1], head=head, class_name=name)
        assert [one.contribution for one in asked.units] == pytest.approx(added[:2].tolist())


def test_channel_with_the_same_maximum_everywhere_has_no_pictures_unless_it_is_named(tmp_path):
    def vector(key, content):
        # The first cell of channel 0 has its maximum, 9, in every picture.
        return np.concatenate([[9], building_vector(key, content)[1:]]).astype(np.float32)

    building_vector = building.vector
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(building, "vector", vector)
        opened = made(tmp_path / "s", dimension=12, pool="none", shape=(2, 3, 2), layer="output of layer3")
    difference = np.asarray(opened.features())[opened.labels == "ant"].mean(axis=0) - opened.features().mean(axis=0)
    head = write_head(tmp_path / "h", opened, LABELS, linear(np.stack([difference, difference, difference])))
    report = units(opened.path, head=head, class_name="ant")
    shown = {one.unit: (len(one.most), one.contribution > 0) for one in report.units}
    assert shown == {0: (0, True), 1: (12, True)}
    assert any("unit 0 has the value 9 for every picture" in note for note in report.notes)
    with pytest.raises(UsageError, match="unit 0 has the value 9 for every picture .*; leave this unit out"):
        units(opened.path, 0, head=head, class_name="ant")


def test_heads_that_cannot_name_units_are_refused_in_one_line(store, tmp_path, chain):
    weights = linear(np.ones((3, 4)))
    head = write_head(tmp_path / "h", store, ("ant", "bee", "wasp"), weights)
    with pytest.raises(UsageError, match="no class 'be'; did you mean 'bee'"):
        units(store.path, head=head, class_name="be")
    with pytest.raises(UsageError, match="no picture has the label 'wasp'"):
        units(store.path, head=head, class_name="wasp")
    with pytest.raises(UsageError, match="no unit has a positive contribution to the class"):
        units(store.path, head=write_head(tmp_path / "0", store, LABELS, linear(np.zeros((3, 4)))), class_name="ant")
    with pytest.raises(IdentityError, match="backbone tiny .* and made-up"):
        units(store.path, head=chain.trained.path, class_name="ant")
    wide = TrainedHead("made-up", list(LABELS), linear(np.ones((3, 5))))
    save_head(tmp_path / "w", wide)
    with pytest.raises(IdentityError, match="was trained on vectors of 5 values, and those of .* have 4"):
        units(store.path, head=tmp_path / "w", class_name="ant")
    votes = NeighboursModel(np.eye(4, dtype=np.float32), np.arange(4) % 3, np.zeros(4), 1, 0.1, 3)
    with pytest.raises(UsageError, match="has no weights of units; train a linear one"):
        units(store.path, head=write_head(tmp_path / "v", store, LABELS, votes), class_name="ant")
    with pytest.raises(UsageError, match="no such head"):
        units(store.path, head=tmp_path / "none", class_name="ant")


def test_vectors_that_are_not_finite_give_no_contributions(tmp_path):
    def vector(key, content):
        value = building_vector(key, content)
        value[2] = np.nan if key == KEYS[3] else value[2]
        return value

    building_vector = building.vector
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(building, "vector", vector)
        opened = made(tmp_path / "s")
    head = write_head(tmp_path / "h", opened, LABELS, linear(np.ones((3, 4))))
    with pytest.raises(UsageError, match=f"NaN or infinite; featstore units {opened.path} --unit 2 names the pictures"):
        units(opened.path, head=head, class_name="ant")


def test_units_of_a_trained_head_separate_the_pictures_of_its_class(chain):
    head = load_head(chain.trained.path)
    one = units(chain.store, head=chain.trained.path, class_name="bee", count=1, n=5, least=True).units[0]
    active = head.model.coef[0][one.unit] > 0
    assert (one.class_mean > one.mean) == active
    assert [each.label for each in (one.most if active else one.least)] == ["bee"] * 5
