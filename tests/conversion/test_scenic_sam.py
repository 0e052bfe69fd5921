"""Exchange with scenic, SAM's side: the tree of its module, there and back bit by bit, and the same computation."""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from corrclip_jax.config import Config, SAM1Config, with_fields
from corrclip_jax.conversion.families import convert_state_dict
from corrclip_jax.conversion.rules import ConversionError
from corrclip_jax.conversion.scenic import (
    read_variables,
    sam1_from_scenic,
    sam1_settings,
    sam1_to_scenic,
    write_variables,
)
from corrclip_jax.models.layers import Upscale
from corrclip_jax.models.sam.mask_decoder import by_quarters
from corrclip_jax.models.sam.vit import ImageEncoder
from corrclip_jax.params.structure import expected_network, init_params
from corrclip_jax.params.trees import shapes_by_path

# The decoder cannot be smaller: scenic's has its sizes built in. Windows do not fit the grid of 6.
SMALL = SAM1Config(
    image_size=48, patch_size=8, width=24, layers=3, heads=2, global_blocks=(1,), window=4, mask_channels=8
)


@pytest.fixture(scope="module")
def params():
    drawn = jax.device_get(init_params(Config(sam2=None, sam1=SMALL))["sam1"])
    rng = np.random.default_rng(0)
    # Biases and norms that are not the identity, so that none can stand for another.
    noisy = jax.tree.map(
        lambda x: x + np.float32(0.1) * rng.standard_normal(x.shape).astype(np.float32), drawn
    )
    return jax.device_put(noisy)


