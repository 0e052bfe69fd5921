"""Support: what the nearest entries of a bank say about each region of an image (METHOD.md, section 10).

A region is looked up by its mean features; the mean of the found entries' values, compared with the queries of the
same CLIP, is joined with what the region's own features say.
Shapes: B images [H0, W0], R regions (a cap), k neighbours, C width of the features, Q queries.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from corrclip_jax.config import MethodConfig
from corrclip_jax.method import bank as banks
from corrclip_jax.method.bank import Bank
from corrclip_jax.method.correlation import compact, normalise
from corrclip_jax.method.whole_image import WholeImages, region_means
from corrclip_jax.ops import resize
from corrclip_jax.ops.integers import quotient_up
from corrclip_jax.text.embedding import TextEmbedding

REGIONS_AT_ONCE = 64
"""Regions that are looked up together."""


class Support(NamedTuple):
    """What a bank says about regions.

    Attributes:
      logits: of each region and query, the mean over the CLIPs of the bank; zero without neighbours.
      weight: how much they count against a pixel's own logits; zero without neighbours.
      neighbours: ids of the entries, nearest first; -1 where there are fewer.
      scores: of the neighbours, larger is nearer.
    """

    logits: Float[Array, "*B R Q"]
    weight: Float[Array, "*B R"]
    neighbours: Int[Array, "*B R k"]
    scores: Float[Array, "*B R k"]

    def as_results(self) -> tuple[Array, Array, Array]:
        """The fields that `segment` returns: neighbours, their scores, the regions' logits."""
        return self.neighbours, self.scores, self.logits


def region_support(
    whole: WholeImages,
    regions: Int[Array, "B H0 W0"],
    cap: int,
    bank: Bank,
    text: TextEmbedding,
    method: MethodConfig,
    axes: tuple[str, ...] | None = None,
) -> Support:
    """Neighbours and logits of every region of every image.

    Args:
      whole: features of the images.
      regions: any ids; rows of the result are their ranks in an image.
      cap: the most regions of an image.
      bank: the bank; inside `shard_map` this device's rows.
      text: the queries, of every CLIP that the bank has values of.
      method: the numbers of the method.
      axes: the mesh axes over which the bank is divided.
    """
    queries, there = region_queries(whole, regions, cap)
    found = _look_up(queries.reshape(-1, queries.shape[-1]), there.reshape(-1), bank, text, method, axes)
    return jax.tree.map(lambda x: x.reshape(*there.shape, *x.shape[1:]), found)


def region_queries(
    whole: WholeImages, regions: Int[Array, "B H0 W0"], cap: int
) -> tuple[Float[Array, "B R C"], Bool[Array, "B R"]]:
    """What the regions of images are looked up by, of unit length, and which regions there are."""
    means, there = jax.lax.map(
        lambda args: region_means(args[0], compact(args[1], cap), cap), (whole, regions)
    )
    return normalise(means), there


def _look_up(
    queries: Array, there: Array, bank: Bank, text: TextEmbedding, method: MethodConfig, axes: Any
) -> Support:
    """Support of the queries that are there, some at a time: those that are not cost nothing."""
    count = len(queries)
    at_once = min(REGIONS_AT_ONCE, count)
    order = jnp.argsort(~there, stable=True)
    total = there.sum()
    if axes is not None:  # all devices take part in every look-up
        total = jax.lax.pmax(total, axes)
    nothing = Support(
        jnp.zeros((count, len(text.features))),
        jnp.zeros(count),
        jnp.full((count, method.neighbours), -1, jnp.int32),
        jnp.full((count, method.neighbours), -jnp.inf),
    )
    if axes is not None:
        nothing = jax.lax.pcast(nothing, axes, to="varying")

    def step(index: Any, found: Support) -> Support:
        places = index * at_once + jnp.arange(at_once)
        rows = order[jnp.minimum(places, count - 1)]
        one = support_of(queries[rows], bank, text, method, axes)
        rows = jnp.where((places < count) & there[rows], rows, count)
        return jax.tree.map(lambda all_, new: all_.at[rows].set(new, mode="drop"), found, one)

    return jax.lax.fori_loop(0, quotient_up(total, at_once), step, nothing)


def support_of(
    queries: Float[Array, "R C"],
    bank: Bank,
    text: TextEmbedding,
    method: MethodConfig,
    axes: tuple[str, ...] | None = None,
) -> Support:
    """Support of regions with these unit-length features by the nearest entries of a bank."""
    ids, scores = banks.search(bank, queries, method.neighbours, axes=axes)
    return support_from_neighbours(ids, scores, bank, text, method, axes)


def support_from_neighbours(
    ids: Int[Array, "R k"],
    scores: Float[Array, "R k"],
    bank: Bank,
    text: TextEmbedding,
    method: MethodConfig,
    axes: tuple[str, ...] | None = None,
) -> Support:
    """The support that the entries found by a search give to their regions."""
    logits = []
    for name, values in bank.values.items():
        supports, supported = banks.support(values, ids, axes=axes)
        logits.append(supports @ text.of(name).T)
    weight = jnp.where(supported, method.support_weight, 0.0)
    return Support(jnp.stack(logits).mean(axis=0), weight, ids, scores)


class SupportMap(NamedTuple):
    """Where the support of one image's regions goes, for the fusion at any of its rows.

    Attributes:
      support: of the regions.
      regions: their ranks, at the image's own size.
      size, resized: height and width, as it is and resized.
    """

    support: Support
    regions: Int[Array, "H0 W0"]
    size: Int[Array, "2"]
    resized: Int[Array, "2"]

    def fuse(
        self,
        own: Float[Array, "h Q w"],
        rows: Int[Array, " h"],
        columns: Int[Array, " w"] | None = None,
    ) -> Float[Array, "h Q w"]:
        """Own logits at some of the image's rows, and columns if not at all, joined with those of the regions.

        The official implementation joins them at the resized image, whose pixels take regions by the nearest rule,
        and resizes the sum; so do the weights here.
        """
        weighted = self.support.logits * self.support.weight[:, None]
        table = jnp.concatenate([weighted, self.support.weight[:, None]], axis=1)
        pixels = (rows, jnp.arange(own.shape[2]) if columns is None else columns)
        row_taps, column_taps = (
            resize.linear_taps(along, self.resized[axis], self.size[axis])
            for axis, along in enumerate(pixels)
        )
        sources = self._region_columns(column_taps)

        def at(row_pixels: Array) -> Array:
            source = resize.nearest_at(row_pixels, self.size[0], self.resized[0])
            left, right = (table[self.regions[source][:, column]] for column in sources)
            beyond = column_taps[2][None, :, None]
            return left * (1 - beyond) + right * beyond

        lower = row_taps[2][:, None, None]
        mixed = (at(row_taps[0]) * (1 - lower) + at(row_taps[1]) * lower).swapaxes(1, 2)
        return own * (1 - mixed[:, -1:]) + mixed[:, :-1]

    def _region_columns(self, taps: Any) -> list[Array]:
        return [resize.nearest_at(tap, self.size[1], self.resized[1]) for tap in taps[:2]]
