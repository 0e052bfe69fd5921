"""The table of sources: what every source of regions promises to the rest of the program."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import EOMT, MASK2FORMER, SAM1, region_program, small_config, small_params

from corrclip_jax.config import Config, RegionConfig, region_sources, with_fields
from corrclip_jax.method.segment import make_segment
from corrclip_jax.regions.sources import SOURCES, can_find, find_regions

CONFIG = with_fields(small_config(), sam1=SAM1, eomt=EOMT, mask2former=MASK2FORMER)


@pytest.fixture(scope="module")
def params():
    return small_params(CONFIG)


@pytest.fixture(scope="module")
def images():
    coarse = np.random.default_rng(0).integers(0, 256, (3, 6, 9, 3), dtype=np.uint8)
    return coarse.repeat(10, 1).repeat(10, 2)


def test_the_configuration_and_the_table_name_the_same_sources():
    assert set(SOURCES) == set(region_sources())
    unchecked = object.__new__(RegionConfig)
    object.__setattr__(unchecked, "source", "sam3")
    with pytest.raises(ValueError, match=r"regions\.source must be one of sam2, .*none\. Got 'sam3'"):
        RegionConfig.__post_init__(unchecked)


@pytest.mark.parametrize("source", SOURCES)
def test_maps_are_whole_numbers_below_the_cap(source, params, images):
    config = with_fields(CONFIG, regions={"source": source})
    find, cap = region_program(config), SOURCES[source].cap(config)
    maps, others = (np.asarray(find(params, images[pair], None)) for pair in ([0, 1], [2, 0]))
    assert maps.shape == (2, 60, 90)
    assert maps.dtype == np.int32
    assert 0 <= maps.min() <= maps.max() < cap
    np.testing.assert_array_equal(maps[0], others[1], "in any place, beside any other image")


@pytest.mark.parametrize("source", SOURCES)
def test_every_source_lowers_for_every_platform(source, params, images):
    config = with_fields(CONFIG, regions={"source": source})
    lower = jax.export.export(region_program(config), platforms=("cpu", "cuda", "tpu"))
    assert not re.search(r"custom_call @\w*callback", lower(params, images[:2], None).mlir_module())


@pytest.mark.parametrize("source", SOURCES)
def test_a_source_without_its_network_is_refused_by_name(source, params, images):
    config = with_fields(CONFIG, regions={"source": source})
    tower = SOURCES[source].network
    towers = {name: params[name] for name in ("clip", "dino")}
    assert can_find(config, params)
    assert can_find(config, towers) == (tower is None)
    if tower is not None:
        assert not can_find(with_fields(config, **{tower: None}), params)
        with pytest.raises(ValueError, match=rf"no {SOURCES[source].title} to find regions with: .*{tower}"):
            make_segment(config)(towers, images, np.eye(3, config.clip.embed_dim, dtype=np.float32))


def test_nothing_found_is_the_rest_alone(images):
    maps, cap = find_regions(with_fields(Config(), regions={"source": "none"}), {}, jnp.asarray(images))
    assert cap == 1
    assert not np.asarray(maps).any()
