"""The register beside what is here, and `corrclip models`."""

import io
import json

from command_line import corrclip
from rich.console import Console
from small_models import small_config

from corrclip_jax.cli.commands.models import _print
from corrclip_jax.conversion.published import preset_models, published_models, region_models
from corrclip_jax.hub.embedded import EMBEDDED_MODELS
from corrclip_jax.hub.inventory import published_here
from corrclip_jax.hub.presets import PRESETS, available_models
from corrclip_jax.params.model_folder import save
from corrclip_jax.params.structure import init_params


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
    assert any(one.presets == ("vit-b", "vit-l", "vit-h", "open-b") for one in listed)
    assert {name for one in listed for name in one.regions} == set(region_models())


def test_what_is_converted_is_known_with_size_and_hash(home):
    convert_one(home, "dino/vitb8")
    here = {one.published.key: one for one in published_here()[0]}
    assert here["dino/vitb8"][3:] == (("mine",), True, 12_000_000, "0123456789abcdef")
    assert here["dino/vits8"][3:] == ((), False, None, None)


def test_the_command_lists_them(home):
    convert_one(home, "dino/vitb8")
    (home / "converted" / "broken").mkdir()
    (home / "converted" / "broken" / "corrclip.json").write_text("{")
    result = corrclip("models")
    assert result.exit_code == 0
    line = next(line for line in result.stdout.splitlines() if line.startswith("DINO B/8"))
    assert line.split() == ["DINO", "B/8", "12.0", "MB", "Apache-2.0", "yes"]
    assert result.stdout.startswith(f"Here, without a network: {', '.join(EMBEDDED_MODELS)}\n")
    assert "CC-BY-NC-4.0" in result.stdout
    assert "broken" in result.stderr
    assert "is damaged" in result.stderr


def test_the_list_as_json(home):
    result = corrclip("models", "--json")
    content = json.loads(result.stdout)
    assert [model["name"] for model in content["models"]] == [*EMBEDDED_MODELS, *PRESETS]
    assert {one["key"] for one in content["published"]} == set(published_models())
    dino = next(one for one in content["published"] if one["key"] == "dino/vitb8")
    assert dino["presets"] == ["vit-b", "vit-l", "vit-h", "open-b"]
    assert dino["repositories"] == {"facebook/dino-vitb8": ["model.safetensors", "pytorch_model.bin"]}


def test_the_lists_fit_eighty_columns(home, monkeypatch):
    (listed, _), models = published_here(), available_models()
    printed = io.StringIO()
    monkeypatch.setattr(
        "corrclip_jax.cli.commands.models.results", lambda: Console(file=printed, width=80, highlight=False)
    )
    _print(models, listed)
    rows = printed.getvalue().splitlines()
    assert all(len(row) <= 80 for row in rows[:-1])
    # One line for each network: nothing is folded.
    assert sum(row.startswith(one.published.title) for one in listed for row in rows) >= len(listed)
    for one in listed:
        assert any(row.startswith(one.published.title) and one.published.licence in row for row in rows)