def assert_same(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    jax.tree.map(np.testing.assert_array_equal, one, other)


def dense(path, inputs, outputs):
    return {f"{path}/kernel": (inputs, outputs), f"{path}/bias": (outputs,)}


def norm(path, width):
    return {f"{path}/scale": (width,), f"{path}/bias": (width,)}


def conv(path, height, width, inputs, outputs, channels):
    return {f"{path}/kernel": (height, width, inputs, outputs), f"{path}/bias": (channels,)}


def image_encoder(config):
    width, grid, head = config.width, config.image_size // config.patch_size, config.width // config.heads
    patch, encoder = config.patch_size, "image_encoder"
    shapes = {f"{encoder}/pos_embed": (1, grid, grid, width)}
    shapes |= conv(f"{encoder}/patch_embed.proj", patch, patch, 3, width, width)
    for i in range(config.layers):
        block, side = f"{encoder}/blocks.{i}", grid if i in config.global_blocks else config.window
        shapes |= norm(f"{block}/norm1", width) | norm(f"{block}/norm2", width)
        shapes |= dense(f"{block}/attn/qkv", width, 3 * width) | dense(f"{block}/attn/proj", width, width)
        shapes |= {f"{block}/attn/rel_pos_{axis}": (2 * side - 1, head) for axis in "hw"}
        shapes |= dense(f"{block}/mlp/lin1", width, 4 * width) | dense(f"{block}/mlp/lin2", 4 * width, width)
    shapes |= {f"{encoder}/neck/0/kernel": (1, 1, width, 256), f"{encoder}/neck/2/kernel": (3, 3, 256, 256)}
    return shapes | norm(f"{encoder}/neck/1", 256) | norm(f"{encoder}/neck/3", 256)


def prompt_encoder(channels):
    prompts, quarter = "prompt_encoder", channels // 4
    down = f"{prompts}/mask_downscaling"
    rows = [f"point_embeddings.{i}" for i in range(4)] + ["not_a_point_embed", "no_mask_embed"]
    return (
        {f"{prompts}/pe_layer/positional_encoding_gaussian_matrix": (2, 128)}
        | {f"{prompts}/{row}.weight": (1, 256) for row in rows}
        | conv(f"{down}/0", 2, 2, 1, quarter, quarter)
        | norm(f"{down}/1", quarter)
        | conv(f"{down}/3", 2, 2, quarter, channels, channels)
        | norm(f"{down}/4", channels)
        | conv(f"{down}/6", 1, 1, channels, 256, 256)
    )


def mask_decoder():
    decoder, transformer = "mask_decoder", "mask_decoder/transformer"
    shapes = {f"{decoder}/iou_token.weight": (1, 256), f"{decoder}/mask_tokens.weight": (4, 256)}
    inner = {f"{transformer}/final_attn_token_to_image": 128}
    for i in range(2):
        layer = f"{transformer}/layers.{i}"
        inner |= {f"{layer}/self_attn": 256}
        inner |= {f"{layer}/cross_attn_{way}": 128 for way in ("token_to_image", "image_to_token")}
        shapes |= dense(f"{layer}/mlp/lin1", 256, 2048) | dense(f"{layer}/mlp/lin2", 2048, 256)
        for number in range(1, 5):
            shapes |= norm(f"{layer}/norm{number}", 256)
    for attention, width in inner.items():
        for part in "qkv":
            shapes |= dense(f"{attention}/{part}_proj", 256, width)
        shapes |= dense(f"{attention}/out_proj", width, 256)
    shapes |= norm(f"{transformer}/norm_final_attn", 256)
    # A transposed convolution's kernel has its outputs before its inputs (`transpose_kernel`).
    shapes |= conv(f"{decoder}/output_upscaling/0", 2, 2, 64, 256, 64) | norm(
        f"{decoder}/output_upscaling/1", 64
    )
    shapes |= conv(f"{decoder}/output_upscaling/3", 2, 2, 32, 64, 32)
    heads = {f"{decoder}/output_hypernetworks_mlps.{i}": 32 for i in range(4)}
    for head, outputs in (heads | {f"{decoder}/iou_prediction_head": 4}).items():
        shapes |= dense(f"{head}/layers.0", 256, 256) | dense(f"{head}/layers.1", 256, 256)
        shapes |= dense(f"{head}/layers.2", 256, outputs)
    return shapes


@pytest.mark.parametrize("config", [SMALL, SAM1Config()], ids=["small", "ViT-B"])
def test_the_tree_is_the_one_that_scenics_module_makes(config):
    written = jax.eval_shape(lambda tree: sam1_to_scenic(tree, config), expected_network(config))["params"]
    wanted = image_encoder(config) | prompt_encoder(config.mask_channels) | mask_decoder()
    assert shapes_by_path(written) == wanted


def test_the_round_trip_is_exact(params, tmp_path):
    """With JAX's arrays, here in one program, and with NumPy's."""

    @jax.jit
    def there_and_back(tree):
        variables = sam1_to_scenic(tree, SMALL)
        back = [sam1_from_scenic(one, SMALL) for one in (variables, variables["params"])]
        return variables, back

    variables, back = there_and_back(params)
    for one in back:
        assert_same(one, params)
    write_variables(tmp_path / "sam.msgpack", variables)
    read = read_variables(tmp_path / "sam.msgpack")
    assert_same(read, jax.tree.map(np.asarray, variables))
    ours = sam1_from_scenic(read, SMALL)
    assert_same(ours, jax.tree.map(np.asarray, params))
    again = sam1_to_scenic(ours, SMALL)
    assert_same(again, read)
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(again))


def test_scenics_own_conversion_of_the_published_file_gives_this_tree(params):
    """It joins the names with dots, takes kernels and scales from "weight" and turns kernels' axes."""
    state = {}
    for path, leaf in flatten_dict(sam1_to_scenic(params, SMALL)["params"], sep=".").items():
        if path.endswith("kernel"):
            leaf = leaf.transpose((3, 2, 0, 1) if leaf.ndim == 4 else (1, 0))
        state[re.sub(r"\.(kernel|scale)$", ".weight", path)] = np.asarray(leaf)
    assert_same(convert_state_dict("sam1", state, SMALL), jax.tree.map(np.asarray, params))


