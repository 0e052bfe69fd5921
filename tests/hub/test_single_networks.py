"""Single networks of published models: nothing else is downloaded, converted or read."""

import jax
import numpy as np
import pytest
from published import published_shapes, random_tensors
from safetensors.numpy import save
from small_hub import SMALL

from corrclip_jax.cli.runs.regions import network_of_regions
from corrclip_jax.config import with_fields
from corrclip_jax.hub.presets import load
from corrclip_jax.hub.single_networks import load_clip, load_network
from corrclip_jax.text.encode import embed_text


def test_one_network_of_a_preset_comes_without_the_others(hub, small_presets, home):
    config, params = load_network("vit-b", "dino")
    assert config == small_presets["vit-b"].dino
    assert jax.tree.leaves(params)
    assert [path.name for path in (home / "converted" / "parts").iterdir()] == ["dino"]


def test_corrclip_regions_reads_the_network_of_regions_alone(hub, small_presets, home):
    config, params = network_of_regions("vit-b", "sam2")
    assert [path.name for path in (home / "converted" / "parts").iterdir()] == ["sam2"]
    whole = load("vit-b", region_network="sam2")
    again = network_of_regions("vit-b", "sam2")  # of the model folder, which is here now
    for one in (config, again[0]):
        assert (one.sam2, one.regions, one.method) == (whole[0].sam2, whole[0].regions, whole[0].method)
    for ours in (params, again[1]):
        assert list(ours) == ["sam2"]
        jax.tree.map(np.testing.assert_array_equal, ours["sam2"], dict(whole[1]["sam2"]))
    assert list(network_of_regions("tiny", "sam2")[1]) != []
    assert network_of_regions("vit-b", "slic")[1] == {}


def test_the_text_tower_of_a_clip_embeds_names(hub, small_presets, home):
    config, params = load_clip("open-b", text_only=True)
    assert (config.name, config.clip) == ("open-b", small_presets["open-b"].clip)
    assert list(params["clip"]) == ["text"]
    assert [path.name for path in (home / "converted" / "parts").iterdir()] == ["clip"]
    whole = load_clip("open-b")[1]["clip"]
    assert "visual" in whole
    for ours, theirs in zip(
        jax.tree.leaves(params["clip"]["text"]), jax.tree.leaves(whole["text"]), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
    assert embed_text(config, params, ["cat", "the"]).features.shape == (2, config.clip.embed_dim)


def test_a_clip_of_no_preset_is_read_from_its_published_layout(hub, home):
    """Its tensors alone say what it is; they show heads where these are 64 wide, as all published ones."""
    wide = with_fields(SMALL.clip, vision={"width": 64, "head_width": 64}, text={"width": 64, "heads": 1})
    tensors = random_tensors(published_shapes("clip", wide, "open_clip"))
    hub.repositories["apple/DFN2B-CLIP-ViT-B-16"]["open_clip_model.safetensors"] = save(tensors)
    config, params = load_clip("dfn-b16", text_only=True)
    assert (config.name, config.clip.quick_gelu, list(params["clip"])) == ("dfn-b16", True, ["text"])
    assert embed_text(config, params, ["cat"]).features.shape == (1, config.clip.embed_dim)


def test_the_embedded_model_lends_its_clip_and_other_names_are_refused(home):
    assert list(load_clip("tiny", text_only=True)[1]["clip"]) == ["text"]
    with pytest.raises(ValueError, match=r"a CLIP must be one of .*dfn-b16.* Did you mean dfn-b16\?"):
        load_clip("dfn-b61")
