"""The towers, as Flax Linen modules whose parameters carry the published names."""

from corrclip_jax.models.clip import CLIP
from corrclip_jax.models.dino import DINO
from corrclip_jax.models.eomt import EoMT
from corrclip_jax.models.mask2former import Mask2Former
from corrclip_jax.models.sam1 import SAM1
from corrclip_jax.models.sam2 import SAM2

__all__ = ["CLIP", "DINO", "SAM1", "SAM2", "EoMT", "Mask2Former"]
