"""The options size, fit, layer and pool are checked, and recorded in the identity of features.

The identity is the record of how features were computed: network, weights, preprocessing and these options.
"""

from __future__ import annotations

import pytest

from featstore.embed.geometry import Geometry
from featstore.embed.recipe import Request, reopen
from featstore.errors import IdentityError, UsageError
from featstore.store import Identity
from tests.made import tiny_backbone


def identity_with(**asked) -> Identity:
    return Request(tiny_backbone(), engine="torch", decode="exact", **asked).load(None, "s").identity


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"size": 0}, "size: 0 is no side"),
        ({"size": 100_000}, "1 to 8,192"),
        ({"size": True}, "size"),
        ({"fit": "stretch"}, "crop, squash, pad"),
        ({"pool": "mean"}, r"avg, max, cls, cls\+mean, none"),
    ],
)
def test_invalid_size_fit_or_pool_is_rejected(asked, words):
    with pytest.raises(UsageError, match=words):
        Geometry(**asked)


def test_pool_without_a_layer_is_refused():
    with pytest.raises(UsageError, match="pool: avg needs the layer"):
        Geometry(pool="avg").apply(tiny_backbone())


def test_default_size_and_fit_add_no_fields_to_the_feature_identity():
    plain = identity_with()
    assert identity_with(size=16, fit="crop") == plain
    assert not {"pool", "shape"} & set(plain.to_dict())
    assert "fit" not in plain.preprocessing
    assert plain.requires == ()
    assert identity_with(size=32).requires == ()


def test_feature_identity_records_size_fit_layer_and_pool_and_survives_json():
    found = identity_with(size=24, fit="pad", layer="1", pool="none")
    assert found.preprocessing["crop"] == found.preprocessing["resize"] == 24
    assert (found.layer, found.pool, found.shape, found.dimension) == ("output of 1", "none", (6, 11, 11), 726)
    assert found.requires == ("fit", "layer")
    assert Identity.from_dict(found.to_dict()) == found
    assert Geometry.of(found) == Geometry(24, "pad", "1", "none")
    assert (
        len(
            {found.fingerprint, identity_with(size=24, layer="1", pool="none").fingerprint, identity_with().fingerprint}
        )
        == 3
    )


def test_reopened_network_has_the_recorded_size_fit_layer_and_pool():
    found = identity_with(size=24, fit="squash", layer="2", pool="max")
    network = reopen(found, "random:0", "s", backbone=tiny_backbone(), engine="torch")
    assert network.identity == found
    assert network.backbone.preprocessing.fit == "squash"


def test_error_for_another_feature_identity_names_size_layer_and_pool():
    found = identity_with(size=24, layer="1")
    Geometry(size=24, layer="1", pool="avg").require(found, "s")
    with pytest.raises(
        IdentityError, match="s has features of another geometry: size 24, not 16; layer output of 1, not 2"
    ):
        Geometry(size=16, layer="2").require(found, "s")
    with pytest.raises(IdentityError, match="pool that of the network, not max"):
        Geometry(pool="max").require(identity_with(), "s")
