"""Ablation: the parts of the method added one by one, and the whole method without each of them."""

import dataclasses

from corrclip_jax.config import PartsConfig


def ablation(
    whole: PartsConfig | None = None, *, bank: bool = False
) -> tuple[dict[str, PartsConfig], dict[str, PartsConfig]]:
    """Variants by name: from plain CLIP to the whole method, part by part; and the whole without each part.

    Args:
      whole: the parts of the whole method, by default all.
      bank: whether there is a bank, without which support is no part.
    """
    whole = PartsConfig() if whole is None else whole
    names = [name for name, on in dataclasses.asdict(whole).items() if on and (bank or name != "support")]
    upon = {"plain CLIP": dataclasses.replace(whole, **dict.fromkeys(names, False))}
    for count, name in enumerate(names, 1):
        upon[f"+ {name}"] = dataclasses.replace(whole, **dict.fromkeys(names[count:], False))
    return upon, {f"without {name}": dataclasses.replace(whole, **{name: False}) for name in names}
