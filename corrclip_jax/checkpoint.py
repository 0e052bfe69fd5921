"""Read, write and check parameter trees. No torch.

A converted model is a folder: one Orbax tree a tower (`clip/`, `dino/`, what finds regions as `sam2/`), the CLIP
vocabulary (`vocabulary/`) and `corrclip.json`, which holds the configuration and where the weights come from.
"""

import importlib.metadata
import json
import logging
import math
import platform
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from corrclip_jax.config import (
    CLIPConfig,
    Config,
    DINOConfig,
    EoMTConfig,
    Mask2FormerConfig,
    SAM1Config,
    SAM2Config,
    from_dict,
    to_dict,
    with_fields,
)
from corrclip_jax.folders import new_folder
from corrclip_jax.models.clip import CLIP
from corrclip_jax.models.dino import DINO
from corrclip_jax.models.eomt import EoMT
from corrclip_jax.models.mask2former import Mask2Former
from corrclip_jax.models.sam1 import SAM1
from corrclip_jax.models.sam2 import SAM2
from corrclip_jax.trees import differences, shapes_by_path

TowerConfig = CLIPConfig | DINOConfig | SAM2Config | SAM1Config | EoMTConfig | Mask2FormerConfig
Params = dict[str, Any]

REGION_TOWERS = ("sam2", "sam1", "eomt", "mask2former")  # what finds regions; a configuration may have none
TOWERS = ("clip", "dino", *REGION_TOWERS)
_CONSTANTS = {"scale": 1.0, "bias": 0.0, "lambda1": 1.0, "attn_mask_probs": 0.0}
DESCRIPTION = "corrclip.json"
VOCABULARY = "vocabulary"
FORMAT = 1


@lru_cache(maxsize=32)
def expected_tower(config: TowerConfig) -> Params:
    """The parameter tree of one tower as `jax.ShapeDtypeStruct` leaves; nothing is computed.

    Callers share the tree: do not change it.
    """
    key = jax.eval_shape(lambda: jax.random.key(0))
    match config:
        case CLIPConfig():
            tokens = jax.ShapeDtypeStruct((1, config.text.context_length), jnp.int32)
            shapes = jax.eval_shape(CLIP(config).init, key, _images(config.vision.image_size), tokens)
        case DINOConfig():
            shapes = jax.eval_shape(DINO(config).init, key, _images(config.image_size))
        case SAM2Config():
            shapes = jax.eval_shape(SAM2(config).init, key, _images(config.image_size))
        case SAM1Config():
            shapes = jax.eval_shape(SAM1(config).init, key, _images(config.image_size))
        case EoMTConfig():
            shapes = jax.eval_shape(EoMT(config).init, key, _images(config.image_size))
        case Mask2FormerConfig():
            shapes = jax.eval_shape(Mask2Former(config).init, key, _images(config.image_size))
    return shapes["params"]


def expected_params(config: Config) -> Params:
    """The parameter tree of the whole program as `jax.ShapeDtypeStruct` leaves, a subtree a tower."""
    return {name: expected_tower(tower) for name, tower in towers_of(config).items()}


def towers_of(config: Config) -> dict[str, TowerConfig]:
    """The towers' configurations by name, of those that the configuration has."""
    towers = {name: getattr(config, name) for name in TOWERS}
    return {name: tower for name, tower in towers.items() if tower is not None}


def check_params(config: Config, params: Mapping[str, Any], *, region_tower: str | None = "all") -> None:
    """Check that a parameter tree is the configuration's.

    `region_tower` is the one tower of `REGION_TOWERS` that must be there (None: not one), the others may be there
    or not; "all": all that the configuration has, and no other. Leaves need a `shape` only: arrays, tracers and
    `jax.ShapeDtypeStruct` will do.

    Raises:
      ValueError: lists every leaf that is missing, left over or of another shape.
    """
    free = () if region_tower == "all" else tuple(name for name in REGION_TOWERS if name != region_tower)
    got = shapes_by_path({name: tree for name, tree in params.items() if name not in free})
    wanted = _expected_shapes(with_fields(config, **dict.fromkeys(free)))
    if wanted != got:
        raise ValueError(
            "params do not fit config; load both from the same model.\n" + differences(wanted, got)
        )


@lru_cache(maxsize=8)
def _expected_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    return shapes_by_path(expected_params(config))


def init_params(config: Config, seed: int = 0) -> Params:
    """Random parameters, for benchmarks and tests: factors 1, biases 0, kernels scaled by their fan-in.

    Drawn with NumPy, which takes a few seconds at full size where Flax's initialisers take minutes.
    """
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        name, parent = (str(part.key) for part in (path[-1], path[-2]))
        if name in _CONSTANTS:
            return jnp.full(leaf.shape, _CONSTANTS[name], jnp.float32)
        deviation = 0.02
        if name == "kernel":
            heads_apart = len(leaf.shape) == 3 and parent != "out"
            deviation = math.prod(leaf.shape[:1] if heads_apart else leaf.shape[:-1]) ** -0.5
        values = rng.random(leaf.shape, np.float32)  # uniform: several times faster than normal
        return jnp.asarray((values - np.float32(0.5)) * np.float32(deviation * 12**0.5))

    return jax.tree_util.tree_map_with_path(draw, expected_params(config))


