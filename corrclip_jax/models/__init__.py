"""The towers, as Flax Linen modules whose parameters carry the published names."""

from corrclip_jax.models.clip import CLIP
from corrclip_jax.models.dino import DINO

__all__ = ["CLIP", "DINO"]
