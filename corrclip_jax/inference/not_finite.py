"""What is said of images whose features are not finite: the weights are damaged, and labels are -1."""

import numpy as np
from jaxtyping import Int

from corrclip_jax.io.photos import PhotoError

NOT_FINITE = "its features are not finite (NaN): the model's weights are damaged"


class NotFiniteError(PhotoError):
    """An image that has no labels, because its features are not finite."""


def not_finite(image: object = "The image") -> NotFiniteError:
    """The error for an image, by its name."""
    return NotFiniteError(f"{image} has no labels, {NOT_FINITE}. Download or convert the model again.")


def check_labels(labels: Int[np.ndarray, "H W"]) -> NotFiniteError | None:
    """The error for an image with a pixel that the method gave no label; `labels` are those inside of the image."""
    return not_finite() if labels.min(initial=0) < 0 else None