def save(
    path: str | Path, params: Mapping[str, Any], config: Config, *, sources: Mapping[str, Any] | None = None
) -> Path:
    """Write parameters and configuration as a converted model; `config.vocabulary` is copied into it.

    `sources` says where each tower comes from (any JSON). The folder appears whole or not at all, and takes the
    place of one that is there.

    Raises:
      ValueError: for params that do not fit config.
      OSError: where the folder cannot be written.
    """
    check_params(config, params)
    with new_folder(Path(path)) as folder:
        for name in towers_of(config):
            write_tower(folder, name, params[name])
        write_description(folder, config, sources or {})
    return Path(path)


def write_tower(folder: Path, name: str, params: Mapping[str, Any]) -> None:
    """Write one tower's tree into the folder of a converted model."""
    types = ocp.type_handlers
    # Orbax's own handler first copies every array; nobody changes these meanwhile. Weights hardly compress.
    registry = types.create_type_handler_registry(
        (np.ndarray, types.NumpyHandler(deepcopy_host_arrays=False)), (jax.Array, types.ArrayHandler())
    )
    handler = ocp.PyTreeCheckpointHandler(use_compression=False, type_handler_registry=registry)
    try:
        with _quiet(), ocp.Checkpointer(handler) as checkpointer:
            tree = jax.tree.map(np.asarray, params)
            checkpointer.save((folder / name).absolute(), args=ocp.args.PyTreeSave(tree))
    except (ValueError, RuntimeError) as error:  # tensorstore's own, for a full disk among others
        reason = re.search(r"([^:]+) \[os_error_code", str(error))
        raise OSError(reason[1].strip() if reason else str(error).split("\n")[0]) from error


def write_description(folder: Path, config: Config, sources: Mapping[str, Any]) -> None:
    """Write `corrclip.json` and copy the vocabulary; the last step, without it a folder is no model."""
    if config.vocabulary is not None:
        copy_vocabulary(Path(config.vocabulary), folder / VOCABULARY)
        config = with_fields(config, vocabulary=VOCABULARY)
    packages = ("corrclip-jax", "jax", "flax", "orbax-checkpoint", "numpy")
    content = {
        "format": FORMAT,
        "config": to_dict(config),
        "sources": dict(sources),
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in packages},
    }
    (folder / DESCRIPTION).write_text(json.dumps(content, indent=1) + "\n", "utf-8")


def copy_vocabulary(source: Path, target: Path) -> None:
    """Copy a vocabulary (a file, or a repository's folder) so that `Tokenizer.load(target)` finds it."""
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


def read_description(path: str | Path) -> dict[str, Any]:
    """The content of `corrclip.json`.

    Raises:
      FileNotFoundError: where the folder holds no converted model.
      ValueError: for a file that is damaged or of a format that this version does not know.
    """
    file = Path(path) / DESCRIPTION
    if not file.is_file():
        raise FileNotFoundError(
            f"{path} holds no converted model ({DESCRIPTION} is not in it). Convert one with `corrclip convert`."
        )
    try:
        content = json.loads(file.read_text("utf-8"))
        known = content["format"] == FORMAT
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is damaged ({error}). Convert the model again.") from error
    if not known:
        raise ValueError(
            f"{file} has format {content['format']}, this version reads format {FORMAT}. Convert the model again."
        )
    return content


def read(path: str | Path, *, sam2: bool = True) -> tuple[Config, Params]:
    """Configuration and parameters (JAX arrays) of a converted model; with `sam2` False, without that tower.

    Raises:
      FileNotFoundError: where the folder holds no converted model.
      ValueError: where what it holds is damaged, incomplete, or does not fit its own configuration.
    """
    path = Path(path).absolute()
    config = from_dict(Config, read_description(path)["config"])
    if config.vocabulary is not None:
        config = with_fields(config, vocabulary=str(path / config.vocabulary))
    if not sam2:
        config = with_fields(config, sam2=None)
    params = {}
    for name in towers_of(config):
        try:
            params[name] = _read_tower(path / name)
        except Exception as error:  # Orbax raises nothing narrower for a damaged file
            reason = str(error).split("\n")[0].split(". See full")[0]
            raise ValueError(
                f"{path / name} is damaged or missing ({reason}). Convert the model again."
            ) from error
    check_params(config, params)
    return config, params


def _read_tower(path: Path) -> Params:
    if not path.is_dir():
        raise FileNotFoundError("there is no such folder")
    device = jnp.zeros(()).sharding  # the default one, whatever sets it
    with _quiet(), ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        if (metadata := checkpointer.metadata(path).item_metadata) is None:
            raise ValueError("its metadata cannot be read")
        # Restored as JAX arrays: NumPy arrays would be copied once more on their way to the device.
        arguments = jax.tree.map(
            lambda _: ocp.ArrayRestoreArgs(restore_type=jax.Array, sharding=device), metadata.tree
        )
        return checkpointer.restore(path, args=ocp.args.PyTreeRestore(restore_args=arguments))


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Orbax's log, which prints what it raises as well, once a thread."""
    log = logging.getLogger("absl")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(level)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # a plain checkout on the path
        return None


def _images(size: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
