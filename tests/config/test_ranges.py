"""Ranges of the configuration's numbers: what is refused, however it is given, and what every model needs."""

import dataclasses
import re

import numpy as np
import pytest

from corrclip_jax.config import (
    Config,
    MethodConfig,
    PanopticConfig,
    RegionConfig,
    SLICConfig,
    from_dict,
    to_dict,
)
from corrclip_jax.config import method as method_module
from corrclip_jax.config import regions as regions_module
from corrclip_jax.config.assignments import with_assignments
from corrclip_jax.config.ranges import COUNT, COUNT_OR_NONE, FINITE, NOT_NEGATIVE, POSITIVE, SHARE

WRONG = {
    "method.resize_short": "0",
    "method.resize_long": "-3",
    "method.window": "0",
    "method.stride": "-5",
    "method.window_multiple": "0",
    "method.merge_distance": "nan",
    "method.similarity_scale": "inf",
    "method.similarity_side": "0",
    "method.spatial_weight": "nan",
    "method.semantic_weight": "-inf",
    "method.neighbours": "0",
    "method.support_weight": "1.5",
    "method.logit_scale": "0",
    "method.background_threshold": "2",
    "method.max_regions": "-1",
    "method.max_windows": "0",
    "method.windows_per_chunk": "0",
    "method.rows_per_chunk": "-1",
    "regions.points_per_side": "0",
    "regions.iou_threshold": "nan",
    "regions.stability_threshold": "-0.1",
    "regions.stability_offset": "-1",
    "regions.mask_threshold": "inf",
    "regions.nms_threshold": "1.1",
    "regions.points_per_chunk": "0",
    "regions.crop_layers": "-1",
    "regions.crop_overlap": "nan",
    "regions.crop_points_downscale": "0",
    "regions.min_area": "-1",
    "regions.panoptic.threshold": "nan",
    "regions.panoptic.mask_threshold": "2",
    "regions.panoptic.overlap_threshold": "-1",
    "regions.panoptic.fuse": "-1",
    "regions.slic.compactness": "nan",
    "regions.slic.segments": "0",
    "regions.slic.iterations": "-1",
    "regions.slic.side": "0",
}


@pytest.mark.parametrize(("name", "value"), WRONG.items())
def test_a_number_out_of_its_range_is_refused_by_name(name, value):
    message = "SLIC needs" if ".slic." in name else rf"^{re.escape(name)} must .*Got \(?{re.escape(value)}"
    with pytest.raises(ValueError, match=message):
        with_assignments(Config(), [f"{name}={value}"])


def test_every_number_has_a_range():
    for part, prefix in (
        (MethodConfig, "method"),
        (RegionConfig, "regions"),
        (PanopticConfig, "regions.panoptic"),
    ):
        others = ("similarity_of", "spatial_layers", "source", "multimask", "slic", "panoptic")
        names = {f"{prefix}.{one.name}" for one in dataclasses.fields(part) if one.name not in others}
        assert names == {name for name in WRONG if name.rpartition(".")[0] == prefix}
    assert {f"regions.slic.{one.name}" for one in dataclasses.fields(SLICConfig)} <= set(WRONG)
    assert method_module._RANGES.keys() | {"similarity_of", "spatial_layers"} == {
        one.name for one in dataclasses.fields(MethodConfig)
    }
    assert regions_module._RANGES.keys() <= {one.name for one in dataclasses.fields(RegionConfig)}


def test_windows_lie_side_by_side_or_overlap():
    with pytest.raises(ValueError, match=r"method\.stride must be at most method\.window, 336: .*Got 400"):
        MethodConfig(stride=400)
    assert MethodConfig(stride=336).stride == 336


@pytest.mark.parametrize("order", [1, -1])
def test_assignments_are_checked_together(order):
    both = ["method.window=56", "method.stride=28"][::order]
    assert with_assignments(Config(), both).method.window == 56
    with pytest.raises(ValueError, match=r"at most method\.window, 56"):
        with_assignments(Config(), both[:1] if order == 1 else both[1:])


def test_a_saved_configuration_is_checked():
    content = to_dict(Config())
    assert from_dict(Config, content) == Config()
    content["method"]["logit_scale"] = float("nan")
    with pytest.raises(ValueError, match=r"method\.logit_scale must be a finite number above 0\. Got nan\."):
        from_dict(Config, content)


def test_what_ranges_hold():
    assert [COUNT.holds(x) for x in (1, np.int64(3), True, 1.0, 0, None, "1")] == [True, True, *[False] * 5]
    assert [COUNT_OR_NONE.holds(x) for x in (None, 1, 0)] == [True, True, False]
    assert [SHARE.holds(x) for x in (0, 1.0, np.float32(0.5), 1.01, float("nan"))] == [
        True,
        True,
        True,
        False,
        False,
    ]
    assert [FINITE.holds(x) for x in (-1e9, float("inf"), False)] == [True, False, False]
    assert [POSITIVE.holds(x) for x in (0.0, 1e-9)] == [False, True]
    assert str(COUNT_OR_NONE) == "None or a whole number, 1 or more"
    assert [str(NOT_NEGATIVE), str(SHARE)] == ["a finite number, 0 or more", "a finite number from 0 to 1"]
