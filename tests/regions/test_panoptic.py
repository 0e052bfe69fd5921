"""Regions of queries within the whole method: none found, one, as many as there can be; photos on one canvas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import EOMT, MASK2FORMER, small_config

from corrclip_jax.cli.commands.bench import with_network
from corrclip_jax.config import EoMTConfig, with_fields
from corrclip_jax.method.segment import make_segment
from corrclip_jax.params.structure import init_params
from corrclip_jax.regions import panoptic
from corrclip_jax.regions.sources import SOURCES, score_regions

CONFIG = with_fields(small_config(sam2=False), eomt=EOMT, mask2former=MASK2FORMER)
NOTHING, ONE, ALL, NOBODY = range(4)  # what the photos' first pixel says of them
SIZES = np.array([(64, 90), (60, 90), (40, 90), (0, 0)])


@pytest.fixture(scope="module")
def params():
    return jax.tree.map(jnp.asarray, init_params(CONFIG))


def made_up(config, net):
    """In place of the network: logits as the input's first pixel says, a strip for each query that counts."""
    queries, labels, side = config.queries, config.labels, 16

    def predict(pixels):
        red = (pixels[0, 0, 0, 0] * 0.229 + 0.485) * 255
        kind = jnp.round(red / 50).astype(jnp.int32)
        strips = jnp.arange(side)[None, None] * queries // side == jnp.arange(queries)[:, None, None]
        first = jnp.arange(queries)[:, None, None] == 0
        rows = (jnp.arange(side) < 5)[:, None]  # below, nothing is segmented
        masks = jnp.where(kind == ALL, strips, first) & rows[None]
        counts = jnp.where(kind == ALL, queries, jnp.where(kind == ONE, 1, 0))
        best = jnp.where(jnp.arange(queries) < counts, 1, labels)
        return 12 * jax.nn.one_hot(best, labels + 1)[None], 40.0 * masks[None].astype(jnp.float32) - 20

    return net._replace(predict=predict)


@pytest.fixture(params=["eomt", "mask2former"])
def config(request, monkeypatch):
    """The configuration of a source whose network says what the photos want."""
    config = with_fields(CONFIG, regions={"source": request.param, "panoptic": {"overlap_threshold": 0.4}})
    real = panoptic.query_adapter
    tower = getattr(config, request.param)
    monkeypatch.setattr(panoptic, "query_adapter", lambda *args: made_up(tower, real(*args)))
    return config


def photos():
    images = np.random.default_rng(0).integers(0, 256, (4, 64, 90, 3), dtype=np.uint8)
    for kind, image in enumerate(images):
        image[:24, :24] = 50 * kind
    return jnp.asarray(images)


@pytest.mark.parametrize("config", ["eomt"], indirect=True)
def test_no_region_one_and_all_that_can_be_go_through_the_whole_method(config, params):
    images = photos()[:NOBODY]
    text = jnp.eye(3, config.clip.embed_dim)
    found = jax.jit(make_segment(config))(params, images, text)
    assert [len(np.unique(one)) for one in found.regions] == [1, 2, SOURCES["eomt"].cap(config)]
    assert np.asarray(found.labels).min() >= 0
    for labels, regions in zip(np.asarray(found.labels), np.asarray(found.regions), strict=True):
        for id in range(1, regions.max() + 1):
            assert len(np.unique(labels[regions == id])) == 1


def test_maps_and_scores_of_no_region_one_and_all_that_can_be(config):
    """On a canvas; a photo of no size has none."""
    find = jax.jit(lambda *args: score_regions(config, {config.regions.source: {}}, *args))
    maps, scores = (jax.tree.map(np.asarray, part) for part in find(photos(), jnp.asarray(SIZES)))
    cap = SOURCES[config.regions.source].cap(config)
    assert [len(set(np.unique(one)) - {0}) for one in maps] == [0, 1, cap - 1, 0]
    for regions, (height, width) in zip(maps, SIZES, strict=True):
        assert not regions[height:].any()
        assert not regions[:, width:].any()
    assert scores["score"].shape == scores["label_id"].shape == (4, cap)
    assert not scores["score"][NOTHING].any()
    np.testing.assert_array_equal(scores["label_id"][ONE], np.arange(cap) == 1)
    assert (scores["score"][ALL, 1:] > 0.99).all()
    assert not scores["score"][:, 0].any()


def test_photos_on_a_canvas_get_the_regions_that_they_get_alone(params):
    """With the small network itself, whose queries all count."""
    settings = {"threshold": 0.0, "overlap_threshold": 0.0}
    config = with_fields(CONFIG, regions={"source": "eomt", "panoptic": settings})
    head = params["eomt"]["class_predictor"]
    head = head | {"bias": head["bias"].at[-1].set(-50)}  # no query is "nothing"
    tree = {"eomt": params["eomt"] | {"class_predictor": head}}
    find = jax.jit(lambda *args: SOURCES["eomt"].find(config, tree, *args))
    images = (
        np.random.default_rng(0).integers(0, 256, (2, 7, 9, 3), dtype=np.uint8).repeat(10, 1).repeat(10, 2)
    )
    height, width = 60, 40
    together = np.asarray(find(images, np.array([(70, 90), (height, width)])))[1]
    alone = np.asarray(find(images[1:, :height, :width], None))[0]
    assert np.mean(alone == together[:height, :width]) > 0.999
    assert len(np.unique(alone)) > 1
    assert not together[height:].any()
    assert not together[:, width:].any()


def test_benchmarks_draw_the_network_that_a_model_lacks():
    assert with_network(small_config(), "eomt").eomt == EoMTConfig()
    assert (
        with_network(CONFIG, "eomt") == with_network(CONFIG, "slic") == with_network(CONFIG, None) == CONFIG
    )
