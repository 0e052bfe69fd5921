"""Our Mask2Former against transformers', stage by stage, on random weights gone through file and conversion."""

import json
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from parity.pairs import assert_close
from safetensors.numpy import load_file
from torch.nn import functional as F
from transformers import Mask2FormerConfig as TorchConfig
from transformers import Mask2FormerForUniversalSegmentation, SwinConfig

from corrclip_jax.config import Mask2FormerConfig
from corrclip_jax.conversion import rules
from corrclip_jax.conversion.families import convert_state_dict
from corrclip_jax.conversion.rules import ConversionError
from corrclip_jax.conversion.tables.mask2former import config_from_shapes
from corrclip_jax.models.mask2former.decoder import DecoderLayer, attended
from corrclip_jax.models.mask2former.deformable import DeformableAttention, sample
from corrclip_jax.models.mask2former.model import Mask2Former
from corrclip_jax.models.mask2former.pixel_decoder import PixelDecoder
from corrclip_jax.models.mask2former.positions import sine_positions
from corrclip_jax.models.mask2former.swin import Swin
from corrclip_jax.ops.cudnn_attention import EXPORT_CHECKS
from corrclip_jax.params.structure import expected_network

# Small, but with all that can go wrong: windows of even and odd sides that do not fit the maps, or are larger than
# they; stages of one block and of several; heads of widths that are no power of two.
CONFIGS = {
    "even-window": Mask2FormerConfig(
        embed_dim=12, depths=(2, 1, 2, 1), heads=(1, 2, 4, 8), window=4, mlp_ratio=2.0, feature_size=64,
        mask_feature_size=24, encoder_layers=2, encoder_mlp_width=48, decoder_layers=4, decoder_heads=4,
        decoder_mlp_width=80, queries=7, labels=5,
    ),
    "odd-window": Mask2FormerConfig(
        embed_dim=24, depths=(1, 2, 1, 2), heads=(3, 6, 4, 12), window=7, mlp_ratio=3.5, feature_size=32,
        mask_feature_size=40, encoder_layers=1, encoder_mlp_width=32, decoder_layers=2, decoder_heads=8,
        decoder_mlp_width=64, queries=9, labels=3,
    ),
}  # fmt: skip
# Sides of no whole number of windows, of odd numbers of cells, and in the second case not even of patches.
SIDES = {"even-window": (92, 140), "odd-window": (131, 74)}

# One block of each kind, for what needs a program of its own.
TINY = Mask2FormerConfig(
    embed_dim=8, depths=(2, 1, 1, 1), heads=(1, 2, 2, 4), window=3, feature_size=32, mask_feature_size=16,
    encoder_layers=1, encoder_mlp_width=32, decoder_layers=1, decoder_heads=2, decoder_mlp_width=32, queries=5,
    labels=2,
)  # fmt: skip

# Swin's sizes as published for COCO panoptic; L is the default. What follows Swin is the same for all of them, and
# traced at its full depth for L alone.
SHALLOW: dict[str, Any] = {"queries": 100, "encoder_layers": 1, "decoder_layers": 1}
PUBLISHED = {
    "T": Mask2FormerConfig(embed_dim=96, depths=(2, 2, 6, 2), heads=(3, 6, 12, 24), window=7, **SHALLOW),
    "S": Mask2FormerConfig(embed_dim=96, heads=(3, 6, 12, 24), window=7, **SHALLOW),
    "B": Mask2FormerConfig(embed_dim=128, heads=(4, 8, 16, 32), **SHALLOW),
    "L": Mask2FormerConfig(),
}


