"""Fields of the configuration set by text: types, nested parts, and what is refused."""

import pytest

from corrclip_jax.config import Config, with_fields
from corrclip_jax.config.assignments import with_assignments


@pytest.mark.parametrize(
    ("text", "changes"),
    [
        ("method.spatial_layers=1", {"method": {"spatial_layers": 1}}),
        ("method.spatial_layers = none", {"method": {"spatial_layers": None}}),
        ("method.merge_distance=.3", {"method": {"merge_distance": 0.3}}),
        ("method.spatial_weight=2", {"method": {"spatial_weight": 2.0}}),
        ("parts.scope=off", {"parts": {"scope": False}}),
        ("parts.scope=True", {"parts": {"scope": True}}),
        ("dtype=bfloat16", {"dtype": "bfloat16"}),
        ("regions.source=slic", {"regions": {"source": "slic"}}),
        ("regions.slic.segments=64", {"regions": {"slic": {"segments": 64}}}),
        ("regions.panoptic.fuse=1,2, 3", {"regions": {"panoptic": {"fuse": (1, 2, 3)}}}),
        ("regions.panoptic.fuse=()", {"regions": {"panoptic": {"fuse": ()}}}),
        ("name=mine=2", {"name": "mine=2"}),
    ],
)
def test_a_field_is_set_in_its_own_type(text, changes):
    found, wanted = with_assignments(Config(), [text]), with_fields(Config(), **changes)
    assert found == wanted
    assert repr(found) == repr(wanted), "2.0 is not 2"


def test_assignments_are_made_in_order():
    assert with_assignments(Config(), ["method.stride=56", "method.stride=28"]).method.stride == 28


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("method.spatial_layer=1", r"method has no field 'spatial_layer'\. Did you mean spatial_layers\? It"),
        ("methods.stride=1", r"the configuration has no field 'methods'\. Did you mean method\?"),
        ("regions.slic.n=1", r"regions\.slic has no field 'n'\. It has: segments, compactness, iterations"),
        ("method.stride=half", r"method\.stride must be a whole number\. Got 'half'"),
        ("method.stride=1.5", r"method\.stride must be a whole number"),
        ("method.stride=", r"method\.stride must be a whole number"),
        ("method.spatial_layers=x", r"must be a whole number or none"),
        ("parts.scope=2", r"parts\.scope must be true or false"),
        ("dtype=float16", r"dtype must be float32 or bfloat16\. Got 'float16'"),
        ("regions.panoptic.fuse=1,b", r"must be whole numbers separated by commas"),
        ("regions.source=sam9", r"regions\.source must be one of sam2"),
        ("method=1", r"method is a part of the configuration\. Set one of its fields: method\.resize_short"),
        ("sam1.width=1", r"sam1 is None in this model"),
        ("method.stride.x=1", r"method\.stride has no fields"),
        ("method.stride", r"NAME=VALUE, as in method\.spatial_layers=1\. Got 'method\.stride'"),
        ("=1", r"NAME=VALUE"),
        ("method..stride=1", r"NAME=VALUE"),
    ],
)  # fmt: skip
def test_what_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        with_assignments(Config(), [text])
