"""Model folders on disk: trees, vocabulary, description. No torch.

A converted model is a folder: one Orbax tree per network (`clip/`, `dino/`, `sam2/`), the CLIP
vocabulary (`vocabulary/`) and `corrclip.json`, which holds the configuration and where the weights come from. A
tree may lie elsewhere, in the folder of a part that several models share: `corrclip.json` names it (`networks`).
"""

import json
import logging
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from corrclip_jax.config import (
    FAMILIES,
    Config,
    NetworkConfig,
    from_dict,
    networks_of,
    select_regions,
    to_dict,
    with_fields,
)
from corrclip_jax.io.files import atomic_folder
from corrclip_jax.params.file_names import DESCRIPTION, OWN_NAMES, PART, VOCABULARY
from corrclip_jax.params.structure import Params, check_params
from corrclip_jax.runtime.environment import versions

FORMAT, FORMAT_OF_PARTS = 1, 2
"""Formats of `corrclip.json`: every tree in the folder; trees elsewhere, named by `networks`."""


def save(
    path: str | Path, params: Mapping[str, Any], config: Config, *, sources: Mapping[str, Any] | None = None
) -> Path:
    """Write parameters and configuration as a converted model; `config.vocabulary` is copied into it.

    `sources` says where each network comes from (any JSON). The folder appears whole or not at all, and takes the
    place of a model that is there; other files in that folder are kept.

    Raises:
      ValueError: for params that do not fit config.
      OSError: where the folder cannot be written.
    """
    check_params(config, params)
    with atomic_folder(Path(path), OWN_NAMES) as folder:
        for name in networks_of(config):
            write_network(folder, name, params[name])
        write_description(folder, config, sources or {})
    return Path(path)


def write_network(folder: Path, name: str, params: Mapping[str, Any]) -> None:
    """Write one network's tree into the folder of a converted model."""
    import orbax.checkpoint as ocp  # takes a second, which evaluations that are finished do not need

    types = ocp.type_handlers
    # By default Orbax copies every array first, which is needless here; and weights hardly compress.
    registry = types.create_type_handler_registry(
        (np.ndarray, types.NumpyHandler(deepcopy_host_arrays=False)), (jax.Array, types.ArrayHandler())
    )
    handler = ocp.PyTreeCheckpointHandler(use_compression=False, type_handler_registry=registry)
    try:
        with _quiet(), ocp.Checkpointer(handler) as checkpointer:
            tree = jax.tree.map(np.asarray, params)
            checkpointer.save((folder / name).absolute(), args=ocp.args.PyTreeSave(tree))
    except (ValueError, RuntimeError) as error:  # from tensorstore, for instance for a full disk
        reason = re.search(r"([^:]+) \[os_error_code", str(error))
        raise OSError(reason[1].strip() if reason else str(error).split("\n")[0]) from error


def write_description(
    folder: Path, config: Config, sources: Mapping[str, Any], networks: Mapping[str, str] | None = None
) -> None:
    """Copy the vocabulary and write `corrclip.json`: the last step, which makes the folder a model folder.

    `networks` are the folders of trees that lie elsewhere, relative to the model's own, by network.
    """
    if config.vocabulary is not None:
        copy_vocabulary(Path(config.vocabulary), folder / VOCABULARY)
        config = with_fields(config, vocabulary=VOCABULARY)
    content = {"format": FORMAT_OF_PARTS if networks else FORMAT, "config": to_dict(config)}
    content |= {"networks": dict(networks)} if networks else {}
    _write_json(folder / DESCRIPTION, content | {"sources": dict(sources)})


class Part(NamedTuple):
    """A converted network by itself, which several models share: its folder, configuration, and source."""

    folder: Path
    family: str
    config: NetworkConfig
    source: dict[str, Any]

    @property
    def tree(self) -> Path:
        """The folder of its parameters."""
        return self.folder / self.family


