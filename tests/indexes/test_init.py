from __future__ import annotations

import pytest

import featstore.indexes


def test_every_public_name_of_indexes_is_importable() -> None:
    for name in featstore.indexes.__all__:
        assert getattr(featstore.indexes, name).__name__ == name
    assert sorted(featstore.indexes.__all__) == sorted(featstore.indexes._HOMES)


def test_unknown_attribute_of_featstore_indexes_raises_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nonsense"):
        _ = featstore.indexes.nonsense
