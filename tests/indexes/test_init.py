from __future__ import annotations

import featstore.index
import pytest


def test_every_public_name_is_importable() -> None:
    for name in featstore.index.__all__:
        assert getattr(featstore.index, name).__name__ == name
    assert sorted(featstore.index.__all__) == sorted(featstore.index._HOMES)


def test_unknown_names_raise_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nonsense"):
        _ = featstore.index.nonsense
