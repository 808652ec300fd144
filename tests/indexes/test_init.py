from __future__ import annotations

import featstore.index
import pytest


def test_every_name_leads_to_its_home() -> None:
    for name in featstore.index.__all__:
        assert getattr(featstore.index, name).__name__ == name
    assert sorted(featstore.index.__all__) == sorted(featstore.index._HOMES)


def test_other_names_are_refused() -> None:
    with pytest.raises(AttributeError, match="nonsense"):
        _ = featstore.index.nonsense
