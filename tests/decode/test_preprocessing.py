from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featstore.decode import INTERPOLATIONS, DecodeFailure, Preprocessing
from featstore.defaults import FITS
from featstore.errors import UsageError

unit = st.floats(0, 1)
values = st.builds(
    lambda crop, more, interpolation, mean, std: Preprocessing(crop + more, crop, interpolation, True, mean, std),
    st.integers(1, 600),
    st.integers(0, 600),
    st.sampled_from(INTERPOLATIONS),
    st.tuples(unit, unit, unit),
    st.tuples(*[st.floats(1e-3, 1)] * 3),
) | st.builds(lambda side, fit: Preprocessing(side, side, fit=fit), st.integers(1, 600), st.sampled_from(FITS))


@settings(deadline=None, max_examples=50)
@given(values)
def test_preprocessing_is_restored_from_json(preprocessing: Preprocessing) -> None:
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
        ({"fit": "stretch"}, "crop, squash, pad"),
        ({"fit": "pad"}, "equal"),
    ],
)
def test_invalid_preprocessing_values_give_a_one_line_error(change: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words) as error:
        Preprocessing.from_dict({**Preprocessing(256, 224).to_dict(), **change})
    assert "\n" not in str(error.value)


def test_changing_the_crop_size_scales_the_resize_size_too() -> None:
    how = Preprocessing(232, 224, "bicubic")
    assert how.with_geometry(None, None) == how.with_geometry(224, "crop") == how
    assert how.with_geometry(384, None) == Preprocessing(398, 384, "bicubic")
    assert how.with_geometry(320, "pad") == Preprocessing(320, 320, "bicubic", fit="pad")
    assert how.with_geometry(None, "squash").to_dict() == {**how.to_dict(), "resize": 224, "fit": "squash"}
    assert "fit" not in how.to_dict()


def test_preprocessing_error_names_the_missing_field() -> None:
    value = Preprocessing(256, 224).to_dict()
    del value["crop"]
    with pytest.raises(UsageError, match="crop"):
        Preprocessing.from_dict(value)


def test_decode_failure_message_is_one_line() -> None:
    failure = DecodeFailure("corrupt", "two\nlines")
    assert (failure.reason, failure.message, str(failure)) == ("corrupt", "two lines", "corrupt: two lines")