class _Attention(nn.Module):
    """Attention over a grid [N, H, H, C] with one layer for queries, keys and values, as scenic's is."""

    heads: int

    @nn.compact
    def __call__(self, x):
        count, side, _, width = x.shape
        qkv = nn.Dense(3 * width, name="qkv")(x).reshape(count, side, side, 3, self.heads, -1)
        q, k, v = (qkv[:, :, :, part] for part in range(3))
        logits = jnp.einsum("nhwdc,nijdc->ndhwij", q, k) * q.shape[-1] ** -0.5
        steps = np.arange(side)[:, None] - np.arange(side) + side - 1
        shape = (2 * side - 1, q.shape[-1])
        rows, columns = (
            self.param(name, nn.initializers.zeros, shape)[steps] for name in ("rel_pos_h", "rel_pos_w")
        )
        logits += jnp.einsum("nhwdc,hic->ndhwi", q, rows)[..., None]
        logits += jnp.einsum("nhwdc,wjc->ndhwj", q, columns)[..., None, :]
        weights = jax.nn.softmax(logits.reshape(*logits.shape[:4], -1)).reshape(logits.shape)
        out = jnp.einsum("ndhwij,nijdc->nhwdc", weights, v)
        return nn.Dense(width, name="proj")(out.reshape(x.shape))


class _MLP(nn.Module):
    @nn.compact
    def __call__(self, x):
        hidden = nn.gelu(nn.Dense(4 * x.shape[-1], name="lin1")(x), approximate=False)
        return nn.Dense(x.shape[-1], name="lin2")(hidden)


