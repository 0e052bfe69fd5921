"""Registry of published files, `weights/registry.json`: where they are and under which licence."""

import itertools
import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

REGISTRY = Path(__file__).parents[1] / "weights" / "registry.json"


@dataclass(frozen=True)
class Published:
    """One published model.

    `repository` and `file` are its place on the Hugging Face hub; `also` holds further repositories and file names
    of the same weights or settings. `quick_gelu` and `head_width` are a CLIP's, None for the other families.
    `size` (bytes) and `sha256` are those of `file`, None where nobody has noted them.
    """

    key: str
    title: str
    repository: str
    file: str
    layout: str
    licence: str
    also: tuple[str, ...]
    quick_gelu: bool | None = None
    head_width: int | None = None
    size: int | None = None
    sha256: str | None = None

    @property
    def family(self) -> str:
        """The network family, such as "clip", "dino" or "sam2"."""
        return self.key.split("/")[0]


@lru_cache(maxsize=1)
def _content() -> dict:
    return json.loads(REGISTRY.read_text("utf-8"))


@lru_cache(maxsize=1)
def published_models() -> dict[str, Published]:
    """All published models by key ("clip/metaclip-b16")."""
    return {
        key: Published(key=key, **entry | {"also": tuple(entry["also"])})
        for key, entry in _content()["models"].items()
    }


def preset_models(preset: str) -> dict[str, Published]:
    """The published models of a preset by family; `KeyError` for a name that is no preset."""
    return {family: published_models()[key] for family, key in _content()["presets"][preset].items()}


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
        (entry for entry in published_models().values() if places & {entry.repository, *entry.also}), None
    )
