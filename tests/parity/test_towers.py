"""Our towers against transformers', stage by stage, on random weights gone through a file and the conversion."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from parity.pairs import CLIPSize, DINOSize, assert_close, make_clip, make_dino
from reference.towers import IMAGENET_MEAN, IMAGENET_STD, channels, dino_features
from reference.window import clip_blocks, nearest

from corrclip_jax.method.similarity import BACKBONES, renormalise
from corrclip_jax.models.clip.model import CLIP
from corrclip_jax.models.dino import DINO
from corrclip_jax.models.layers import run

CLIPS = {
    "b16": CLIPSize(layers=6, head_width=16, patch_size=16, image_size=64),
    "l14-head-64": CLIPSize(layers=5, head_width=64, heads=2, patch_size=14, image_size=56, quick_gelu=False),
    "h14-head-80": CLIPSize(layers=5, head_width=80, heads=2, patch_size=14, quick_gelu=False, embed_dim=40),
}
# Narrow grids; the first has as many tokens as the native square, where positions are used as they are stored.
GRIDS = {"b16": (2, 8), "l14-head-64": (3, 5), "h14-head-80": (7, 2)}
DINOS = {
    "b8": DINOSize(layers=3, width=128, heads=2, patch_size=8, image_size=64),
    "b16": DINOSize(layers=2, width=64, heads=4, patch_size=16, image_size=64),
    "one-block": DINOSize(layers=1, width=32, heads=2, patch_size=8, image_size=64),
}


@pytest.fixture(scope="module", params=CLIPS)
def clip(request, tmp_path_factory):
    return make_clip(CLIPS[request.param], tmp_path_factory.mktemp(request.param))


@pytest.fixture
def grid(clip, request):
    return GRIDS[request.node.callspec.params["clip"]]


@pytest.fixture(scope="module", params=DINOS)
def dino(request, tmp_path_factory):
    return make_dino(DINOS[request.param], tmp_path_factory.mktemp(request.param))


def normal(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def as_torch(x: jax.Array) -> torch.Tensor:
    return torch.tensor(np.asarray(x))


def channels_first(images: jax.Array) -> torch.Tensor:
    return as_torch(images).permute(0, 3, 1, 2)


def with_blocks(module, params, *args, method=None):
    """A module's result, and its blocks' outputs by path."""

    @jax.jit
    def run(params, *args):
        return module.apply(
            {"params": params},
            *args,
            method=method,
            mutable=["intermediates"],
            capture_intermediates=lambda child, name: type(child).__name__ == "Block" and name == "__call__",
        )

    result, state = run(params, *args)
    leaves = jax.tree_util.tree_leaves_with_path(state.get("intermediates", {}))
    return result, {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def test_image_embedding_and_every_block(clip):
    model, config, params = clip
    side = config.vision.image_size
    images = normal(2, side, side, 3)
    embedding, blocks = with_blocks(CLIP(config), params, images, method="encode_image")
    wanted = model.vision_model(channels_first(images), output_hidden_states=True)
    for index, hidden in enumerate(wanted.hidden_states[1:]):
        ours = blocks[f"visual/transformer/resblocks_{index}/__call__/0"]
        assert_close(f"block {index}", ours, hidden)
    assert len(blocks) == config.vision.layers == len(wanted.hidden_states) - 1
    assert_close("embedding", embedding, model.visual_projection(wanted.pooler_output))


def test_text_embedding_and_every_block(clip):
    model, config, params = clip
    end = config.text.vocab_size - 1
    tokens = np.random.default_rng(0).integers(1, end - 1, (4, config.text.context_length))
    # open_clip pads with 0, transformers with the end token: the first of the highest ids ends a text.
    for row, (position, padding) in enumerate(((76, 0), (1, 0), (5, end), (40, end))):
        tokens[row, position] = end
        tokens[row, position + 1 :] = padding
    embedding, blocks = with_blocks(CLIP(config), params, jnp.asarray(tokens), method="encode_text")
    wanted = model.text_model(torch.from_numpy(tokens), output_hidden_states=True)
    for index, hidden in enumerate(wanted.hidden_states[1:]):
        assert_close(f"block {index}", blocks[f"text/transformer/resblocks_{index}/__call__/0"], hidden)
    assert len(blocks) == config.text.layers
    assert_close("embedding", embedding, model.text_projection(wanted.pooler_output))


def test_branches_up_to_the_last_block(clip, grid):
    model, config, params = clip
    patch = config.vision.patch_size
    th, tw = grid
    layers = config.vision.layers - 4
    # Pixels beyond the last whole patch belong to no token.
    window = normal(1, th * patch + 3, tw * patch + patch // 2, 3)
    regions = np.random.default_rng(1).integers(0, 3, grid)
    regions[0, 0], regions[-1, -1] = 0, 2
    absent = 1
    one_hot = np.stack([regions == i for i in range(3 + absent)])[None]
    ours = run(
        CLIP(config),
        params,
        window,
        jnp.asarray(one_hot),
        spatial_layers=layers,
        method="last_block_inputs",
    )

    pixels = channels_first(window)[0]
    outputs, _, ids = clip_blocks(model, pixels, torch.from_numpy(regions))
    last, tokens = model.vision_model.encoder.layers[-1], slice(1, 1 + th * tw)

    def values(x):
        projected = last.self_attn.v_proj(last.layer_norm1(x[tokens]))
        return last.self_attn.out_proj(projected).view(th, tw, -1)

    assert_close("main", ours.main[0], values(outputs[-2]))
    assert_close("spatial", ours.spatial[0], values(torch.stack(outputs[-2 - layers : -2]).mean(0)))
    assert_close("region tokens", ours.regions[0, jnp.asarray(ids)], outputs[-1][1 + th * tw :])


def test_read_out(clip):
    model, config, params = clip
    main, spatial, semantic = normal(3, 1, 10, config.vision.width)
    weights = {"spatial_weight": 1.5, "semantic_weight": 0.25}
    ours = run(CLIP(config), params, main, spatial, semantic, method="read_out", **weights)
    main, spatial, semantic = (
        model.vision_model.post_layernorm(as_torch(x)) for x in (main, spatial, semantic)
    )
    mixed = main + 1.5 * spatial + 0.25 * semantic
    assert_close("features", ours, model.visual_projection(mixed))


@pytest.mark.parametrize("size", [(32, 128), (75, 40)], ids=str)
def test_dino_features(dino, size):
    model, config, params = dino
    window = normal(1, *size, 3)
    ours = run(DINO(config), params, renormalise(window, BACKBONES["dino"]))[0]
    ours = ours / jnp.linalg.norm(ours, axis=-1, keepdims=True)
    assert_close("features", ours, dino_features(model, channels_first(window)[0]), 1e-5)


def test_dino_blocks(dino):
    model, config, params = dino
    images = normal(2, config.image_size, config.image_size, 3)
    features, blocks = with_blocks(DINO(config), params, images)
    wanted = model(channels_first(images), output_hidden_states=True).hidden_states
    for index in range(config.layers - 1):
        assert_close(f"block {index}", blocks[f"blocks_{index}/__call__/0"], wanted[index + 1])
    assert len(blocks) == config.layers - 1
    last = model.layers[-1]
    normed = last.layernorm_before(wanted[-2])[:, 1:]
    both = last.attention.q_proj(normed) + last.attention.k_proj(normed)
    assert_close("query plus key", features.reshape(both.shape), both)


def test_dino_pixels_are_imagenets():
    photo = np.random.default_rng(0).uniform(size=(5, 7, 3)).astype(np.float32)
    from_clip = (photo - np.array([0.48145466, 0.4578275, 0.40821073])) / np.array(
        [0.26862954, 0.26130258, 0.27577711]
    )
    wanted = (torch.from_numpy(photo).permute(2, 0, 1) - channels(IMAGENET_MEAN)) / channels(IMAGENET_STD)
    ours = renormalise(jnp.asarray(from_clip[None], jnp.float32), BACKBONES["dino"])[0]
    assert_close("pixels", ours, wanted.permute(1, 2, 0), 1e-6)


def test_nearest_of_the_reference_keeps_any_ids():
    ids = torch.tensor([[2**40, 5], [2**40 + 1, 2**31]])
    assert nearest(ids, 4, 4)[::2, ::2].tolist() == ids.tolist()
