"""Models by name, and `load`: from a preset or a folder to configuration and parameters."""

import hashlib
import importlib.util
import os
import shutil
from pathlib import Path
from typing import NamedTuple

from huggingface_hub import snapshot_download

from corrclip_jax.config import (
    CLIPConfig,
    CLIPTextConfig,
    CLIPVisionConfig,
    Config,
    Dtype,
    networks_of,
    select_regions,
    with_fields,
)
from corrclip_jax.conversion.convert import convert, convert_folder, to_stderr
from corrclip_jax.conversion.find import checkpoint_files, find_vocabulary
from corrclip_jax.conversion.published import Published, preset_models, vocabulary_repository
from corrclip_jax.conversion.readers import SUFFIXES
from corrclip_jax.conversion.rules import ConversionError
from corrclip_jax.params.model_folder import DESCRIPTION, read
from corrclip_jax.params.structure import Params

HOME_VARIABLE = "CORRCLIP_HOME"

EMBEDDED = "tiny"
"""The model that comes with the package: small networks trained on generated scenes (weights/tiny)."""
EMBEDDED_FOLDER = Path(__file__).parents[1] / "weights" / EMBEDDED

_L14 = CLIPConfig(
    embed_dim=768,
    vision=CLIPVisionConfig(patch_size=14, width=1024, layers=24),
    text=CLIPTextConfig(width=768, heads=12),
)
_H14 = CLIPConfig(
    embed_dim=1024,
    quick_gelu=False,
    vision=CLIPVisionConfig(patch_size=14, width=1280, layers=32, head_width=80),
    text=CLIPTextConfig(width=1024, heads=16, layers=24),
)

# DINO ViT-B/8 and SAM 2 Hiera-L, the defaults, with a CLIP of each size. The registry says where each comes from.
PRESETS: dict[str, Config] = {
    "vit-b": Config(name="vit-b"),
    "vit-l": Config(name="vit-l", clip=_L14),
    "vit-h": Config(name="vit-h", clip=_H14),
}

# Files of a repository that are read besides its weights.
_SMALL_FILES = ["config.json", "open_clip_config.json", "tokenizer.json", "vocab.json", "merges.txt"]


class Model(NamedTuple):
    """A model that `load` knows by name: parts and licences by family, and whether `load` need only read."""

    name: str
    titles: dict[str, str]
    licences: dict[str, str]
    converted: bool


def available_models() -> list[Model]:
    """The models that `load` knows by name, the embedded one first."""
    own = {"clip": "Tiny CLIP ViT/4", "dino": "Tiny DINO ViT/4", "sam2": "Tiny SAM 2"}
    models = [Model(EMBEDDED, own, dict.fromkeys(own, "Apache-2.0"), _is_converted(EMBEDDED_FOLDER))]
    for name in PRESETS:
        parts = preset_models(name)
        titles = {family: part.title for family, part in parts.items()}
        licences = {family: part.licence for family, part in parts.items()}
        models.append(Model(name, titles, licences, _is_converted(_converted(name))))
    return models


def load(
    model: str | Path, *, dtype: Dtype | None = None, region_network: str | None = "all"
) -> tuple[Config, Params]:
    """Configuration and parameters of a model: a name of `available_models`, or a folder.

    "tiny" is part of the package. Other models are downloaded by name (huggingface_hub: resumed, cached) and
    converted at first use; their licences are printed then. A folder is a converted one, or holds checkpoints of
    published layout, which are converted once. Conversions are kept in `weights_home()`.

    Args:
      model: the name or the folder.
      dtype: the networks' compute type, in place of the configuration's.
      region_network: the one network of regions to load, "sam2" for instance, which becomes the source of regions;
        None loads none, for given region maps or superpixels; "all" loads every network that the model has.

    Returns:
      The configuration and the parameters, nested dicts of JAX arrays with a subtree a network.

    Raises:
      ValueError: for what is neither; for checkpoints that cannot be converted (`ConversionError`); for a
        network of regions that the model does not have.
      FileNotFoundError: where weights are not here and cannot be downloaded: which files to place where; where the
        embedded weights are missing or damaged.
    """
    if model == EMBEDDED:
        config, params = _read_embedded(region_network)
        return (config if dtype is None else with_fields(config, dtype=dtype)), params
    if model in PRESETS:
        folder = _prepare_preset(str(model))
    elif Path(model).is_dir():
        folder = _prepare_folder(Path(model))
    else:
        raise ValueError(
            f"model must be one of {', '.join([EMBEDDED, *PRESETS])}, or a folder that holds a converted model or "
            f"checkpoints in published layout. Got {str(model)!r}."
        )
    config, params = read(folder, region_network=region_network)
    return (config if dtype is None else with_fields(config, dtype=dtype)), params


def weights_home() -> Path:
    """Where weights are kept: $CORRCLIP_HOME, else `weights/` of a checkout, else `~/.cache/corrclip_jax`.

    `converted/` holds conversions; in `published/<owner>/<name>/` files of the repositories may be placed by hand.
    """
    if named := os.environ.get(HOME_VARIABLE):
        return Path(named).expanduser()
    checkout = Path(__file__).resolve().parents[2]
    is_checkout = (checkout / "pyproject.toml").is_file() and (checkout / "conversion").is_dir()
    if is_checkout and os.access(checkout / "weights", os.W_OK):
        return checkout / "weights"
    return Path.home() / ".cache" / "corrclip_jax"