def torch_config(config: Mask2FormerConfig) -> TorchConfig:
    swin = SwinConfig(
        embed_dim=config.embed_dim, depths=list(config.depths), num_heads=list(config.heads),
        window_size=config.window, mlp_ratio=config.mlp_ratio, patch_size=config.patch_size,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip
    return TorchConfig(
        backbone_config=swin, feature_size=config.feature_size, hidden_dim=config.feature_size,
        mask_feature_size=config.mask_feature_size, encoder_layers=config.encoder_layers,
        encoder_feedforward_dim=config.encoder_mlp_width, num_attention_heads=config.decoder_heads,
        decoder_layers=config.decoder_layers + 1,  # transformers counts the first prediction as a layer
        dim_feedforward=config.decoder_mlp_width, num_queries=config.queries, num_labels=config.labels,
    )  # fmt: skip


def random_torch_model(config: Mask2FormerConfig) -> Mask2FormerForUniversalSegmentation:
    """A torch model that looks at all of its parts: norms that are not the identity, places far outside the maps,
    masks of which some are empty."""
    torch.manual_seed(0)
    model = Mask2FormerForUniversalSegmentation(torch_config(config)).eval()
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            noise = torch.randn(tensor.shape)
            if "sampling_offsets.bias" in name:
                tensor.copy_(4 * noise)
            elif "mask_projection.bias" in name:
                tensor.copy_(2 * noise)
            elif any(part in name for part in ("bias_table", "queries_", "level_embed")):
                tensor.copy_(noise)
            elif tensor.ndim == 1:
                tensor.copy_(1 + 0.1 * noise if name.endswith("weight") else 0.1 * noise)
            else:
                tensor.copy_(noise * tensor.shape[1:].numel() ** -0.5)
    return model


class Pair(NamedTuple):
    """The torch model with its images and what it makes of them; our configuration and parameters of its files."""

    images: np.ndarray
    wanted: Any
    masks: list[torch.Tensor]
    config: Mask2FormerConfig
    params: dict[str, Any]


@pytest.fixture(scope="module", params=CONFIGS)
def pair(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    model = random_torch_model(CONFIGS[request.param])
    model.save_pretrained(folder)
    images = np.random.default_rng(1).standard_normal((2, *SIDES[request.param], 3)).astype(np.float32)
    masks = []
    model.model.transformer_module.decoder.mask_predictor.register_forward_hook(
        lambda module, inputs, outputs: masks.append(outputs[1])
    )
    with torch.no_grad():
        wanted = model(torch.tensor(images).permute(0, 3, 1, 2), output_hidden_states=True)
    state = load_file(folder / "model.safetensors")
    published = json.loads((folder / "config.json").read_text())
    config = config_from_shapes({name: x.shape for name, x in state.items()}, "transformers", published)
    params = jax.device_put(convert_state_dict("mask2former", state, config))
    return Pair(images, wanted, masks[:-1], config, params)


@pytest.fixture(scope="module")
def stages(pair):
    """Our outputs: logits of classes and masks, and what the stages return, by the module's name.

    One pair's images are a batch, the other's are mapped.
    """
    kinds = (Swin, PixelDecoder, DecoderLayer)
    apply = partial(
        Mask2Former(pair.config).apply, capture_intermediates=lambda module, _: isinstance(module, kinds)
    )
    if pair.config == CONFIGS["odd-window"]:  # images that are mapped are images of a batch

        def one(params, image):
            return jax.tree.map(lambda x: x[0], apply({"params": params}, image[None]))

        outputs, state = jax.jit(jax.vmap(one, (None, 0)))(pair.params, pair.images)
    else:
        outputs, state = jax.jit(apply)({"params": pair.params}, pair.images)
    return outputs, state["intermediates"]


@pytest.mark.parametrize("name", CONFIGS)
def test_the_configuration_is_read_from_the_file(name, tmp_path):
    config = CONFIGS[name]
    Mask2FormerForUniversalSegmentation(torch_config(config)).save_pretrained(tmp_path)
    shapes = {key: tuple(x.shape) for key, x in load_file(tmp_path / "model.safetensors").items()}
    published = json.loads((tmp_path / "config.json").read_text())
    assert config_from_shapes(shapes, "transformers", published) == config
    with pytest.raises(ConversionError, match=r"cannot be: pre_norm True \(here False\)"):
        config_from_shapes(shapes, "transformers", published | {"pre_norm": True})
    with pytest.raises(ConversionError, match="hidden_dim 512 "):
        config_from_shapes(shapes, "transformers", published | {"hidden_dim": 512})
    published["backbone_config"]["model_type"] = "resnet"
    with pytest.raises(ConversionError, match=r"backbone_config.model_type resnet \(here swin\)"):
        config_from_shapes(shapes, "transformers", published)


def test_swin(pair, stages):
    (maps,) = stages[1]["encoder"]["__call__"]
    for stage, (ours, wanted) in enumerate(zip(maps, pair.wanted.encoder_hidden_states, strict=True)):
        assert_close(f"stage {stage}", ours, wanted.permute(0, 2, 3, 1))


def test_pixel_decoder(pair, stages):
    ((maps, features),) = stages[1]["pixel_decoder"]["__call__"]
    for level, (ours, wanted) in enumerate(zip(maps, pair.wanted.pixel_decoder_hidden_states, strict=True)):
        assert_close(f"map {level}", ours, wanted.permute(0, 2, 3, 1))
    assert_close("mask features", features, pair.wanted.pixel_decoder_last_hidden_state.permute(0, 2, 3, 1))


def test_decoder(pair, stages):
    layers = stages[1]["transformer_module"]
    wanted = pair.wanted.transformer_decoder_hidden_states[1:]
    assert len(wanted) == pair.config.decoder_layers
    for index, hidden in enumerate(wanted):
        assert_close(f"layer {index}", layers[f"layers_{index}"]["__call__"][0], hidden.transpose(0, 1))


def test_classes_and_masks(pair, stages):
    classes, masks = stages[0]
    assert_close("classes", classes, pair.wanted.class_queries_logits)
    assert_close("masks", masks, pair.wanted.masks_queries_logits)


def test_the_random_models_have_empty_and_partial_masks(pair):
    hidden = torch.cat([mask.float().mean(-1).flatten() for mask in pair.masks])
    assert (hidden == 1).any()
    assert ((hidden > 0.1) & (hidden < 0.9)).any()


def test_older_files_and_newer_names_in_memory_give_the_same_parameters(tmp_path):
    config = CONFIGS["odd-window"]
    model = random_torch_model(config)
    model.save_pretrained(tmp_path)
    older = load_file(tmp_path / "model.safetensors")
    block = "model.pixel_level_module.encoder.encoder.layers.3.blocks.1.attention.self"
    older[f"{block}.relative_position_index"] = np.zeros((49, 49), np.int64)
    newer = model.state_dict()
    assert (
        config_from_shapes({name: tuple(x.shape) for name, x in newer.items()}, "transformers", {}) == config
    )
    trees = [convert_state_dict("mask2former", state, config) for state in (older, newer)]
    jax.tree.map(np.testing.assert_array_equal, *trees)


@pytest.mark.parametrize(("height", "width"), [(5, 9), (1, 1), (8, 3)])
def test_sampling_is_grid_sample_with_zeros_beyond_the_edges(height, width):
    rng = np.random.default_rng(0)
    batch, heads, cells, points, depth = 2, 3, 50, 4, 6
    values = rng.standard_normal((batch, height, width, heads, depth)).astype(np.float32)
    x, y = (rng.uniform(-3, side + 2, (points, batch, heads, cells)) for side in (width, height))
    x[:, 0, 0, 0], y[:, 0, 0, 0] = (-0.5, -1.0, width - 0.5, 1e30), (-0.5, 0.0, height - 0.5, -1e30)
    x, y = np.float32(x), np.float32(y)
    weights = rng.random(x.shape).astype(np.float32)
    grid = torch.tensor(np.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], axis=-1))
    sampled = F.grid_sample(
        torch.tensor(values).permute(0, 3, 4, 1, 2).flatten(0, 1),
        grid.permute(1, 2, 3, 0, 4).flatten(0, 1),
        align_corners=False,
    )
    weighted = sampled.reshape(batch, heads, depth, cells, points).permute(4, 0, 1, 3, 2)
    wanted = (weighted * torch.tensor(weights)[..., None]).sum(0)
    ours = jax.jit(sample)(*map(jnp.asarray, (values, x, y, weights)))
    assert_close("samples", ours, wanted, 1e-5)


