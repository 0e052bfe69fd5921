"""CorrCLIPv2: features of whole images, regions looked up in a bank, on small random models."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import small_bank, small_config, small_params, small_text, small_v2

from corrclip_jax.config import with_fields
from corrclip_jax.method.segment import make_segment
from corrclip_jax.method.similarity import feature_grid, padded_grid
from corrclip_jax.text.embedding import pad_queries

# Without the branches of a window, of which support knows nothing.
CONFIG = with_fields(
    small_v2(small_config(sam2=False)),
    method={"max_regions": 8},
    parts={"spatial": False, "semantic": False},
)
# The second photo is resized to less than the batch's shape, and its region 3 is lost on the way.
SIZES = np.array([(120, 150), (113, 260)])
SHAPE = (130, 270)


def unit(rng, *shape):
    x = rng.standard_normal(shape).astype(np.float32)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def text():
    queries = small_text(CONFIG)
    others = unit(np.random.default_rng(6), len(queries.features), 6)
    return replace(queries, others={"aux": jax.device_put(others)})


def bank(**changes):
    return replace(small_bank(CONFIG, others=6), **changes)


@pytest.fixture(scope="module")
def photos():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, *SHAPE, 3), dtype=np.uint8)
    regions = np.zeros((2, *SHAPE), np.int32)
    regions[:, 20:70, 30:100] = 5
    regions[:, 80:, 60:] = 9
    regions[1, 112, 1] = 3
    return images, regions


@pytest.fixture(scope="module")
def segment():
    return jax.jit(make_segment(CONFIG))


@pytest.fixture(scope="module")
def together(photos, segment):
    """The result of both photos on one canvas, for more queries than there are."""
    images, regions = photos
    found = segment(
        small_params(CONFIG), images, pad_queries(text(), 8), sizes=SIZES, regions=regions, bank=bank()
    )
    return jax.device_get(found)


def test_photos_of_different_sizes_share_a_program_and_padding_queries_change_nothing(
    photos, segment, together
):
    """One is compared with itself alone, the other with itself in the other place."""
    images, regions = photos
    params = small_params(CONFIG)
    height, width = SIZES[1]
    own = images[1:, :height, :width], regions[1:, :height, :width]
    alone = segment(params, own[0], text(), regions=own[1], bank=bank())
    turned = segment(
        params, images[::-1], pad_queries(text(), 8), sizes=SIZES[::-1], regions=regions[::-1], bank=bank()
    )
    for index, wanted in (
        (1, jax.tree.map(lambda x: x[0], jax.device_get(alone))),
        (0, jax.tree.map(lambda x: x[1], turned)),
    ):
        height, width = SIZES[index]
        ours = jax.tree.map(lambda x, index=index: x[index], together)
        inside = slice(height), slice(width)
        np.testing.assert_array_equal(ours.labels[inside], wanted.labels[inside])
        np.testing.assert_allclose(ours.scores[inside], wanted.scores[inside], rtol=1e-5)
        np.testing.assert_array_equal(ours.neighbours, wanted.neighbours)
        queries = slice(wanted.support.shape[-1])
        np.testing.assert_allclose(ours.support[:, queries], wanted.support, atol=1e-5)
        np.testing.assert_allclose(ours.own[:, queries], wanted.own, atol=1e-5)
        found = ours.neighbours[:, 0] >= 0
        lost = [1] if index else []
        assert np.flatnonzero(found).tolist() == [row for row in range(3 + index) if row not in lost]


def test_without_neighbours_a_pixel_keeps_its_own_logits(photos, segment, together):
    images, regions = photos
    run = partial(segment, small_params(CONFIG), images, sizes=SIZES, regions=regions)
    own = run(pad_queries(text(), 8))
    empty = run(pad_queries(text(), 8), bank=bank(keys=np.zeros((40, 32), np.float16)))
    assert (np.asarray(empty.neighbours) == -1).all()
    np.testing.assert_array_equal(empty.labels, own.labels)
    np.testing.assert_allclose(empty.scores, own.scores, rtol=1e-5)
    assert (together.labels != np.asarray(own.labels)).any()


def test_a_limit_on_the_backbones_input():
    limited = with_fields(CONFIG, method={"similarity_side": 64})
    assert feature_grid(CONFIG, (120, 152)) == (8, 10)  # 7.5 and 9.5, half to even
    assert feature_grid(limited, (120, 152)) == (3, 4)
    assert feature_grid(limited, (33, 40)) == (2, 2)
    assert padded_grid(limited, (120, 152)) == (4, 4)
    traced = jax.jit(lambda size: jnp.stack(feature_grid(limited, size)))
    for size in ((120, 152), (33, 40), (64, 64), (65, 64), (7, 900)):
        assert tuple(traced(np.array(size, np.int32)).tolist()) == feature_grid(limited, size)


@pytest.mark.parametrize(
    ("config", "bank", "text", "message"),
    [
        (with_fields(CONFIG, method={"similarity_of": "window"}), bank(), text(), "features of whole images"),
        (CONFIG, bank(keys=jnp.ones((40, 16), jnp.float16)), text(), "keys are 16 wide .* RADIO 32"),
        (
            CONFIG,
            bank(values={"main": jnp.ones((40, 7), jnp.float16)}),
            text(),
            r"16 wide. It has {'main': 7}",
        ),
        (CONFIG, bank(), small_text(CONFIG), r"each other CLIP of the bank, \['aux'\]. It holds none"),
        (CONFIG, bank(), replace(text(), others={"aux": jnp.ones((6, 3))}), "'aux' are 3 wide .* 6"),
    ],
)
def test_a_bank_that_does_not_fit_is_refused(photos, config, bank, text, message):
    images, regions = photos
    with pytest.raises(ValueError, match=message):
        make_segment(config)(small_params(CONFIG), images, text, regions=regions, bank=bank)


def test_an_unknown_way_of_similarity_is_refused():
    with pytest.raises(ValueError, match=r"must be window or image\. Got 'photo'"):
        with_fields(CONFIG, method={"similarity_of": "photo"})


def test_queries_of_another_clip_must_be_as_many():
    with pytest.raises(
        ValueError, match="CLIP 'aux' must be floating-point, one row for each of the 6 queries"
    ):
        wrong = replace(text(), others={"aux": jnp.ones((5, 6))})
        make_segment(CONFIG)({}, np.zeros((1, 9, 9, 3), np.uint8), wrong)
