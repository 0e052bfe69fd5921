"""Tables of the backbones for similarities: what only a checkpoint shows, and full sizes by their shapes."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from corrclip_jax.config import DINOv2Config, DINOv3Config, PEConfig, RadioConfig
from corrclip_jax.conversion.families import convert_state_dict, detect
from corrclip_jax.conversion.find import find
from corrclip_jax.conversion.rules import ConversionError
from corrclip_jax.conversion.spectral import realised
from corrclip_jax.conversion.tables import dinov2, dinov3, pe, radio
from corrclip_jax.models.radio import FeatureNormalizer
from corrclip_jax.params.structure import expected_network

RNG = np.random.default_rng(0)
WIDTH = 32
CONFIG = RadioConfig(image_size=64, patch_size=16, width=WIDTH, layers=1, heads=4, prefix_tokens=3)


def draw(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def block(prefix, width=WIDTH, hidden=4 * WIDTH):
    shapes = {
        "norm1.weight": (width,), "norm1.bias": (width,), "norm2.weight": (width,), "norm2.bias": (width,),
        "attn.qkv.weight": (3 * width, width), "attn.qkv.bias": (3 * width,),
        "attn.proj.weight": (width, width), "attn.proj.bias": (width,),
        "mlp.fc1.weight": (hidden, width), "mlp.fc1.bias": (hidden,),
        "mlp.fc2.weight": (width, hidden), "mlp.fc2.bias": (width,),
    }  # fmt: skip
    return {f"{prefix}.{name}": shape for name, shape in shapes.items()}


def radio_shapes(width=WIDTH, layers=1, grid=4, prefix_tokens=3):
    shapes = {
        "patch_generator.pos_embed": (1, grid**2, width),
        "patch_generator.embedder.weight": (width, 3 * 16 * 16),
        "patch_generator.cls_token.token": (prefix_tokens, width),
    }
    for index in range(layers):
        shapes |= block(f"blocks.{index}", width, 4 * width)
    return shapes


@pytest.fixture
def tensors():
    return {name: draw(*shape) for name, shape in radio_shapes().items()}


def same(left, right):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), left, right)


def test_layouts_of_radio_give_one_tree(tensors):
    wanted = convert_state_dict("radio", tensors, CONFIG)
    for prefix, more in (
        ("base_model.", {"_heads.0.fc.weight": draw(2, 2), "input_conditioner.norm_mean": draw(3, 1, 1)}),
        ("radio_model.model.", {"radio_model.summary_idxs": np.arange(2)}),
    ):
        found = {prefix + name: x for name, x in tensors.items()} | more
        assert detect(found)[0] == "radio"
        same(convert_state_dict("radio", found, CONFIG), wanted)
        shapes = {name: x.shape for name, x in found.items()}
        assert radio.config_from_shapes(shapes, detect(found)[1], {"num_attention_heads": 4}) == CONFIG


def test_a_final_norm_and_a_feature_normalizer_are_the_checkpoints(tensors):
    tensors = {f"base_model.{name}": x for name, x in tensors.items()}
    tensors |= {"base_model.norm.weight": draw(WIDTH), "base_model.norm.bias": draw(WIDTH)}
    tensors |= {"_feature_normalizer.mean": draw(WIDTH), "_feature_normalizer.tx": draw(WIDTH, WIDTH)}
    shapes = {name: x.shape for name, x in tensors.items()}
    config = radio.config_from_shapes(shapes, "original", {"num_attention_heads": 4})
    assert (config.final_norm, config.feature_normalizer) == (True, True)
    params = convert_state_dict("radio", tensors, config)
    features = draw(1, 2, 2, WIDTH)
    ours = FeatureNormalizer().apply({"params": params["feature_normalizer"]}, jnp.asarray(features))
    wanted = (features - tensors["_feature_normalizer.mean"]) @ tensors["_feature_normalizer.tx"].T
    np.testing.assert_allclose(ours, wanted, rtol=1e-5, atol=1e-5)
    with pytest.raises(ConversionError, match="norm"):
        convert_state_dict("radio", tensors, CONFIG)


def reparametrised(weight, norm, version):
    """A weight as RADIO's training stores it; and what it is, of spectral norm `norm`."""
    u, values, v = np.linalg.svd(weight.astype(np.float64), full_matrices=False)
    scale = np.log(np.expm1(norm - 0.05)) if version == 2 else norm
    stored = {"_u": u[:, 0], "_v": v[0], "scale": np.full((1, 4), scale)}
    if version == 2:
        stored["_sn_version"] = np.int64(2)
    return {name: np.asarray(x, np.float64) for name, x in stored.items()}, weight * (norm / values[0])


@pytest.mark.parametrize("version", [1, 2])
def test_reparametrised_weights_are_realised(tensors, version):
    wanted, stored = dict(tensors), dict(tensors)
    for name in ("blocks.0.mlp.fc1", "blocks.0.attn.qkv"):
        weight = stored.pop(f"{name}.weight")
        prefix = f"{name}.parametrizations.weight"
        stored[f"{prefix}.original"] = weight
        if name.endswith("qkv"):  # queries and keys; the values are stored as they are
            parts = np.split(weight, 3)
            for index in (0, 1):
                vectors, parts[index] = reparametrised(parts[index], 1.5 + index, version)
                stored |= {f"{prefix}.0.parts.{index}.{key}": x for key, x in vectors.items()}
            wanted[f"{name}.weight"] = np.concatenate(parts)
        else:
            vectors, wanted[f"{name}.weight"] = reparametrised(weight, 0.7, version)
            stored |= {f"{prefix}.0.{key}": x for key, x in vectors.items()}
    assert set(realised(stored)) == set(wanted)
    same(convert_state_dict("radio", stored, CONFIG), convert_state_dict("radio", wanted, CONFIG))
    shapes = {name: x.shape for name, x in stored.items()}
    found = radio.config_from_shapes(shapes, "original, backbone alone", {"num_attention_heads": 4})
    assert found == CONFIG


