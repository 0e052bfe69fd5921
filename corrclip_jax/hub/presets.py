"""Models by name, and `load`: from a preset or a folder to configuration and parameters."""

import glob
import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from corrclip_jax.config import (
    CLIPConfig,
    CLIPTextConfig,
    CLIPVisionConfig,
    Config,
    DINOConfig,
    DINOv2Config,
    DtypeChoice,
    EoMTConfig,
    RadioConfig,
    SAM2Config,
    families,
    networks_of,
    select_regions,
    source_family,
    with_fields,
)
from corrclip_jax.config.suggestions import did_you_mean
from corrclip_jax.conversion.convert import convert_folder, to_stderr
from corrclip_jax.conversion.find import checkpoint_files
from corrclip_jax.conversion.published import preset_models, region_models
from corrclip_jax.conversion.readers import SUFFIXES
from corrclip_jax.conversion.rules import ConversionError
from corrclip_jax.hub.embedded import EMBEDDED_FOLDER, EMBEDDED_MODELS, EMBEDDED_V2, V2_FIELDS
from corrclip_jax.hub.home import model_place
from corrclip_jax.params.file_names import DESCRIPTION
from corrclip_jax.params.model_folder import LazyParams, describe, is_complete, read
from corrclip_jax.params.structure import Params
from corrclip_jax.runtime.compute_type import resolve
from corrclip_jax.runtime.environment import start_backend

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

# OpenCLIP's activation is the exact GELU, but for weights by OpenAI, MetaCLIP and DFN.
_OPEN_B16 = CLIPConfig(quick_gelu=False)
_DINO_S8 = DINOConfig(width=384, heads=6)
_HIERA_T = SAM2Config(
    width=96, heads=1, stages=(1, 2, 7, 2), global_blocks=(5, 7, 9), window_sizes=(8, 4, 14, 7)
)

# CorrCLIPv2 with the published backbone. Its paper's regions are EntitySeg's, whose weights are not open.
_V2 = with_fields(
    Config(dino=None, sam2=None, radio=RadioConfig(), eomt=EoMTConfig(), similarity="radio"),
    regions={"source": "eomt"},
    method={"similarity_of": "image"},
    parts={"merging": False},
)
_V2_OPEN = {
    "radio": None,
    "eomt": None,
    "dinov2": DINOv2Config(),
    "sam2": SAM2Config(),
    "similarity": "dinov2",
}

# DINO B/8 and SAM 2 Hiera-L are the defaults. The registry says where each network comes from.
PRESETS: dict[str, Config] = {
    "vit-b": Config(name="vit-b"),
    "vit-l": Config(name="vit-l", clip=_L14),
    "vit-h": Config(name="vit-h", clip=_H14),
    "open-b": Config(name="open-b", clip=_OPEN_B16),
    "fast-b": Config(name="fast-b", clip=_OPEN_B16, dino=_DINO_S8, sam2=_HIERA_T),
    "v2-b": with_fields(_V2, name="v2-b"),
    "v2-l": with_fields(_V2, name="v2-l", clip=_L14),
    "v2-open": with_fields(_V2, name="v2-open", clip=_OPEN_B16, regions={"source": "sam2"}, **_V2_OPEN),
}


class Model(NamedTuple):
    """A model that `load` knows by name.

    Attributes:
      name: what `load` takes.
      titles: of its networks, by family.
      licences: of their weights, by family.
      converted: whether `load` need only read.
      megabytes: the size of its files on the hub, approximately; 0 for the embedded one.
    """

    name: str
    titles: dict[str, str]
    licences: dict[str, str]
    converted: bool
    megabytes: float


def available_models() -> list[Model]:
    """The models that `load` knows by name, the embedded one first."""
    own = {"clip": "Tiny CLIP ViT/4", "dino": "Tiny DINO ViT/4", "sam2": "Tiny SAM 2"}
    licences = dict.fromkeys(own, "Apache-2.0")
    models = [Model(name, own, licences, is_complete(EMBEDDED_FOLDER), 0.0) for name in EMBEDDED_MODELS]
    for name in PRESETS:
        parts = preset_models(name)
        titles = {family: part.title for family, part in parts.items()}
        licences = {family: part.licence for family, part in parts.items()}
        size = sum(part.megabytes for part in parts.values())
        models.append(Model(name, titles, licences, is_complete(model_place(name)), size))
    return models


def load(
    model: str | Path, *, dtype: DtypeChoice | None = None, region_network: str | None = "all"
) -> tuple[Config, Params]:
    """Configuration and parameters of a model: a name of `available_models`, or a folder.

    "tiny" and "tiny-v2" are part of the package. Other models are downloaded by name and converted at first use;
    sizes and licences are printed before. A folder is a converted one, or holds checkpoints of published layout,
    which are converted once. Downloads are kept in the cache of huggingface_hub, conversions in `weights_home()`;
    networks that several models share are downloaded and converted once.

    Args:
      model: the name or the folder.
      dtype: the networks' compute type, in place of the configuration's; "auto" takes the one that suits the
        devices.
      region_network: the one network of regions to load, "sam2" for instance, which becomes the source of regions.
        Models with a name take any published network ("eomt", "sam2.1-t": see `corrclip models`), folders and
        "tiny" one that they have. None loads none, for given region maps or superpixels; "all" loads every network
        that the model has.

    Returns:
      The configuration and the parameters, nested dicts of JAX arrays with a subtree a network.

    Raises:
      ValueError: for what is neither; for checkpoints that cannot be converted (`ConversionError`); for a
        network of regions that the model does not have.
      FileNotFoundError: where weights are not here and cannot be downloaded: which files to place where; where the
        embedded weights are missing or damaged.
      BackendError: where JAX cannot start the platform that it was told to use.
    """
    config, params = load_lazily(model, region_network=region_network)
    return (config if dtype is None else with_fields(config, dtype=resolve(dtype))), {**params}