def test_deformable_attention_holds_no_array_of_all_samples():
    sides, width, heads, points = ((20, 24), (40, 48), (80, 96)), 32, 4, 4
    length = sum(height * columns for height, columns in sides)
    x, positions = jax.ShapeDtypeStruct((1, length, width), jnp.float32), jnp.zeros((length, width))
    module = DeformableAttention(heads, points)
    params = jax.eval_shape(lambda x: module.init(jax.random.key(0), x, positions, sides), x)
    program = jax.jit(lambda params, x: module.apply(params, x, positions, sides)).lower(params, x).compile()
    samples = 4 * length * width * points * 4 * len(sides)  # bytes of four corners of every point
    assert program.memory_analysis().temp_size_in_bytes < samples / 3


def test_a_query_with_an_empty_mask_sees_everything():
    features = jnp.asarray([[[1.0], [-1.0], [0.0]]])
    embeddings = jnp.asarray([[[2.0], [-2.0], [0.0]]])
    seen = attended(embeddings, features)
    np.testing.assert_array_equal(seen[0], [[True, False, True], [False, True, True], [True, True, True]])
    np.testing.assert_array_equal(attended(embeddings[:, :1], -features[:, :1]), [[[True]]])


def test_positions_are_the_published_ones():
    from transformers.models.mask2former.modeling_mask2former import Mask2FormerSinePositionEmbedding

    published = Mask2FormerSinePositionEmbedding(num_position_features=16, normalize=True)
    wanted = published(torch.Size((1, 32, 13, 40)), "cpu", torch.float32)[0]
    assert_close("positions", sine_positions(13, 40, 32), wanted.permute(1, 2, 0), 1e-5)


