from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from featstore.errors import DamagedError, IdentityError
from featstore.store import Identity
from tests.store.building import identity


def test_error_for_another_feature_identity_names_each_differing_value():
    ours = identity()
    with pytest.raises(IdentityError, match=r"s has features of another identity: preprocessing\.crop 8, not 9; dtype"):
        ours.check(identity(preprocessing={"resize": 8, "crop": 9}, dtype="float16"), "s")


def test_error_for_features_of_another_backbone_names_only_the_backbone():
    with pytest.raises(IdentityError, match="identity: backbone made-up, not other; features of different"):
        identity().check(identity(backbone="other", dimension=9, weights="1" * 64), "s")


def test_feature_map_identity_has_a_shape_that_matches_its_dimension():
    made = identity(pool="none", shape=(1, 2, 2))
    assert Identity.from_dict(made.to_dict()) == made
    for changes in ({"shape": [1, 2, 3]}, {"shape": [2, True, 2]}, {"shape": []}, {"pool": "avg"}, {"shape": [-2, -2]}):
        with pytest.raises(DamagedError):
            Identity.from_dict({**made.to_dict(), **changes})


def test_identity_of_an_augmented_view_contains_the_augmentation():
    view = {"policy": "light", "seed": 3, "view": 2, "version": 1}
    made = identity(augment=view)
    assert Identity.from_dict(made.to_dict()) == made
    assert "augment" in made.requires
    assert "augment" not in identity().to_dict()
    assert made.fingerprint != identity().fingerprint


@pytest.mark.parametrize(
    "changes",
    [
        {"policy": "heavy"},
        {"policy": ["light"]},
        {"view": 0},
        {"view": True},
        {"view": 1.0},
        {"seed": -1},
        {"seed": 1 << 64},
        {"version": 2},
        {"more": 1},
    ],
)
def test_feature_identity_with_an_unknown_augmentation_is_reported_as_damaged(changes):
    view = {"policy": "light", "seed": 3, "view": 2, "version": 1, **changes}
    with pytest.raises(DamagedError):
        Identity.from_dict({**identity().to_dict(), "augment": view})


@given(
    st.dictionaries(
        st.sampled_from([*identity().to_dict(), "pool", "shape", "augment", "more"]),
        st.none() | st.integers() | st.text() | st.lists(st.integers(0, 4), max_size=3),
    )
)
def test_any_json_loads_as_a_feature_identity_or_is_reported_as_damaged(changes):
    value = {**identity().to_dict(), **changes}
    try:
        made = Identity.from_dict(value)
    except DamagedError:
        return
    assert made.to_dict() == value
