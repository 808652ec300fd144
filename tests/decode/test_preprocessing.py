from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featstore.decode import INTERPOLATIONS, DecodeFailure, Preprocessing
from featstore.errors import UsageError

unit = st.floats(0, 1)
values = st.builds(
    lambda crop, more, interpolation, mean, std: Preprocessing(crop + more, crop, interpolation, True, mean, std),
    st.integers(1, 600),
    st.integers(0, 600),
    st.sampled_from(INTERPOLATIONS),
    st.tuples(unit, unit, unit),
    st.tuples(*[st.floats(1e-3, 1)] * 3),
)


@settings(deadline=None, max_examples=50)
@given(values)
def test_json_restores_the_preprocessing(preprocessing: Preprocessing) -> None:
    assert Preprocessing.from_dict(json.loads(json.dumps(preprocessing.to_dict()))) == preprocessing


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"resize": 100}, "does not fit"),
        ({"crop": 0}, "no size"),
        ({"crop": True}, "no size"),
        ({"crop": 224.0}, "no size"),
        ({"resize": 10**9}, "no size"),
        ({"interpolation": "wavelet"}, "wavelet"),
        ({"antialias": False}, "antialias"),
        ({"std": [0.2, 0.0, 0.2]}, "std"),
        ({"mean": [0.2, float("nan"), 0.2]}, "mean"),
        ({"mean": [0.2, 0.2]}, "three"),
        ({"mean": "abc"}, "three"),
        ({"mean": ["a", "b", "c"]}, "mean"),
        ({"extra": 1}, "extra"),
    ],
)
def test_rejects_invalid_preprocessing_in_one_line(change: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words) as error:
        Preprocessing.from_dict({**Preprocessing(256, 224).to_dict(), **change})
    assert "\n" not in str(error.value)


def test_a_missing_field_is_named() -> None:
    value = Preprocessing(256, 224).to_dict()
    del value["crop"]
    with pytest.raises(UsageError, match="crop"):
        Preprocessing.from_dict(value)


def test_failure_is_described_in_one_line() -> None:
    failure = DecodeFailure("corrupt", "two\nlines")
    assert (failure.reason, failure.message, str(failure)) == ("corrupt", "two lines", "corrupt: two lines")