def write_part(folder: Path, family: str, config: NetworkConfig, source: Mapping[str, Any]) -> None:
    """Write `part.json`: the last step, which makes the folder with a tree (`write_network`) a part."""
    content = {"format": FORMAT, "family": family, "config": to_dict(config), "source": dict(source)}
    _write_json(folder / PART, content)


def read_part(folder: Path) -> Part | None:
    """The part in a folder; None where there is none that can be read, so that it has to be made again."""
    try:
        content = json.loads((folder / PART).read_text("utf-8"))
        family = content["family"]
        config = from_dict(FAMILIES[family].config, content["config"])
        part = Part(folder, family, config, content["source"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return part if content["format"] == FORMAT and part.tree.is_dir() else None


def _write_json(file: Path, content: Mapping[str, Any]) -> None:
    made_with = versions("python", "corrclip-jax", "jax", "flax", "orbax-checkpoint", "numpy")
    file.write_text(json.dumps({**content, "versions": made_with}, indent=1) + "\n", "utf-8")


def copy_vocabulary(source: Path, target: Path) -> None:
    """Copy a vocabulary (a file, or the folder of a repository) so that `Tokenizer.load(target)` finds it."""
    target.mkdir()
    if source.is_dir():
        names = ("tokenizer.json", "vocab.json", "merges.txt")
        for file in (*(source / name for name in names), *source.glob("*bpe_simple_vocab_16e6.txt.gz")):
            if file.is_file():
                shutil.copyfile(file, target / file.name)
    elif source.name == "vocab.json":
        for name in ("vocab.json", "merges.txt"):
            shutil.copyfile(source.parent / name, target / name)
    else:
        is_json = source.suffix == ".json"
        shutil.copyfile(source, target / ("tokenizer.json" if is_json else "bpe_simple_vocab_16e6.txt.gz"))


def is_complete(folder: Path) -> bool:
    """Whether a folder is a converted model whose parts are all there; other damage shows when it is read."""
    if not (folder / DESCRIPTION).is_file():
        return False
    try:
        elsewhere = read_description(folder).get("networks", {})
    except (OSError, ValueError):
        return True
    return all((folder / place).is_dir() for place in elsewhere.values())


def read_description(path: str | Path) -> dict[str, Any]:
    """The content of `corrclip.json`.

    Raises:
      FileNotFoundError: if the folder holds no converted model.
      ValueError: if the file is damaged, or its format is unknown to this version.
    """
    file = Path(path) / DESCRIPTION
    if not file.is_file():
        raise FileNotFoundError(
            f"{path} holds no converted model ({DESCRIPTION} is not in it). Convert one with `corrclip convert`."
        )
    try:
        content = json.loads(file.read_text("utf-8"))
        known = content["format"] in (FORMAT, FORMAT_OF_PARTS)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is damaged ({error}). Convert the model again.") from error
    if not known:
        raise ValueError(
            f"{file} has format {content['format']}, this version reads formats {FORMAT} and {FORMAT_OF_PARTS}. "
            "Convert the model again."
        )
    return content


class Model(NamedTuple):
    """A converted model: configuration, parameters (JAX arrays), and where each network's weights come from."""

    config: Config
    params: Params
    sources: dict[str, Any]


def read(path: str | Path, *, region_network: str | None = "all") -> tuple[Config, Params]:
    """Configuration and parameters of a converted model; see `read_model`."""
    model = read_model(path, region_network=region_network)
    return model.config, model.params


def sources_of(config: Config) -> dict[str, Any]:
    """Where the weights of a model come from, by network, as `corrclip.json` says; {} where nothing is known.

    Args:
      config: as `read` gives it: its vocabulary lies in the model folder. A model without a vocabulary, or one
        whose vocabulary lies elsewhere, has no known sources.
    """
    if config.vocabulary is None:
        return {}
    for folder in list(Path(config.vocabulary).parents)[:2]:  # the vocabulary is a folder, or a file in one
        if (folder / DESCRIPTION).is_file():
            return read_description(folder).get("sources", {})
    return {}


class Description(NamedTuple):
    """A converted model whose parameters are not read: configuration, the folders of its trees, their sources."""

    config: Config
    trees: dict[str, Path]
    sources: dict[str, Any]


def describe(path: str | Path, *, region_network: str | None = "all") -> Description:
    """What a model folder says of the model; arguments and errors as for `read_model`."""
    path = Path(path).absolute()
    description = read_description(path)
    config = from_dict(Config, description["config"])
    if config.vocabulary is not None:
        config = with_fields(config, vocabulary=str(path / config.vocabulary))
    if region_network != "all":
        config = select_regions(config, region_network)
    elsewhere = description.get("networks", {})
    trees = {name: (path / elsewhere.get(name, name)).resolve() for name in networks_of(config)}
    return Description(config, trees, description.get("sources", {}))


class LazyParams(Mapping[str, Any]):
    """Parameters by network, all of which are read when one is first asked for.

    Attributes:
      trees: the folder of each network's tree.
    """

    def __init__(self, trees: Mapping[str, Path], read: Callable[[], Mapping[str, Any]]):
        self.trees, self._read = dict(trees), read

    @cached_property
    def _params(self) -> Mapping[str, Any]:
        return self._read()

    def __getitem__(self, network: str) -> Any:
        if network not in self.trees:
            raise KeyError(network)
        return self._params[network]

    def __iter__(self) -> Iterator[str]:
        return iter(self.trees)

    def __len__(self) -> int:
        return len(self.trees)


def read_model(path: str | Path, *, region_network: str | None = "all") -> Model:
    """Read a converted model.

    Args:
      path: the model folder.
      region_network: the region network to read, which becomes the source of regions; None for none, "all" for all
        that the model has.

    Raises:
      FileNotFoundError: if the folder holds no converted model.
      ValueError: if its files are damaged or incomplete, or do not fit its configuration; if it does not have this
        network.
    """
    config, trees, sources = describe(path, region_network=region_network)
    params = {name: read_tree(tree) for name, tree in trees.items()}
    check_params(config, params)
    return Model(config, params, sources)


def read_tree(path: Path, subtree: str | None = None) -> Params:
    """The parameters of one network (`write_network`), or those below one name of it, under that name.

    Raises:
      ValueError: if they are damaged or missing.
    """
    # The default one, however it was set; where there is none, JAX says why.
    device = jax.device_put(np.float32(0)).sharding
    try:
        return _read_network(path, device, subtree)
    except (jax.errors.JaxRuntimeError, MemoryError):
        raise  # the device's trouble, not the file's
    except Exception as error:  # Orbax raises nothing narrower for a damaged file
        reason = str(error).split("\n")[0].split(". See full")[0]
        raise ValueError(f"{path} is damaged or missing ({reason}). Convert the model again.") from error


def _read_network(path: Path, device: jax.sharding.Sharding, subtree: str | None) -> Params:
    import orbax.checkpoint as ocp

    if not path.is_dir():
        raise FileNotFoundError("there is no such folder")
    with _quiet(), ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        if (metadata := checkpointer.metadata(path).item_metadata) is None:
            raise ValueError("its metadata cannot be read")
        wanted = metadata.tree if subtree is None else {subtree: metadata.tree[subtree]}
        # Restored as JAX arrays, since NumPy arrays would be copied again to the device.
        arguments = jax.tree.map(
            lambda _: ocp.ArrayRestoreArgs(restore_type=jax.Array, sharding=device), wanted
        )
        part = {} if subtree is None else {"item": wanted, "partial_restore": True}
        return checkpointer.restore(path, args=ocp.args.PyTreeRestore(restore_args=arguments, **part))


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the log of Orbax, which repeats in every thread the errors that it raises."""
    log = logging.getLogger("absl")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(level)
