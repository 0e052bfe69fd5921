"""PE-Spatial of the Perception Encoder: the table of its published layout, and its configuration read from shapes.

original  `PE-Spatial-L14-448.pt` (CLIP's names, fused qkv)
"""

from collections.abc import Mapping
from typing import Any

from corrclip_jax.config import PEConfig
from corrclip_jax.conversion.rules import Rule, Shape, Sizes, Table, linear, norm, place
from corrclip_jax.conversion.tables.vit_shared import native_side, qkv_rules, sizes_of_blocks

SIGNATURES = {"original": "class_embedding"}

_SOURCE, _BLOCK = r"transformer\.resblocks\.(\d+)", r"blocks_\1"
_TABLE = Table(
    "PE-Spatial",
    "original",
    rules=(
        Rule(r"(class_embedding|positional_embedding)", r"\1"),
        Rule(r"conv1\.weight", "conv1/kernel", "conv"),
        *norm("ln_pre", "ln_pre"),
        *norm(rf"{_SOURCE}\.ln_([12])", rf"{_BLOCK}/norm\2"),
        *qkv_rules(rf"{_SOURCE}\.attn\.in_proj", _BLOCK, separator="_"),
        *linear(rf"{_SOURCE}\.attn\.out_proj", f"{_BLOCK}/attention/out_proj"),
        *linear(rf"{_SOURCE}\.mlp\.c_fc", f"{_BLOCK}/mlp/fc1"),
        *linear(rf"{_SOURCE}\.mlp\.c_proj", f"{_BLOCK}/mlp/fc2"),
    ),
)


def table(config: PEConfig, layout: str) -> Table:
    """The table of a layout; it is the same for all sizes."""
    return {"original": _TABLE}[layout]


def config_from_shapes(shapes: Mapping[str, Shape], layout: str, published: Mapping[str, Any]) -> PEConfig:
    """The configuration that tensor shapes show; heads are 64 wide.

    Raises:
      ConversionError: where a tensor that shows a size is missing.
    """
    sizes = Sizes(place(_TABLE, shapes), "PE-Spatial")
    width, _, patch_size, _ = sizes.shape("conv1/kernel", 4)
    return PEConfig(
        image_size=native_side(sizes.shape("positional_embedding", 2)[0] - 1, patch_size),
        patch_size=patch_size,
        **sizes_of_blocks(sizes, width, published, "PE-Spatial"),
    )
