"""Single networks of published models: downloaded, converted and read without the rest of a model."""

from pathlib import Path
from typing import Any

from corrclip_jax.config import Config, NetworkConfig
from corrclip_jax.config.suggestions import did_you_mean
from corrclip_jax.conversion.convert import to_stderr
from corrclip_jax.conversion.published import Published, preset_models, published_models
from corrclip_jax.hub.presets import PRESETS, load
from corrclip_jax.params.file_names import VOCABULARY
from corrclip_jax.params.model_folder import read_tree
from corrclip_jax.params.structure import Params, expected_network
from corrclip_jax.params.trees import differences, shapes_by_path
from corrclip_jax.runtime.environment import start_backend

_CLIPS = "clip/"  # keys of the registry


def load_network(model: str, family: str) -> tuple[NetworkConfig, Params]:
    """One network of a model of `PRESETS`; of its other networks nothing is loaded.

    Raises:
      FileNotFoundError: where weights are not here and cannot be downloaded.
    """
    return _read(model, preset_models(model)[family], getattr(PRESETS[model], family))[1:]


def load_clip(model: str | Path, *, text_only: bool = False) -> tuple[Config, Params]:
    """A CLIP by itself.

    Args:
      model: a published CLIP ("dfn-b16", see `corrclip models`), or a model of `load`, whose CLIP it is.
      text_only: read the text tower alone.

    Returns:
      A configuration with this CLIP and its vocabulary, and the parameters, {"clip": ...}.

    Raises:
      ValueError: for what is neither, and weights that cannot be converted or are damaged.
      FileNotFoundError: where weights are not here and cannot be downloaded.
    """
    name = str(model)
    clips = {
        key.removeprefix(_CLIPS): one for key, one in published_models().items() if key.startswith(_CLIPS)
    }
    if name in PRESETS or name in clips:
        start_backend()
        known = PRESETS[name].clip if name in PRESETS else None
        one = clips[name] if known is None else preset_models(name)["clip"]
        folder, clip, tree = _read(name, one, known, "text" if text_only else None)
        alone = Config(name=name, clip=clip, dino=None, sam2=None, vocabulary=str(folder / VOCABULARY))
        return alone, {"clip": tree}
    try:
        config, params = load(model, region_network=None)
    except ValueError as error:
        if not Path(model).is_dir():
            raise ValueError(
                f"a CLIP must be one of {', '.join([*clips, *PRESETS])}, or the folder of a model. Got {name!r}."
                f"{did_you_mean(name, [*clips, *PRESETS])}"
            ) from error
        raise
    towers = params["clip"]
    return config, {"clip": {"text": towers["text"]} if text_only else towers}


def _read(name: str, one: Published, config: Any, subtree: str | None = None) -> tuple[Path, Any, Params]:
    """The folder of a part, its configuration and its parameters, or those of one subtree."""
    from corrclip_jax.hub.parts import provide  # loads the hub's client: half a second

    part = provide(name, one, config, to_stderr)
    tree = read_tree(part.tree, subtree)
    expected = expected_network(part.config)
    wanted = shapes_by_path(expected if subtree is None else {subtree: expected[subtree]})
    if wanted != (got := shapes_by_path(tree)):
        raise ValueError(f"{part.tree} is damaged. Delete it and load again.\n" + differences(wanted, got))
    return part.folder, part.config, tree
