"""From published torch checkpoints to our parameter trees, by tables; torch only for pickled files."""

from corrclip_jax.conversion.families import convert_state_dict, detect
from corrclip_jax.conversion.rules import ConversionError

__all__ = ["ConversionError", "convert_state_dict", "detect"]
