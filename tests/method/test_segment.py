"""The segmentation function: batches, chunks, caps, every kind of input, one compilation, every platform."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import jitted

from corrclip_jax.config import CLIPConfig, CLIPTextConfig, CLIPVisionConfig, Config, DINOConfig, with_fields
from corrclip_jax.method import segment as segment_module
from corrclip_jax.method.segment import make_segment
from corrclip_jax.ops.loops import map_chunks
from corrclip_jax.params.structure import init_params
from corrclip_jax.text.embedding import TextEmbedding, pad_queries

CONFIG = Config(
    clip=CLIPConfig(
        embed_dim=16,
        vision=CLIPVisionConfig(image_size=112, width=32, layers=5, head_width=16),
        text=CLIPTextConfig(vocab_size=64, width=16, heads=2, layers=1),
    ),
    dino=DINOConfig(image_size=112, patch_size=16, width=32, layers=2, heads=2),
    sam2=None,
)
CONFIG = with_fields(CONFIG, method={"window": 112, "resize_short": 112, "stride": 56, "max_regions": 8})


@pytest.fixture(scope="module")
def params():
    return jax.tree.map(jnp.asarray, init_params(CONFIG, seed=0))


@pytest.fixture(scope="module")
def text():
    rng = np.random.default_rng(5)
    features = rng.standard_normal((5, 16)).astype(np.float32)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    return pad_queries(TextEmbedding(jnp.asarray(features), jnp.array([0, 0, 1, 2, 3]), 4), 8)


def photos(count):
    """One photo or two, each of three windows: of one shape, so that most tests share two programs."""
    rng = np.random.default_rng(count)
    images = rng.integers(0, 256, (count, 6, 9, 3), dtype=np.uint8).repeat(10, axis=1).repeat(10, axis=2)
    regions = rng.integers(0, 6, (count, 3, 6)).repeat(20, axis=1).repeat(15, axis=2)
    return jnp.asarray(images[:, :57, :89]), jnp.asarray(regions[:, :57, :89], jnp.int32)


def test_a_batch_equals_its_photos_one_by_one(params, text):
    images, regions = photos(2)
    segment = jitted(CONFIG)
    together = segment(params, images, text, regions=regions)
    assert len(np.unique(together.labels)) > 1
    for index in range(2):
        alone = segment(params, images[index : index + 1], text, regions=regions[index : index + 1])
        np.testing.assert_array_equal(together.labels[index], alone.labels[0])
        np.testing.assert_allclose(together.scores[index], alone.scores[0], rtol=1e-4)


@pytest.mark.parametrize("change", [{"windows_per_chunk": 4, "rows_per_chunk": 7}, {"windows_per_chunk": 16}])
def test_chunks_never_change_results(params, text, change):
    images, regions = photos(2)
    plain = jitted(CONFIG)(params, images, text, regions=regions)
    chunked = jitted(with_fields(CONFIG, method=change))(params, images, text, regions=regions)
    np.testing.assert_array_equal(plain.labels, chunked.labels)
    np.testing.assert_allclose(plain.scores, chunked.scores, rtol=1e-4)


@pytest.mark.parametrize("count", [1, 3, 4, 7])
def test_map_chunks_handles_remainders(count):
    x, y = jnp.arange(count * 2.0).reshape(count, 2), jnp.arange(count * 1.0)
    out = map_chunks(lambda batch: batch[0] * batch[1][:, None], (x, y), 3)
    np.testing.assert_array_equal(out, x * y[:, None])


def test_source_none_is_an_empty_region_map(params, text):
    images, regions = photos(1)
    none = jitted(with_fields(CONFIG, regions={"source": "none"}))(params, images, text)
    given = jitted(CONFIG)(params, images, text, regions=jnp.zeros_like(regions))
    np.testing.assert_array_equal(none.labels, given.labels)
    assert (np.asarray(none.regions) == 0).all()


def test_ids_of_regions_need_not_be_consecutive(params, text):
    images, regions = photos(1)
    segment = jitted(CONFIG)
    sparse = jnp.asarray([0, 7, 300, 10000, 65535, 2**31 - 2])[regions]
    plain = segment(params, images, text, regions=regions)
    np.testing.assert_array_equal(segment(params, images, text, regions=sparse).labels, plain.labels)
    unsigned = np.asarray(regions).astype(np.uint16)
    np.testing.assert_array_equal(segment(params, images, text, regions=unsigned).labels, plain.labels)


def test_a_bare_array_means_one_query_a_class_and_padding_changes_nothing(params, text):
    images, regions = photos(1)
    segment = jitted(CONFIG)
    features = text.features[:5]
    bare = segment(params, images, features, regions=regions)
    wrapped = TextEmbedding(features, jnp.arange(5), 5)
    padded = segment(params, images, pad_queries(wrapped, 8), regions=regions)
    np.testing.assert_array_equal(bare.labels, padded.labels)
    np.testing.assert_allclose(bare.scores, padded.scores, rtol=1e-5)


def test_padded_queries_compile_once(params, text):
    images, regions = photos(1)
    segment = jitted(CONFIG)
    segment(params, images, text, regions=regions)
    before = segment._cache_size()
    fewer = TextEmbedding(text.features[:3], text.query_to_class[:3], 2)
    segment(params, images, pad_queries(fewer, 8), regions=regions)
    assert segment._cache_size() == before


def test_it_compiles_once_for_a_shape_and_calls_nothing_on_the_host(params, text):
    images, regions = photos(2)
    segment = jitted(CONFIG)
    segment(params, images, text, regions=regions)
    before = segment._cache_size()
    for shift in (1, 2):
        segment(params, images + np.uint8(shift), text, regions=regions + shift)
    assert segment._cache_size() == before
    assert "callback" not in segment.lower(params, images, text, regions=regions).as_text()


@pytest.mark.parametrize("network", ["clip", "dino"])
def test_damaged_weights_give_no_label(params, text, network):
    images, regions = photos(1)
    leaves, tree = jax.tree.flatten(params[network])
    damaged = {**params, network: jax.tree.unflatten(tree, [leaf * jnp.nan for leaf in leaves])}
    result = jitted(CONFIG)(damaged, images, text, regions=regions)
    assert (np.asarray(result.labels) == -1).all()
    assert np.isnan(result.scores).all()


@pytest.mark.parametrize("shape", [(1, 1), (5, 200), (200, 3)])
def test_odd_sizes_and_the_background_threshold_which_gives_class_zero(params, text, shape):
    images = jnp.asarray(np.random.default_rng(0).integers(0, 256, (1, *shape, 3), dtype=np.uint8))
    method = {"background_threshold": 1.0, "logit_scale": 1.0}
    config = with_fields(CONFIG, regions={"source": "none"}, method=method)
    result = jitted(config)(params, images, text)
    assert result.labels.shape == (1, *shape)
    assert (np.asarray(result.labels) == 0).all()
    assert np.isfinite(result.scores).all()


def test_a_picture_of_one_colour_gives_numbers(params, text):
    images = jnp.full_like(photos(1)[0], 128)
    result = jitted(with_fields(CONFIG, regions={"source": "none"}))(params, images, text)
    assert np.isfinite(result.scores).all()


def test_bfloat16_changes_few_labels(params, text):
    images, regions = photos(2)
    exact = jitted(CONFIG)(params, images, text, regions=regions)
    rounded = jitted(replace(CONFIG, dtype="bfloat16"))(params, images, text, regions=regions)
    assert rounded.scores.dtype == jnp.float32
    np.testing.assert_allclose(rounded.scores, exact.scores, atol=0.1)


@jax.jit
def segment_of_arrays(params, images, features, owner, regions):
    """For export, which knows no types of this package."""
    return tuple(make_segment(CONFIG)(params, images, TextEmbedding(features, owner, 8), regions=regions))


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])  # traced once for all of them
def test_it_lowers_for_every_platform(params, text, platform):
    images, regions = photos(1)
    arguments = params, images, text.features, text.query_to_class, regions
    spec = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), arguments)
    assert jax.export.export(segment_of_arrays, platforms=[platform])(*spec).platforms == (platform,)


def test_more_regions_than_the_cap_are_an_error_or_marked_under_jit(params, text):
    images, regions = photos(2)
    many = regions.at[1].set(jnp.arange(57 * 89).reshape(57, 89) // 500)
    with pytest.raises(ValueError, match="region map 1 has 10 regions besides unsegmented pixels"):
        make_segment(CONFIG)(params, images, text, regions=many)
    result = jitted(CONFIG)(params, images, text, regions=many)
    assert (np.asarray(result.labels[1]) == -1).all()
    assert np.isnan(result.scores[1]).all()
    assert (np.asarray(result.labels[0]) >= 0).all()


def test_as_many_regions_as_the_cap_are_fine(params, text):
    images, _ = photos(1)
    regions = (jnp.arange(57 * 89).reshape(1, 57, 89) // 600).astype(jnp.int32)
    assert len(jnp.unique(regions)) == 9
    result = jitted(CONFIG)(params, images, text, regions=regions)
    assert (np.asarray(result.labels) >= 0).all()


def test_negative_region_ids_are_an_error_or_marked_under_jit(params, text):
    images, regions = photos(1)
    with pytest.raises(ValueError, match=r"ids of 0 and above. Got -1"):
        make_segment(CONFIG)(params, images, text, regions=regions - 1)
    result = jitted(CONFIG)(params, images, text, regions=regions - 1)
    assert (np.asarray(result.labels) == -1).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a | {"images": a["images"].astype(jnp.float32)}, r"images must be uint8 .* Got float32"),
        (
            lambda a: a | {"images": a["images"][0]},
            r"images must be uint8 \[B, H, W, 3\]. Got uint8 \[57, 89, 3\]",
        ),
        (lambda a: a | {"images": a["images"][..., :1]}, r"Got uint8 \[1, 57, 89, 1\]"),
        (lambda a: a | {"images": a["images"][:0], "regions": a["regions"][:0]}, "must not be empty"),
        (
            lambda a: a | {"regions": a["regions"][:, 1:]},
            r"images' size, \[1, 57, 89\]. Got int32 \[1, 56, 89\]",
        ),
        (lambda a: a | {"regions": a["regions"].astype(jnp.float32)}, "regions must be integers"),
        (lambda a: a | {"regions": None}, "no SAM 2 to find regions with"),
        (lambda a: a | {"text_emb": jnp.ones((3, 15))}, r"joint width, \[Q, 16\]. Got \[3, 15\]"),
        (lambda a: a | {"text_emb": jnp.ones((3, 4, 16))}, "one row a query"),
        (lambda a: a | {"params": {"clip": a["params"]["clip"]}}, r"(?s)missing.*dino/blocks_"),
    ],
)
def test_wrong_input_says_what_was_wanted_and_what_came(params, text, change, message):
    images, regions = photos(1)
    arguments = change({"params": params, "images": images, "text_emb": text, "regions": regions})
    with pytest.raises(ValueError, match=message):
        jax.jit(make_segment(CONFIG))(**arguments)


@pytest.mark.parametrize(("layers", "chosen"), [(4, None), (12, 11), (12, 0)])
def test_a_tower_too_shallow_for_the_spatial_branch_is_refused(layers, chosen):
    config = with_fields(CONFIG, clip={"vision": {"layers": layers}}, method={"spatial_layers": chosen})
    with pytest.raises(ValueError, match="spatial_layers must be from 1 to depth - 2"):
        make_segment(config)


def test_arrays_of_numpy_are_taken_where_nothing_is_compiled(params, text, monkeypatch):
    class Reached(Exception):
        pass

    def planned(shape, sizes, config):
        assert isinstance(sizes, jax.Array)

    def found(config, params, images, regions, *rest):
        assert all(isinstance(array, jax.Array) for array in (images, regions))
        raise Reached

    monkeypatch.setattr(segment_module, "sliding_windows", planned)  # a hundred operations, each compiled
    monkeypatch.setattr(segment_module, "image_features", found)
    images, regions = np.zeros((1, 60, 70, 3), np.uint8), np.zeros((1, 60, 70), np.int64)
    with jax.disable_jit(), pytest.raises(Reached):
        make_segment(CONFIG)(params, images, text, sizes=np.array([[50, 60]]), regions=regions)
