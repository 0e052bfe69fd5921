"""Ablation: the parts of the method added one by one, and the whole method without each of them."""

import dataclasses

from corrclip_jax.config import PartsConfig


def ablation() -> tuple[dict[str, PartsConfig], dict[str, PartsConfig]]:
    """Variants by name: from plain CLIP to the whole method, part by part; and the whole without each part."""
    names = [field.name for field in dataclasses.fields(PartsConfig)]
    upon = {"plain CLIP": PartsConfig(**dict.fromkeys(names, False))}
    for last, name in enumerate(names):
        upon[f"+ {name}"] = PartsConfig(**{each: index <= last for index, each in enumerate(names)})
    return upon, {f"without {name}": PartsConfig(**{name: False}) for name in names}
