"""Exchange with scenic (github.com/google-research/scenic): trees of its CLIP and of its SAM, the first one.

CLIP (projects/baselines/clip) has our names and shapes, but for the blocks: `resblocks.0` there, or `resblocks_0`
where the module is made with `use_underscore_module_name`. SAM (projects/baselines/segment_anything) has the
published file's names, dots and all (`blocks.0`, `iou_token.weight`), and one layer for queries, keys and values.
Nothing is computed, so a round trip gives back every bit. What scenic's modules would compute otherwise than ours
is refused, not written: see the table in weights/README.md.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import serialization
from flax.traverse_util import flatten_dict, unflatten_dict

from corrclip_jax.config import CLIPConfig, SAM1Config
from corrclip_jax.conversion.rules import ConversionError
from corrclip_jax.io.files import atomic_file
from corrclip_jax.params.structure import expected_network
from corrclip_jax.params.trees import Shape, differences, shapes_by_path

_BLOCK = re.compile(r"resblocks[._](\d+)")

_SAM1_PARTS = r"/attn/(query|key|value)/"
# From our paths in SAM's tree to scenic's, one rule after the other.
_SAM1_NAMES = (
    (r"/patch_embed/", "/patch_embed.proj/"),
    (_SAM1_PARTS, "/attn/qkv/"),
    (r"/(neck|mask_downscaling|output_upscaling)_(\d)/", r"/\1/\2/"),
    (r"/mlp/layers_0/", "/mlp/lin1/"),
    (r"/mlp/layers_1/", "/mlp/lin2/"),
    (r"/(blocks|layers|output_hypernetworks_mlps|point_embeddings)_(\d+)", r"/\1.\2"),
    (r"/(point_embeddings\.\d|not_a_point_embed|no_mask_embed|iou_token|mask_tokens)$", r"/\1.weight"),
)
# What scenic's mask decoder has built in: it makes its transformer without arguments.
_SAM1_FIXED = {"embed_dim": 256, "decoder_heads": 8, "decoder_layers": 2, "decoder_mlp_width": 2048}


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


def sam1_settings(config: SAM1Config) -> dict[str, dict[str, Any]]:
    """The arguments with which scenic's module `sam.Sam` is this SAM; the mask decoder's are its defaults.

    Raises:
      ConversionError: where no arguments are: another decoder than the published one, an encoder of one block.
    """
    faults = [
        f"scenic's mask decoder has {name} {fixed}, this SAM's is {getattr(config, name)}"
        for name, fixed in _SAM1_FIXED.items()
        if getattr(config, name) != fixed
    ]
    if config.layers < 2:
        faults.append(f"scenic's encoder needs two blocks or more, this SAM has {config.layers}")
    if faults:
        raise ConversionError(f"scenic's modules cannot be this SAM: {'; '.join(faults)}.")
    grid, image = (config.embed_size,) * 2, (config.image_size,) * 2
    return {
        "image_encoder_args": {
            "img_size": config.image_size,
            "patch_size": config.patch_size,
            "embed_dim": config.width,
            "depth": config.layers,
            "num_heads": config.heads,
            "mlp_ratio": config.mlp_ratio,
            "out_chans": config.embed_dim,
            "window_size": config.window,
            "window_block_indexes": tuple(i for i in range(config.layers) if i not in config.global_blocks),
        },
        "prompt_encoder_args": {
            "embed_dim": config.embed_dim,
            "image_embedding_size": grid,
            "input_image_size": image,
            "mask_in_chans": config.mask_channels,
        },
    }


def sam1_to_scenic(params: Mapping[str, Any], config: SAM1Config) -> dict[str, dict[str, Any]]:
    """Our tree of the first SAM (params["sam1"]) as variables of scenic's `sam.Sam`, {"params": ...}.

    Arrays are shared, but for queries, keys and values, which are one array there. The tree is that of a module
    initialised with a mask prompt, as scenic's own conversion has it; without one Flax makes no `mask_downscaling`.

    Raises:
      ConversionError: for a SAM that scenic's module cannot be, or params that are not the configuration's.
    """
    sam1_settings(config)
    _check(params, config, "params")
    ours = flatten_dict(dict(params), sep="/")
    theirs = {
        path: ours[own[0]] if len(own) == 1 else _joined([ours[name] for name in own])
        for path, own in _sam1_paths(config).items()
    }
    return {"params": unflatten_dict(theirs, sep="/")}


def sam1_from_scenic(variables: Mapping[str, Any], config: SAM1Config) -> dict[str, Any]:
    """The inverse: scenic's variables, or their "params" alone, as our tree of the first SAM.

    Raises:
      ConversionError: for a SAM that scenic's module cannot be, or variables that are not the configuration's: what
        is missing, left over and of another shape, by scenic's names.
    """
    sam1_settings(config)
    theirs = flatten_dict(dict(variables.get("params", variables)), sep="/")
    shapes, paths = shapes_by_path(expected_network(config)), _sam1_paths(config)
    wanted: dict[str, Shape] = {
        path: (*shapes[own[0]][:-1], sum(shapes[name][-1] for name in own)) for path, own in paths.items()
    }
    _compare(
        wanted, {path: tuple(np.shape(leaf)) for path, leaf in theirs.items()}, config, "scenic's variables"
    )
    ours = {}
    for path, own in paths.items():
        width = theirs[path].shape[-1] // len(own)
        for i, name in enumerate(own):
            ours[name] = theirs[path] if len(own) == 1 else theirs[path][..., i * width : (i + 1) * width]
    return unflatten_dict(ours, sep="/")


def _sam1_paths(config: SAM1Config) -> dict[str, list[str]]:
    """Our paths, by scenic's: one, or those of queries, keys and values, in this order."""
    paths = {}
    for ours in shapes_by_path(expected_network(config)):
        theirs = f"/{ours}"
        for pattern, replacement in _SAM1_NAMES:
            theirs = re.sub(pattern, replacement, theirs)
        parts = (re.sub(_SAM1_PARTS, f"/attn/{part}/", ours) for part in ("query", "key", "value"))
        paths[theirs[1:]] = list(dict.fromkeys(parts))
    return paths


def _joined(parts: list[Any]) -> Any:
    """Arrays as one, along the last axis; NumPy's stay NumPy's."""
    return (jnp if isinstance(parts[0], jax.Array) else np).concatenate(parts, axis=-1)


def write_variables(path: str | Path, variables: Mapping[str, Any]) -> None:
    """Write variables as Flax does (`flax.serialization`, msgpack); an existing file is replaced in one step.

    Raises:
      OutputError: the file cannot be written.
    """
    with atomic_file(path) as partial:
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


def _check(tree: Mapping[str, Any], config: CLIPConfig | SAM1Config, what: str) -> None:
    _compare(shapes_by_path(expected_network(config)), shapes_by_path(tree), config, what)


def _compare(
    wanted: Mapping[str, Shape], got: Mapping[str, Shape], config: CLIPConfig | SAM1Config, what: str
) -> None:
    if wanted != got:
        name = "CLIP" if isinstance(config, CLIPConfig) else "SAM"
        raise ConversionError(f"{what} are not this {name}'s.\n{differences(wanted, got)}")