@pytest.mark.parametrize("size", PUBLISHED)
def test_the_published_sizes_are_filled_by_their_tensors(size, monkeypatch):
    config = PUBLISHED[size]
    with torch.device("meta"):
        model = Mask2FormerForUniversalSegmentation(torch_config(config))
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    assert config_from_shapes(shapes, "transformers", {}) == config
    # Tensors of one number each, repeated: no memory, as long as they are not written out.
    monkeypatch.setattr(rules, "_float32", lambda array: array)
    monkeypatch.setattr(np, "isfinite", lambda array: np.True_)
    state = {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()}
    convert_state_dict("mask2former", state, config)


def test_the_published_tiny_size_makes_logits_of_any_photo():
    config = PUBLISHED["T"]
    image = jax.ShapeDtypeStruct((1, 427, 640, 3), jnp.float32)
    classes, masks = jax.eval_shape(Mask2Former(config).apply, {"params": expected_network(config)}, image)
    assert classes.shape == (1, 100, 134)
    assert masks.shape == (1, 100, 107, 160)


PROGRAMS = {dtype: jax.jit(Mask2Former(TINY, jnp.dtype(dtype)).apply) for dtype in ("float32", "bfloat16")}


@pytest.fixture(scope="module")
def tiny():
    """Parameters, two images and the logits of the smallest model."""
    rng = np.random.default_rng(0)

    def random(leaf):
        noise = rng.standard_normal(leaf.shape).astype(np.float32)
        return 1 + 0.1 * noise if noise.ndim == 1 else noise * np.prod(leaf.shape[:-1]) ** -0.5

    params = {"params": jax.device_put(jax.tree.map(random, expected_network(TINY)))}
    images = rng.standard_normal((2, 50, 70, 3)).astype(np.float32)
    return params, images, PROGRAMS["float32"](params, images)


def test_bfloat16_is_near_float32(tiny):
    params, images, wanted = tiny
    for ours, exact in zip(PROGRAMS["bfloat16"](params, images), wanted, strict=True):
        assert ours.dtype == jnp.float32
        assert_close("logits", ours, exact, 0.1)


@pytest.mark.parametrize("dtype", PROGRAMS)  # traced above
def test_it_lowers_for_every_platform(dtype, tiny):
    export = jax.export.export(
        PROGRAMS[dtype], platforms=("cpu", "cuda", "tpu"), disabled_checks=EXPORT_CHECKS
    )
    exported = export(*tiny[:2])
    assert [x.shape for x in exported.out_avals] == [(2, 5, 3), (2, 5, 13, 18)]
    assert {x.dtype for x in exported.out_avals} == {jnp.dtype(jnp.float32)}
    assert "callback" not in exported.mlir_module()
