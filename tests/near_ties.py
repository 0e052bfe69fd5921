"""Ties with the mean similarity: cells whose scope hangs on rounding, and thus on the CPU."""

import numpy as np

TIE = (
    3e-6  # a similarity as near as this to the mean may fall on either side of it; its rounding error is 5e-7
)


def near_ties(similarity, regions) -> np.ndarray:
    """Cells with a pair in or out of scope by the last bits alone.

    Args:
      similarity: [L, L], all pairs of cells, of NumPy, JAX or torch.
      regions: [L] merged region ids; the smallest is the rest, and only pairs with it are compared with the mean.

    Returns:
      Boolean [L].
    """
    similarity, regions = np.asarray(similarity), np.asarray(regions)
    rest = regions == regions.min()
    close = np.abs(similarity - similarity.mean()) < TIE
    return (close & (rest[:, None] | rest[None])).any(1)
