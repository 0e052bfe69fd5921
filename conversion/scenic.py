"""Exchange with scenic (github.com/google-research/scenic): trees of its CLIP (projects/baselines/clip).

Names and shapes are ours, but for the blocks: `resblocks.0` there, or `resblocks_0` where the module is made with
`use_underscore_module_name`. So nothing is computed, and a round trip gives back every bit. What scenic's module
would compute otherwise than ours is refused, not written: see the table in weights/README.md.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import serialization

from corrclip_jax.checkpoint import expected_tower
from corrclip_jax.config import CLIPConfig
from corrclip_jax.conversion.rules import ConversionError
from corrclip_jax.output import whole_file
from corrclip_jax.trees import differences, shapes_by_path

_BLOCK = re.compile(r"resblocks[._](\d+)")


def clip_settings(config: CLIPConfig) -> dict[str, Any]:
    """The arguments with which scenic's module `layers.CLIP` is this CLIP.

    Raises:
      ConversionError: where no arguments are: exact GELU, an MLP that is not four times as wide.
    """
    faults = []
    if not config.quick_gelu:
        faults.append("scenic's MLP has QuickGELU, this CLIP (LAION's, H/14 among them) has the exact GELU")
    for name, tower in (("image", config.vision), ("text", config.text)):
        if tower.mlp_ratio != 4:
            faults.append(f"scenic's MLP is 4 times as wide, the {name} tower's is {tower.mlp_ratio} times")
    if faults:
        raise ConversionError(f"scenic's modules cannot be this CLIP: {'; '.join(faults)}.")
    return {
        "vocab_size": config.text.vocab_size,
        "embed_dim": config.embed_dim,
        "text_features": config.text.width,
        "text_num_layers": config.text.layers,
        "text_num_heads": config.text.heads,
        "vision_features": config.vision.width,
        "vision_num_layers": config.vision.layers,
        "vision_head_dim": config.vision.head_width,
        "vision_patch_size": config.vision.patch_size,
    }


def clip_to_scenic(
    params: Mapping[str, Any], config: CLIPConfig, *, underscore: bool = False
) -> dict[str, dict[str, Any]]:
    """Our CLIP tree (`load`'s params["clip"]) as variables of scenic's module, {"params": ...}; arrays are shared.

    Raises:
      ConversionError: for a CLIP that scenic's module cannot be, or params that are not the configuration's.
    """
    clip_settings(config)
    _check(params, config, "params")
    return {"params": _renamed(params, rf"resblocks{'_' if underscore else '.'}\1")}


def clip_from_scenic(variables: Mapping[str, Any], config: CLIPConfig) -> dict[str, Any]:
    """The inverse: scenic's variables, or their "params" alone, in either spelling, as our CLIP tree.

    Raises:
      ConversionError: for a CLIP that scenic's module cannot be, or variables that are not the configuration's:
        what is missing, left over and of another shape.
    """
    clip_settings(config)
    tree = _renamed(variables.get("params", variables), r"resblocks_\1")
    _check(tree, config, "scenic's variables")
    return tree


def write_variables(path: str | Path, variables: Mapping[str, Any]) -> None:
    """Write variables as Flax does (`flax.serialization`, msgpack); an existing file is replaced in one step.

    Raises:
      OutputError: the file cannot be written.
    """
    with whole_file(path) as partial:
        partial.write_bytes(serialization.msgpack_serialize(jax.tree.map(np.asarray, dict(variables))))


def read_variables(path: str | Path) -> dict[str, Any]:
    """Read what `write_variables`, or `flax.serialization.to_bytes`, has written.

    Raises:
      FileNotFoundError: there is no such file.
      ConversionError: a file of another kind, or damaged.
    """
    content = Path(path).read_bytes()
    try:
        variables = serialization.msgpack_restore(content)
    except Exception as error:  # msgpack and Flax raise what comes up in foreign bytes
        raise ConversionError(f"{path} holds no variables as Flax writes them ({error}).") from error
    if not isinstance(variables, dict):
        raise ConversionError(f"{path} holds no tree of variables. It holds {type(variables).__name__}.")
    return variables


def _renamed(tree: Mapping[str, Any], spelling: str) -> dict[str, Any]:
    return {
        _BLOCK.sub(spelling, name) if _BLOCK.fullmatch(name) else name: _renamed(value, spelling)
        if isinstance(value, Mapping)
        else value
        for name, value in tree.items()
    }


def _check(tree: Mapping[str, Any], config: CLIPConfig, what: str) -> None:
    wanted, got = shapes_by_path(expected_tower(config)), shapes_by_path(tree)
    if wanted != got:
        raise ConversionError(f"{what} are not this CLIP's.\n{differences(wanted, got)}")
