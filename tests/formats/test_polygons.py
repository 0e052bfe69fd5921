"""Polygons: exact where nothing is simplified, valid always, and within the tolerance."""

import numpy as np
import pytest
import shapely
from drawn_masks import MASKS
from pycocotools import mask as coco

from corrclip_jax.formats.polygons import fill, rings_of, simplify, trace, without_holes
from corrclip_jax.runtime import extras
from corrclip_jax.runtime.extras import MissingExtraError

# pycocotools has arrays of before NumPy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def shapes(polygons):
    return [shapely.Polygon(one.exterior, one.holes) for one in polygons]


@pytest.mark.parametrize("name", MASKS)
def test_traced_polygons_are_valid_and_give_the_mask_back(name):
    mask = MASKS[name]
    polygons = trace(mask)
    assert np.array_equal(fill(rings_of(polygons), *mask.shape), mask)
    assert sum(one.area for one in polygons) == mask.sum()
    assert all(shape.is_valid for shape in shapes(polygons))
    together = shapely.MultiPolygon(shapes(polygons))
    assert together.is_valid and together.area == mask.sum()


@pytest.mark.parametrize("name", MASKS)
def test_outlines_without_holes_cover_every_pixel_once_for_coco_too(name):
    mask = MASKS[name]
    rings = without_holes(trace(mask))
    assert all(shapely.Polygon(ring).is_valid for ring in rings)
    counts = sum((fill([ring], *mask.shape).astype(int) for ring in rings), np.zeros(mask.shape, int))
    assert np.array_equal(counts, mask)
    if rings:
        encoded = coco.merge(coco.frPyObjects([ring.ravel().tolist() for ring in rings], *mask.shape))
        assert np.array_equal(coco.decode(encoded).astype(bool), mask)


@pytest.mark.parametrize("tolerance", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("name", MASKS)
def test_simplified_polygons_are_valid_and_within_the_tolerance(name, tolerance):
    before = trace(MASKS[name])
    after = simplify(before, tolerance)
    for exact, simple in zip(shapes(before), shapes(after), strict=True):
        assert simple.is_valid
        assert len(simple.interiors) == len(exact.interiors)
        densely = shapely.segmentize(simple.boundary, 0.25)
        assert exact.boundary.hausdorff_distance(densely) <= tolerance + 0.13  # half a step of the dense line


def test_a_smooth_outline_needs_few_corners():
    before = rings_of(trace(MASKS["blobs"]))
    after = rings_of(simplify(trace(MASKS["blobs"]), 1.0))
    assert sum(map(len, after)) < sum(map(len, before)) / 4


def test_outlines_run_clockwise_and_holes_the_other_way():
    (polygon, inner) = trace(MASKS["holes in holes"])
    assert polygon.exterior[0].tolist() == [0, 0]
    assert polygon.exterior[1].tolist() == [7, 0]
    assert polygon.holes[0][1].tolist() == [1, 6]
    assert len(inner.holes) == 1


def test_without_shapely_exact_polygons_are_made_and_others_say_what_to_install(monkeypatch):
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    ring = trace(MASKS["every border"])
    assert simplify(ring, 0.0) == ring
    with pytest.raises(
        MissingExtraError, match=r"pip install 'corrclip-jax\[formats\]', or keep every corner"
    ):
        simplify(ring, 1.0)
    with pytest.raises(MissingExtraError, match=r"pip install 'corrclip-jax\[formats\]'\.$"):
        without_holes(ring)
    assert len(without_holes(trace(MASKS["diagonal contacts"]))) == 8


def test_a_line_of_single_pixels_stays_one():
    mask = np.zeros((40, 50), bool)
    mask[0] = mask[:, 0] = True
    after = simplify(trace(mask), 1.0)
    assert np.array_equal(fill(rings_of(after), 40, 50), mask)
