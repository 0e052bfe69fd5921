"""Where a model's weights come from: kept in its folder, read with it, and found again by its configuration."""

import json
from dataclasses import replace

import jax
import numpy as np
from small_models import small_model

from corrclip_jax.params.file_names import DESCRIPTION
from corrclip_jax.params.model_folder import read, read_model, sources_of


def test_a_model_is_read_with_its_sources(tmp_path):
    folder = small_model(tmp_path)
    model = read_model(folder)
    assert model.sources == json.loads((folder / DESCRIPTION).read_text())["sources"]
    assert model.sources["clip"]["licence"] == "Apache-2.0"
    config, params = read(folder)
    assert config == model.config
    jax.tree.map(np.testing.assert_array_equal, params, model.params)


def test_a_configuration_leads_to_the_sources(tmp_path, monkeypatch):
    folder = small_model(tmp_path)
    config, _ = read(folder, region_network=None)
    assert sources_of(config)["clip"]["title"] == "Random CLIP"
    assert sources_of(replace(config, vocabulary=str(tmp_path / "elsewhere" / "vocab.json"))) == {}
    monkeypatch.chdir(folder)
    assert sources_of(replace(config, vocabulary=None)) == {}