def load_lazily(model: str | Path, *, region_network: str | None = "all") -> tuple[Config, LazyParams]:
    """As `load`, but the parameters are read when they are first needed.

    A model that is not here is downloaded and converted at once.
    """
    _check_region_network(model, region_network)
    family = source_family(region_network) if region_network else None
    start_backend()
    if model in EMBEDDED_MODELS:
        return _embedded(str(model), family)
    if model in PRESETS:
        folder = _prepare_preset(str(model), region_network)
    elif Path(model).is_dir():
        folder = _prepare_folder(Path(model))
    else:
        names = [*EMBEDDED_MODELS, *PRESETS]
        raise ValueError(
            f"model must be one of {', '.join(names)}, or a folder that holds a converted model or "
            f"checkpoints in published layout. Got {str(model)!r}.{did_you_mean(str(model), names)}"
        )
    found = describe(folder, region_network=family)
    return found.config, LazyParams(found.trees, lambda: read(folder, region_network=family)[1])


def as_embedded(config: Config, name: str) -> Config:
    """The configuration of the embedded model under one of its names."""
    return with_fields(config, **V2_FIELDS) if name == EMBEDDED_V2 else config


def prepare(model: str, region_network: str | None = "all") -> Path:
    """Download and convert a model with a name ahead of time; `load` with the same arguments need only read.

    Args:
      model: a name of `available_models`, but for the embedded ones.
      region_network: as for `load`.

    Returns:
      The model folder.

    Raises:
      ValueError, FileNotFoundError: as `load`.
    """
    if model not in PRESETS:
        raise ValueError(f"model must be one of {', '.join(PRESETS)}. Got {model!r}.")
    _check_region_network(model, region_network)
    return _prepare_preset(model, region_network)


def _check_region_network(model: str | Path, name: str | None) -> None:
    """Refuse a published network of regions that does not exist, or that the model cannot be given."""
    if name in (None, "all", *families("regions")):
        return
    published = region_models()
    if name not in published:
        hint = did_you_mean(str(name), published)
        raise ValueError(f"a network of regions must be one of {', '.join(published)}. Got {name!r}.{hint}")
    if model not in PRESETS:
        raise ValueError(
            f"{name} is a published network, which can be given to {', '.join(PRESETS)} alone. For {str(model)!r}, "
            "choose a network that it has, or convert a model with the networks that you want."
        )


def _embedded(name: str, region_network: str | None) -> tuple[Config, LazyParams]:
    config, trees, _ = _whole(describe, EMBEDDED_FOLDER)
    config = as_embedded(config, name)
    if region_network != "all":
        config = select_regions(config, region_network)
    needed = {name: trees[name] for name in networks_of(config)}
    return config, LazyParams(needed, lambda: _whole(read, EMBEDDED_FOLDER, region_network=region_network)[1])


def _whole(step: Callable[..., Any], folder: Path, **options: Any) -> Any:
    """What a step reads of the embedded model, whose damage is that of the installation."""
    try:
        return step(folder, **options)
    except (OSError, ValueError) as error:
        state = "damaged" if is_complete(folder) else "missing"
        raise FileNotFoundError(
            f"The weights of the embedded model are {state} ({folder}): this installation is broken. "
            "Install corrclip-jax again; in a checkout, restore weights/tiny and the link corrclip_jax/weights."
        ) from error


def _prepare_folder(folder: Path) -> Path:
    """The converted form of a folder: itself, or the conversion of its checkpoints, made where there is none."""
    if (folder / DESCRIPTION).is_file():
        return folder
    files = checkpoint_files(folder)
    if not files:
        raise ConversionError(
            f"{folder} holds neither a converted model ({DESCRIPTION}) nor checkpoints ({', '.join(SUFFIXES)})."
        )
    # Names, sizes and times stand for the content, which would take seconds to read.
    stats = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    place, state = (_digest(x) for x in (str(folder.resolve()), repr(stats)))
    one = model_place(f"{folder.resolve().name}-{place}")
    out = one.with_name(f"{one.name}-{state}")
    if is_complete(out):
        return out
    from corrclip_jax.hub.download import vocabulary_here  # loads the hub's client: half a second
    from corrclip_jax.hub.locks import locked

    with locked(one):
        if not is_complete(out):
            convert_folder(folder, out, name=folder.resolve().name, spare_vocabulary=vocabulary_here())
            for outdated in out.parent.glob(f"{glob.escape(one.name)}-*"):
                if outdated != out:
                    shutil.rmtree(outdated)
    return out


def _prepare_preset(name: str, regions: str | None) -> Path:
    """The model folder of a preset with the networks asked for; what is not here is downloaded and converted."""
    from corrclip_jax.hub.parts import assemble  # loads the hub's client

    config, parts, whole = PRESETS[name], preset_models(name), model_place(name)
    own = {family: one for family, one in parts.items() if family in families("regions")}
    one = None if regions is None else own.get(regions, region_models().get(regions))
    if regions == "all" or one in own.values() or (one is None and is_complete(whole)):
        return assemble(whole, config, parts, None, to_stderr)
    if one is None and regions is not None:
        select_regions(config, regions)  # raises: neither the preset nor the registry has this network
    folder, config = model_place(f"{name}+{regions or 'none'}"), select_regions(config, None)
    needed = {family: part for family, part in parts.items() if family not in own}
    if one is None:
        return assemble(folder, config, needed, None, to_stderr)
    return assemble(folder, config, needed | {one.family: one}, one.family, to_stderr)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]