def test_dinov3_keys_have_no_bias_whatever_the_file_holds():
    config = DINOv3Config(width=WIDTH, layers=1, heads=2, registers=0)
    shapes = {
        "cls_token": (1, 1, WIDTH),
        "mask_token": (1, WIDTH),
        "patch_embed.proj.weight": (WIDTH, 3, 16, 16),
        "patch_embed.proj.bias": (WIDTH,),
        "rope_embed.periods": (4,),
        "norm.weight": (WIDTH,),
        "norm.bias": (WIDTH,),
        "blocks.0.ls1.gamma": (WIDTH,),
        "blocks.0.ls2.gamma": (WIDTH,),
        "blocks.0.attn.qkv.bias_mask": (3 * WIDTH,),
    } | block("blocks.0")
    tensors = {name: draw(*shape) for name, shape in shapes.items()}
    tensors["blocks.0.attn.qkv.bias_mask"][:] = np.nan  # as some files have it
    tensors["blocks.0.attn.qkv.bias"][WIDTH : 2 * WIDTH] = np.nan
    assert detect(tensors) == ("dinov3", "original")
    attention = convert_state_dict("dinov3", tensors, config)["blocks_0"]["attention"]
    assert set(attention["k_proj"]) == {"kernel"}
    np.testing.assert_array_equal(attention["v_proj"]["bias"], tensors["blocks.0.attn.qkv.bias"][2 * WIDTH :])


def test_dinov2_without_registers_and_with_a_gated_mlp():
    width, hidden = 384, 1024
    shapes = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, 1370, width),
        "patch_embed.proj.weight": (width, 3, 14, 14),
        "blocks.0.norm1.weight": (width,),
        "blocks.0.ls1.gamma": (width,),
        "blocks.0.mlp.w12.weight": (2 * hidden, width),
        "blocks.0.mlp.w3.weight": (width, hidden),
    }
    config = dinov2.config_from_shapes(shapes, "original", {})
    assert config == DINOv2Config(width=width, layers=1, heads=6, swiglu=True, registers=0)
    down = expected_network(config)["blocks_0"]["mlp"]["down_proj"]["kernel"]
    assert down.shape == (hidden, width)


@pytest.mark.parametrize(
    ("config", "millions"),
    [
        (RadioConfig(width=768, layers=12, heads=12), 98),
        (RadioConfig(), 320),
        (RadioConfig(width=1280, layers=32, heads=16), 653),
        (DINOv2Config(width=384, layers=12, heads=6), 22),
        (DINOv2Config(width=768, layers=12, heads=12, registers=0), 87),
        (DINOv2Config(), 304),
        (DINOv2Config(width=1536, layers=40, heads=24, swiglu=True), 1136),
        (DINOv3Config(width=384, layers=12, heads=6), 22),
        (DINOv3Config(width=768, layers=12, heads=12), 86),
        (DINOv3Config(), 303),
        (DINOv3Config(width=1280, layers=32, heads=20, mlp_ratio=6.0, swiglu=True), 840),
        (PEConfig(), 304),
    ],
)
def test_published_sizes(config, millions):
    """Of all blocks, which are alike, two are made: that shows the size of one."""
    one, two = (
        sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(expected_network(replace(config, layers=layers))))
        for layers in (1, 2)
    )
    assert round((one + (config.layers - 1) * (two - one)) / 1e6) == pytest.approx(millions, abs=1)


def test_radios_largest_has_wide_heads():
    shapes = {f"base_model.{name}": shape for name, shape in radio_shapes(1280, 2, 128, 10).items()}
    config = radio.config_from_shapes(shapes, "original", {})
    assert (config.heads, config.layers, config.image_size, config.prefix_tokens) == (16, 2, 2048, 10)


def test_what_the_other_tables_read_of_a_config_json():
    with pytest.raises(ConversionError, match=r"a DINOv3 that ours cannot be: key_bias True \(here False\)"):
        dinov3.config_from_shapes({}, "transformers", {"key_bias": True})
    with pytest.raises(ConversionError, match="a DINOv2 that ours cannot be: qkv_bias False"):
        dinov2.config_from_shapes({}, "transformers", {"qkv_bias": False})
    with pytest.raises(ConversionError, match=r"conv1\.weight"):
        pe.config_from_shapes({}, "original", {})


def test_radios_own_pickle_is_found_in_a_folder_and_its_averaged_weights_are_read(tmp_path, tensors):
    torch = pytest.importorskip("torch")
    named = {f"base_model.{name}": torch.from_numpy(x) for name, x in tensors.items()}
    other = {name: x + 1 for name, x in named.items()}
    torch.save(
        {"epoch": 3, "state_dict": other, "state_dict_ema": named}, tmp_path / "c-radio_v3-l_half.pth.tar"
    )
    found = find(tmp_path, "radio")
    assert found.layout == "original"
    same(convert_state_dict("radio", found.checkpoint, CONFIG), convert_state_dict("radio", tensors, CONFIG))
