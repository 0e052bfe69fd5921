"""Registry of published checkpoints, `weights/registry.json`: where they are, how large, under which licence."""

import itertools
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from corrclip_jax.config.regions import RegionSource, region_sources
from corrclip_jax.config.suggestions import did_you_mean

REGISTRY = Path(__file__).parents[1] / "weights" / "registry.json"


class Repository(NamedTuple):
    """A repository of the Hugging Face hub, and the files of a model that it may hold, the best one first."""

    name: str
    files: tuple[str, ...]

    @property
    def url(self) -> str:
        """Its page."""
        return f"https://huggingface.co/{self.name}"


@dataclass(frozen=True)
class Published:
    """One published model.

    Attributes:
      key: its name in the registry, "dino/vitb8" for instance; the part before the slash is its family.
      title: the name for people.
      repositories: where it is, the first choice first. All hold the same weights, in one layout or another.
      licence: of the weights.
      megabytes: the size of one file of weights, approximately (10 ** 6 bytes).
      also: names under which its file is published elsewhere.
      quick_gelu: a CLIP's activation; None for the other families.
      head_width: that of a CLIP's image tower; None for the other families.
    """

    key: str
    title: str
    repositories: tuple[Repository, ...]
    licence: str
    megabytes: float
    also: tuple[str, ...] = ()
    quick_gelu: bool | None = None
    head_width: int | None = None

    @property
    def family(self) -> str:
        """The network family, such as "clip", "dino" or "sam2"."""
        return self.key.split("/")[0]

    @property
    def repository(self) -> str:
        """The name of the repository that is the first choice."""
        return self.repositories[0].name

    @property
    def file(self) -> str:
        """The file that is the first choice there."""
        return self.repositories[0].files[0]

    @property
    def terms(self) -> str:
        """The licence as messages show it."""
        return f"{self.licence} (no commercial use)" if "-NC" in self.licence else self.licence


@lru_cache(maxsize=1)
def _content() -> dict:
    return json.loads(REGISTRY.read_text("utf-8"))


@lru_cache(maxsize=1)
def published_models() -> dict[str, Published]:
    """All published models by key ("clip/metaclip-b16")."""
    models = {}
    for key, entry in _content()["models"].items():
        places = tuple(Repository(name, tuple(files)) for name, files in entry["repositories"].items())
        parsed = {
            "repositories": places,
            "also": tuple(entry.get("also", ())),
            "megabytes": float(entry["megabytes"]),
        }
        models[key] = Published(key=key, **entry | parsed)
    return models


def preset_names() -> list[str]:
    """The names of all models that are made of published networks."""
    return list(_content()["presets"])


def preset_models(preset: str) -> dict[str, Published]:
    """The published models of a preset by family; `KeyError` for a name that is no preset."""
    return {family: published_models()[key] for family, key in _content()["presets"][preset].items()}


def region_models() -> dict[str, Published]:
    """The published networks of regions by the names that `--regions` takes ("eomt", "sam2.1-t")."""
    return {name: published_models()[key] for name, key in _content()["regions"].items()}


def source_names() -> list[str]:
    """The names of all sources of regions: the families, those without weights, and the published networks."""
    return list(dict.fromkeys([*region_sources(), *region_models()]))


def source_or_folder(
    regions: str | os.PathLike, *, name: str = "regions", also: Sequence[str] = ()
) -> tuple[RegionSource, Path | None]:
    """Where regions come from: a source (or a published network, "sam2.1-t"), or a folder of region maps.

    Args:
      regions: what was given.
      name: what it was given as, for the message.
      also: further names that stand for no folder.

    Returns:
      The source and None; or "none", since nothing is left to find, and the folder.

    Raises:
      ValueError: for what is neither, with the nearest name.
    """
    text = os.fspath(regions)
    if text in also or text in source_names():
        return text, None
    if Path(text).is_dir():
        return "none", Path(text)
    raise ValueError(
        f"{name} must be one of {', '.join([*region_sources(), *also])}, a published network (sam2.1-t; see "
        f"corrclip models), or a folder of region maps. {text!r} is no folder."
        f"{did_you_mean(text, [*source_names(), *also])}"
    )


def vocabulary_repository() -> str:
    """A repository with CLIP's vocabulary, which all CLIPs here share, for those that come without."""
    return _content()["vocabulary"]


def recognise(path: Path) -> Published | None:
    """The published model that a file is by its place: `.../<owner>/<name>/<file>`, or as the hub's cache has it.

    A file elsewhere is recognised by a name that is its own (`dino_vitbase8_pretrain.pth`), others are not.
    """
    folders = [part.removeprefix("models--").replace("--", "/") for part in path.absolute().parts[:-1]]
    places = {
        *folders,
        *(f"{owner}/{name}" for owner, name in itertools.pairwise(folders)),
        path.name,
    }
    return next(
        (
            entry
            for entry in published_models().values()
            if places & {*(place.name for place in entry.repositories), *entry.also}
        ),
        None,
    )
