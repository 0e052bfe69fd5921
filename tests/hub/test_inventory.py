"""The register beside what is here, and `corrclip models`."""

import json

import pytest
from command_line import corrclip
from small_models import small_config

from corrclip_jax.conversion.published import preset_models, published_models
from corrclip_jax.hub.inventory import published_here
from corrclip_jax.hub.presets import HOME_VARIABLE, PRESETS
from corrclip_jax.params.model_folder import save
from corrclip_jax.params.structure import init_params


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path))
    return tmp_path


def convert_one(home, key):
    """A converted model that says it was made of a published one."""
    published = published_models()[key]
    source = {
        "repository": published.repository,
        "files": [{"name": published.file, "size": 12_000_000, "sha256": "0123456789abcdef"}],
    }
    config = small_config(sam2=False)
    save(home / "converted" / "mine", init_params(config), config, sources={published.family: source})


def test_all_published_files_are_listed_with_the_presets_they_are_part_of(home):
    listed, faults = published_here()
    assert faults == []
    assert [one.published.key for one in listed] == list(published_models())
    for one in listed:
        wanted = [name for name in PRESETS if one.published in preset_models(name).values()]
        assert list(one.presets) == wanted
        assert one.converted == ()
    assert any(one.presets == ("vit-b", "vit-l", "vit-h") for one in listed)


def test_what_is_converted_is_known_with_size_and_hash(home):
    convert_one(home, "dino/vitb8")
    here = {one.published.key: one for one in published_here()[0]}
    assert here["dino/vitb8"][2:] == (("mine",), 12_000_000, "0123456789abcdef")
    assert here["dino/vits8"][2:] == ((), None, None)


def test_the_command_lists_them(home):
    convert_one(home, "dino/vitb8")
    (home / "converted" / "broken").mkdir()
    (home / "converted" / "broken" / "corrclip.json").write_text("{")
    result = corrclip("models")
    assert result.exit_code == 0
    line = next(line for line in result.stdout.splitlines() if line.startswith("DINO ViT-B/8"))
    for word in ("Apache-2.0", "12 MB", "0123456789ab", "vit-b, vit-l, vit-h", "mine"):
        assert word in line
    assert "CC-BY-NC-4.0" in result.stdout
    assert "broken" in result.stderr
    assert "is damaged" in result.stderr


def test_the_list_as_json(home):
    result = corrclip("models", "--json")
    content = json.loads(result.stdout)
    assert [model["name"] for model in content["models"]] == ["tiny", *PRESETS]
    assert {one["key"] for one in content["published"]} == set(published_models())