class _Block(nn.Module):
    heads: int
    window: int

    @nn.compact
    def __call__(self, x):
        count, grid, _, width = x.shape
        attend, y = _Attention(self.heads, name="attn"), nn.LayerNorm(name="norm1")(x)
        if self.window:
            side, windows = self.window, -(-grid // self.window)
            y = jnp.pad(y, ((0, 0), *[(0, windows * side - grid)] * 2, (0, 0)))
            y = y.reshape(count, windows, side, windows, side, width).swapaxes(2, 3)
            y = attend(y.reshape(-1, side, side, width)).reshape(count, windows, windows, side, side, width)
            y = y.swapaxes(2, 3).reshape(count, windows * side, -1, width)[:, :grid, :grid]
        else:
            y = attend(y)
        x = x + y
        return x + _MLP(name="mlp")(nn.LayerNorm(name="norm2")(x))


class _Neck(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.LayerNorm(name="1")(nn.Conv(256, (1, 1), use_bias=False, name="0")(x))
        return nn.LayerNorm(name="3")(nn.Conv(256, (3, 3), use_bias=False, name="2")(x))


class _Encoder(nn.Module):
    """An image encoder of Flax's own layers, put together as scenic's is, from `sam1_settings`."""

    settings: dict

    @nn.compact
    def __call__(self, images):
        s = self.settings
        patch = (s["patch_size"],) * 2
        x = nn.Conv(s["embed_dim"], patch, patch, padding="VALID", name="patch_embed.proj")(images)
        x = x + self.param("pos_embed", nn.initializers.zeros, (1, *x.shape[1:]))
        for i in range(s["depth"]):
            window = s["window_size"] if i in s["window_block_indexes"] else 0
            x = _Block(s["num_heads"], window, name=f"blocks.{i}")(x)
        return _Neck(name="neck")(x)


class _Upscaling(nn.Module):
    """The mask decoder's two transposed convolutions, as scenic's are."""

    @nn.compact
    def __call__(self, x):
        for name, width in (("0", 64), ("3", 32)):
            x = nn.ConvTranspose(width, (2, 2), (2, 2), transpose_kernel=True, name=name)(x)
            x = nn.gelu(nn.LayerNorm(name="1")(x) if name == "0" else x, approximate=False)
        return x


def test_flaxs_own_layers_compute_the_same_from_the_written_tree(params):
    images = jnp.asarray(np.random.default_rng(1).standard_normal((2, 48, 48, 3)), jnp.float32)
    written = sam1_to_scenic(params, SMALL)["params"]["image_encoder"]
    encoder = _Encoder(sam1_settings(SMALL)["image_encoder_args"])
    shapes = jax.eval_shape(encoder.init, jax.random.key(0), images)["params"]
    assert shapes_by_path(shapes) == shapes_by_path(written)
    with jax.default_matmul_precision("highest"):
        theirs = jax.jit(encoder.apply)({"params": written}, images)
        ours = jax.jit(ImageEncoder(SMALL).apply)({"params": params["image_encoder"]}, images)
    np.testing.assert_allclose(ours, theirs, atol=1e-5 * float(abs(theirs).max()))


def test_transposed_convolutions_compute_the_same_from_the_written_tree(params):
    x = jnp.asarray(np.random.default_rng(2).standard_normal((5, 5, 256)), jnp.float32)
    decoder = params["mask_decoder"]
    written = sam1_to_scenic(params, SMALL)["params"]["mask_decoder"]["output_upscaling"]

    @jax.jit
    def both(decoder, written, x):
        ours = x.reshape(25, 256).T
        for name, width in (("0", 64), ("3", 32)):
            of_layer = {"params": decoder[f"output_upscaling_{name}"]}
            ours = Upscale(len(ours), width).apply(of_layer, ours, method="channels_first")
            if name == "0":
                norm = nn.LayerNorm(reduction_axes=0, feature_axes=0)
                ours = norm.apply({"params": decoder["output_upscaling_1"]}, ours)
            ours = nn.gelu(ours, approximate=False)
        return ours, by_quarters(_Upscaling().apply({"params": written}, x), 5)

    ours, theirs = map(np.asarray, both(decoder, written, x))
    np.testing.assert_allclose(ours, theirs, atol=1e-5 * abs(theirs).max())


def test_the_modules_arguments():
    settings = sam1_settings(SAM1Config())
    assert settings["image_encoder_args"]["window_block_indexes"] == (0, 1, 3, 4, 6, 7, 9, 10)
    assert settings["prompt_encoder_args"]["image_embedding_size"] == (64, 64)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"embed_dim": 128}, "scenic's mask decoder has embed_dim 256, this SAM's is 128"),
        ({"decoder_heads": 4, "decoder_layers": 3}, "decoder_heads 8, .* is 4; .* decoder_layers 2, .* is 3"),
        ({"decoder_mlp_width": 64}, "decoder_mlp_width 2048"),
        ({"layers": 1}, "scenic's encoder needs two blocks or more"),
    ],
)
def test_what_scenics_modules_cannot_be(params, changes, words):
    config = with_fields(SMALL, **changes)
    for function in (sam1_to_scenic, sam1_from_scenic):
        with pytest.raises(ConversionError, match=words):
            function(params, config)


def test_trees_of_another_model(params):
    variables = sam1_to_scenic(params, SMALL)["params"]
    del variables["prompt_encoder"]["mask_downscaling"]["0"]
    variables["mask_decoder"]["extra"] = np.zeros(2)
    variables["image_encoder"]["blocks.2"]["attn"]["qkv"]["bias"] = np.zeros(24)
    with pytest.raises(ConversionError) as caught:
        sam1_from_scenic(variables, SMALL)
    message = str(caught.value)
    assert "scenic's variables are not this SAM's" in message
    assert "Leaves missing (2):\n  prompt_encoder/mask_downscaling/0/" in message
    assert "Leaves left over (1):\n  mask_decoder/extra" in message
    assert "image_encoder/blocks.2/attn/qkv/bias: wanted (72,). Got (24,)." in message
    with pytest.raises(ConversionError, match="params are not this SAM's"):
        sam1_to_scenic(params["image_encoder"], SMALL)
