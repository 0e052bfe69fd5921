"""Families of checkpoints: which one a file is of, which layout it has, and conversion in memory."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from corrclip_jax.config import FAMILIES, NetworkConfig, families
from corrclip_jax.conversion.readers import bare_names
from corrclip_jax.conversion.rules import ConversionError, apply_table
from corrclip_jax.params.structure import expected_network
from corrclip_jax.params.trees import collapse

# Relatives that would pass for one of ours at a glance; a name in them, and what to say.
_RELATIVES = {
    "norm_pre.weight": "timm's image tower of a CLIP, which lacks the text tower",
    "text_model.head.weight": "SigLIP, which is no CLIP",
    **dict.fromkeys(
        ("network.encoder.backbone.patch_embed.cls_token", "network.encoder.backbone.blocks.0.gamma_1"),
        "EoMT as differences from DINOv3's weights. Take the whole network in transformers' layout, such as "
        "tue-mps/eomt-dinov3-coco-panoptic-large-640 (--regions eomt-dinov3-l)",
    ),
}


# Parts of names of adapters: small matrices that change a model's weights, by the names of their programs.
_ADAPTER = re.compile(r"\blora_|\.hada_|\.lokr_|\.oft_|\.base_layer\.", re.IGNORECASE)
_ADAPTER_ADVICE = (
    "an adapter (LoRA), which changes a model and does not hold it. Merge it into its model first (PEFT: "
    "model.merge_and_unload(), then save_pretrained), and convert the result"
)


def detect(names: Iterable[str]) -> tuple[str, str] | None:
    """Family and layout that tensor names belong to; None where they are of no family that we know."""
    names = set(names)
    if any(relative in names for relative in _RELATIVES) or any(map(_ADAPTER.search, names)):
        return None
    # A network of regions may hold a backbone, with the backbone's names: it is looked for first. So is a younger
    # backbone before an older one, whose names it kept.
    for family in families("regions") + families("clip") + families("similarity")[::-1]:
        for layout, signature in FAMILIES[family].conversion_table().SIGNATURES.items():
            if signature in names:
                return family, layout
    return None


def describe(names: Iterable[str]) -> str:
    """What tensor names look like, for messages: "CLIP (open_clip layout)", or some of the names."""
    names = list(names)
    if (found := detect(names)) is not None:
        return f"{FAMILIES[found[0]].title} ({found[1]} layout)"
    if any(map(_ADAPTER.search, names)):
        return _ADAPTER_ADVICE
    if (relative := next((text for name, text in _RELATIVES.items() if name in names), None)) is not None:
        return relative
    shown = collapse(names)
    return f"no model known here; its tensors are {', '.join(shown[:6])}{' ...' * (len(shown) > 6)}"


def layout_of(family: str, names: Iterable[str], what: str) -> str:
    """The layout of `family` that the names have; `what` says whose names they are.

    Raises:
      ConversionError: for names of another family, or of none.
    """
    names = list(names)
    found = detect(names)
    if found is None or found[0] != family:
        way_on = "" if found is None else f" Give it as {found[0]} instead."
        raise ConversionError(
            f"{what} must be {FAMILIES[family].title}. It looks like {describe(names)}.{way_on}"
        )
    return found[1]


def convert_state_dict(
    family: str, state_dict: Mapping[str, Any], config: NetworkConfig, layout: str | None = None
) -> dict[str, Any]:
    """Convert tensors in memory: `convert_state_dict("clip", model.state_dict(), CLIPConfig(...))`.

    `family` is one of `FAMILIES`; `state_dict` maps published names to NumPy arrays or torch tensors, and
    may read them when they are looked up; `layout` is detected when None. Returns the network's parameters, nested
    dicts of float32 NumPy arrays, which may share memory with the source.

    Raises:
      ConversionError: for tensors that do not fit `config`, all of them at once.
    """
    names = bare_names(state_dict, "The state dict")
    if any(bare != name for bare, name in names.items()):
        state_dict = {bare: state_dict[name] for bare, name in names.items()}
    if layout is None:
        layout = layout_of(family, state_dict, "The state dict")
    table = FAMILIES[family].conversion_table().table(config, layout)
    if (realised := getattr(FAMILIES[family].conversion_table(), "realised", None)) is not None:
        state_dict = realised(state_dict)
    found = detect(state_dict)
    hint = "" if found in ((family, layout), None) else f"The file looks like {describe(state_dict)}."
    return apply_table(table, state_dict, expected_network(config), hint)
