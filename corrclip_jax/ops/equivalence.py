"""Equivalence classes of numbered things from pairs of equal ones, as pieces of one region in several tiles."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int


def equivalence_classes(
    count: int, pairs: Sequence[tuple[int, int]] | Int[np.ndarray, "m 2"]
) -> Int[np.ndarray, " n"]:
    """The class of each of `count` things, counted from 0 in the order of their first members.

    Args:
      count: of the things.
      pairs: indices of things that are the same.

    >>> equivalence_classes(5, [(4, 1), (1, 2)])
    array([0, 1, 1, 2, 1], dtype=int32)
    """
    from scipy.sparse import coo_array  # loaded when needed: a third of a second
    from scipy.sparse.csgraph import connected_components

    one, other = np.array(pairs, np.int64).reshape(-1, 2).T
    graph = coo_array((np.ones(len(one), bool), (one, other)), shape=(count, count))
    return connected_components(graph, directed=False)[1]