def _read_embedded(region_network: str | None) -> tuple[Config, Params]:
    try:
        config, params = read(EMBEDDED_FOLDER)
    except (OSError, ValueError) as error:
        state = "damaged" if _is_converted(EMBEDDED_FOLDER) else "missing"
        raise FileNotFoundError(
            f"The weights of the embedded model are {state} ({EMBEDDED_FOLDER}): this installation is broken. "
            "Install corrclip-jax again; in a checkout, restore weights/tiny and the link corrclip_jax/weights."
        ) from error
    if region_network == "all":
        return config, params
    config = select_regions(config, region_network)
    return config, {name: params[name] for name in networks_of(config)}


def _converted(name: str) -> Path:
    return weights_home() / "converted" / name


def _placed(repository: str) -> Path:
    return weights_home() / "published" / repository


def _is_converted(folder: Path) -> bool:
    return (folder / DESCRIPTION).is_file()


def _prepare_folder(folder: Path) -> Path:
    """The converted form of a folder: itself, or the conversion of its checkpoints, made where there is none."""
    if _is_converted(folder):
        return folder
    files = checkpoint_files(folder)
    if not files:
        raise ConversionError(
            f"{folder} holds neither a converted model ({DESCRIPTION}) nor checkpoints ({', '.join(SUFFIXES)})."
        )
    # Names, sizes and times stand for the content, which would take seconds to read.
    stats = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    place, state = (_digest(x) for x in (str(folder.resolve()), repr(stats)))
    out = _converted(f"{folder.resolve().name}-{place}-{state}")
    if not _is_converted(out):
        convert_folder(folder, out, name=folder.resolve().name)
        for outdated in out.parent.glob(f"{folder.resolve().name}-{place}-*"):
            if outdated != out:
                shutil.rmtree(outdated)
    return out


def _prepare_preset(name: str) -> Path:
    """The converted form of a preset, downloaded and converted where it is not here."""
    out = _converted(name)
    if _is_converted(out):
        return out
    parts = preset_models(name)
    folders: dict[str, Path] = {}
    failures: dict[str, Exception] = {}
    for family, part in parts.items():
        try:
            folders[family] = _placed_or_downloaded(part)
            if family == "clip":
                folders["vocabulary"] = find_vocabulary(folders[family]) or _download_vocabulary()
        except (
            Exception
        ) as error:  # the hub's client passes on errors of the HTTP library that it happens to use
            failures[family] = error
    if failures:
        first = next(iter(failures.values()))
        raise FileNotFoundError(_how_to_place(name, parts, failures)) from first
    for part in parts.values():
        note = " (no commercial use)" if "-NC" in part.licence else ""
        to_stderr(f"{part.title}: licence {part.licence}{note}, {_url(part.repository)}")
    networks = {family: getattr(PRESETS[name], family) for family in parts}
    vocabulary = folders.pop("vocabulary")
    return convert(folders, out, vocabulary=vocabulary, name=name, configs=networks)


def _placed_or_downloaded(part: Published) -> Path:
    """A folder with the published files: placed by hand, or the hub's cache."""
    for repository in (part.repository, *part.also):
        placed = _placed(repository)
        if placed.is_dir() and checkpoint_files(placed, depth=1):
            return placed
    pattern = part.file
    if not pattern.endswith(".safetensors") and importlib.util.find_spec("torch") is None:
        pattern = "*.safetensors"
    folder = Path(snapshot_download(part.repository, allow_patterns=[pattern, *_SMALL_FILES]))
    if not any(folder.glob(pattern)):
        raise FileNotFoundError(
            f"{part.file} is not in the hub's cache"
            if pattern == part.file
            else f"{part.file} is a pickle, which needs torch: pip install 'corrclip-jax[convert]'"
        )
    return folder


def _download_vocabulary() -> Path:
    folder = find_vocabulary(Path(snapshot_download(vocabulary_repository(), allow_patterns=_SMALL_FILES)))
    if folder is None:
        raise FileNotFoundError("there is no vocabulary beside the CLIP checkpoint, nor in the hub's cache")
    return folder


def _how_to_place(name: str, parts: dict[str, Published], failures: dict[str, Exception]) -> str:
    reasons = [f"  {parts[family].repository}: {str(e).splitlines()[0]}" for family, e in failures.items()]
    places = [
        f"  {_placed(part.repository)}/\n"
        f"    {part.file}{' and tokenizer.json' * (family == 'clip')}, from {_url(part.repository)}"
        for family, part in parts.items()
        if family in failures
    ]
    return "\n".join(
        [
            f"The weights of {name} are not all here, and could not be downloaded:",
            *reasons,
            "With a network, load again: a broken download is resumed. Without one, place these files:",
            *places,
            f"and load again. {HOME_VARIABLE} names another place than {weights_home()}.",
        ]
    )


def _url(repository: str) -> str:
    return f"https://huggingface.co/{repository}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]
