"""The table of network families: complete for the published ones, open for new ones without an edit."""

import importlib.util
import sys
import tomllib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import small_config

from corrclip_jax import config
from corrclip_jax.config import FAMILIES, Config, family_of, networks_of, select_regions, with_fields
from corrclip_jax.conversion.published import published_models
from corrclip_jax.method.segment import make_segment
from corrclip_jax.method.similarity import BACKBONES, Backbone, patch_features
from corrclip_jax.params.structure import check_params, init_params
from corrclip_jax.regions.sources import SOURCES, score_regions
from corrclip_jax.text.embedding import TextEmbedding

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"

MODULE = '''
"""A network that cuts an image in two at a learnt column, and a backbone that sees mean colours."""

from dataclasses import dataclass, fields

import flax.linen as nn
import jax.numpy as jnp

from corrclip_jax.config import Config, Family, NetworkConfig
from corrclip_jax.regions.sources import Source


@dataclass(frozen=True)
class HalvesConfig(NetworkConfig):
    image_size: int = 16


class Halves(nn.Module):
    config: HalvesConfig
    dtype: object

    @nn.compact
    def __call__(self, images):
        column = self.param("column", nn.initializers.constant(0.5), ())
        width = images.shape[2]
        right = jnp.arange(width, dtype=jnp.float32) >= column * width
        return jnp.broadcast_to(right.astype(jnp.int32) + 1, images.shape[:3])


@dataclass(frozen=True)
class ColoursConfig(NetworkConfig):
    image_size: int = 16
    patch_size: int = 16
    width: int = 5
    heads: int = 1
    mlp_ratio: float = 1.0


class Colours(nn.Module):
    config: ColoursConfig
    dtype: object

    @nn.compact
    def __call__(self, images):
        size = self.config.patch_size
        count, height, width, _ = images.shape
        patches = images.reshape(count, height // size, size, width // size, size, 3)
        means = patches.mean(axis=(2, 4))
        return nn.Dense(self.config.width, dtype=self.dtype, name="read_out")(means)


@dataclass(frozen=True)
class NewConfig(Config):
    halves: HalvesConfig | None = HalvesConfig()
    colours: ColoursConfig | None = ColoursConfig()


def find(config, params, images, sizes):
    return Halves(config.halves, config.dtype).apply({"params": params["halves"]}, images)


SOURCE = Source("Halves", "halves", find, lambda config: 3)
ROWS = [
    Family("halves", "Halves", "regions", HalvesConfig, f"{__name__}:Halves", __name__, frozenset(), "none"),
    Family("colours", "Colours", "similarity", ColoursConfig, f"{__name__}:Colours", __name__, frozenset(), "none"),
]
'''


@pytest.fixture
def new(tmp_path, monkeypatch):
    """The module with two families of its own, entered into the tables."""
    file = tmp_path / "new_families.py"
    file.write_text(MODULE)
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, file.stem, module)
    spec.loader.exec_module(module)
    for row in module.ROWS:
        monkeypatch.setitem(FAMILIES, row.name, row)
    monkeypatch.setitem(SOURCES, "halves", module.SOURCE)
    monkeypatch.setitem(BACKBONES, "colours", Backbone((0.5,) * 3, (0.5,) * 3))
    return module


def test_a_new_family_finds_regions_and_gives_similarities_without_touching_the_package(new):
    small = small_config(sam2=False)
    config = new.NewConfig(
        clip=small.clip,
        dino=None,
        sam2=None,
        similarity="colours",
        regions=with_fields(small.regions, source="halves"),
        method=small.method,
    )
    assert list(networks_of(config)) == ["clip", "halves", "colours"]
    params = init_params(config)
    params["halves"]["column"] = jnp.float32(0.25)
    check_params(config, params)

    images = jnp.asarray(np.random.default_rng(0).integers(0, 255, (1, 120, 160, 3)), jnp.uint8)
    text = TextEmbedding(jnp.eye(3, config.clip.embed_dim), jnp.arange(3), 3)
    result = jax.jit(make_segment(config))(params, images, text)
    np.testing.assert_array_equal(result.regions[0, 60, [0, 39, 40, 159]], [1, 1, 2, 2])
    assert set(np.unique(result.labels)) <= {0, 1, 2}
    # The left part is the rest, the right one a region of its own, with one label.
    assert len(np.unique(result.labels[0, :, 40:])) == 1
    np.testing.assert_array_equal(score_regions(config, params, images)[0], result.regions)

    pixels = jnp.asarray(np.random.default_rng(1).standard_normal((1, 32, 48, 3)), jnp.float32)
    features = patch_features(config, params, pixels)
    assert features.shape == (1, 2, 3, 5)
    np.testing.assert_allclose(jnp.linalg.norm(features, axis=-1), 1, rtol=1e-6)


def test_a_network_of_a_new_family_that_is_missing_is_named(new):
    config = new.NewConfig(halves=None, regions=with_fields(Config().regions, source="halves"))
    with pytest.raises(ValueError, match="no Halves to find regions with"):
        make_segment(config)({}, np.zeros((1, 9, 9, 3), np.uint8), np.zeros((2, 512), np.float32))


def test_every_family_is_whole():
    rules = tomllib.loads(PYPROJECT.read_text("utf-8"))["tool"]["importlinter"]["contracts"]
    independent = next(rule["modules"] for rule in rules if rule["id"] == "families")
    for name, family in FAMILIES.items():
        assert family.name == name
        assert name in Config.__dataclass_fields__
        assert family.config.__name__ in config.__all__
        assert ".".join(family.network().__module__.split(".")[:3]) in independent
        assert any(key.startswith(f"{name}/") for key in published_models())
        assert family_of(family.config()) is family
        assert family.network().__name__.lower().startswith(name.removesuffix("1"))
        table = family.conversion_table()
        assert table.SIGNATURES
        assert callable(table.table)
        assert callable(table.config_from_shapes)
        if family.role == "regions":
            assert SOURCES[name].network == name
        if family.role == "similarity":
            assert name in BACKBONES


def test_regions_are_selected_by_one_rule():
    config = Config(eomt=FAMILIES["eomt"].config())  # type: ignore[arg-type]
    chosen = select_regions(config, "eomt")
    assert (list(networks_of(chosen)), chosen.regions.source) == (["clip", "dino", "eomt"], "eomt")
    without = select_regions(config, None)
    assert (list(networks_of(without)), without.regions.source) == (["clip", "dino"], "sam2")
    with pytest.raises(
        ValueError, match=r"has no Mask2Former to find regions with \(it has: sam2 and eomt\)"
    ):
        select_regions(config, "mask2former")


@pytest.mark.parametrize(("field", "value"), [("similarity", "sam2"), ("similarity", "vgg")])
def test_what_cannot_be_a_backbone_is_refused(field, value):
    with pytest.raises(ValueError, match="similarity must be one of dino, dinov2"):
        Config(**{field: value})
