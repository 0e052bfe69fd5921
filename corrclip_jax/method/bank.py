"""Bank of unlabelled images: the nearest entries of each region, and the support that their values give.

An entry is one region of one image: a key says what it looks like to the backbone, a value of each CLIP what it
means. `search` finds the k entries whose keys are nearest to a region's features, `support` averages their values
(CorrCLIPv2, https://github.com/zdk258/CorrCLIP). Shapes: N entries, C width of keys, D of values, R regions.

A bank may be divided over the devices of a mesh by rows (`put_bank` and `bank_specs` of `bank_arrays`). Inside
`jax.shard_map` both functions take the mesh's `axes`: every device looks through its own rows for the regions of
all, k pairs of an id and a score go back from each device, values are summed where they lie.
"""

from typing import Any, no_type_check

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt8

from corrclip_jax.method.correlation import normalise
from corrclip_jax.ops.integers import quotient_up

Axes = tuple[str, ...] | None

MOST_LISTS = 256
"""Lists of quantised keys that are searched, as in the official implementation."""
# Keys that are compared at a time, of which those in groups with a large maximum are looked at one by one; and
# quantised keys of one region at a time.
_BLOCK, _GROUP, _CODES = 4096, 64, 2048
_EPSILON = 1e-12  # added to the lengths of keys


@no_type_check  # JAX rebuilds pytrees with placeholders and shapes, which are no arrays
@flax.struct.dataclass
class QuantisedKeys:
    """Keys as an inverted file with product quantisation, which faiss calls IVFPQ.

    A key is the centroid of its list plus one of 256 code words for each of M parts of the vector.
    `bank_arrays.quantised_keys` makes it.

    Attributes:
      centroids: of the L lists.
      words: code words by part.
      starts: the rows of list i are starts[i] .. starts[i + 1] - 1.
      codes: the words of each key, list by list.
      ids: which entry each row is.
      squares: squared length of each decoded key.
      lists: how many lists are searched, at most L.
    """

    centroids: Float[Array, "L C"]
    words: Float[Array, "M 256 C/M"]
    starts: Int[Array, " L+1"]
    codes: UInt8[Array, "N M"]
    ids: Int[Array, " N"]
    squares: Float[Array, " N"]
    lists: int = flax.struct.field(pytree_node=False, default=MOST_LISTS)


@no_type_check
@flax.struct.dataclass
class Bank:
    """Keys and values of N entries, row i the entry with id i.

    Attributes:
      keys: float16 (or float32) of any length, row by row, or `QuantisedKeys`. A row of zeros is no entry.
      values: by name of the CLIP, "main" the segmenting one's; unit length.
    """

    keys: Float[Array, "N C"] | QuantisedKeys
    values: dict[str, Float[Array, "N D"]]

    @property
    def width(self) -> int:
        """Width of the keys, which is the backbone's."""
        return (self.keys.centroids if isinstance(self.keys, QuantisedKeys) else self.keys).shape[1]


def search(
    bank: Bank, queries: Float[Array, "R C"], k: int, *, axes: Axes = None
) -> tuple[Int[Array, "R k"], Float[Array, "R k"]]:
    """The k entries nearest to each query, nearest first.

    Exact keys are compared by inner product with the key at unit length; quantised ones by the distance to the
    decoded key, within the lists whose centroids have the largest inner products. Of equally near entries that of
    the lower row comes first.

    Args:
      bank: the bank; inside `shard_map` this device's rows.
      queries: unit-length features, float32; inside `shard_map` those of this device's regions.
      k: number of neighbours.
      axes: the mesh axes over which the bank is divided.

    Returns:
      ids of the entries, -1 where there are fewer than k; scores, larger is nearer: the inner product, or minus the
      squared distance; -inf where there is none.
    """
    queries = queries.astype(jnp.float32)
    if axes is not None:
        queries = jax.lax.all_gather(queries, axes, tiled=True)
    find: Any = _nearest_codes if isinstance(bank.keys, QuantisedKeys) else _nearest_keys
    ids, scores = find(bank.keys, queries, k, axes)
    if axes is not None:
        ids, scores = (_exchanged(x, axes) for x in (ids, scores))
        ids, scores = _largest(ids, scores, k)
    return ids, scores


def support(
    values: Float[Array, "N D"], ids: Int[Array, "R k"], *, axes: Axes = None
) -> tuple[Float[Array, "R D"], Bool[Array, " R"]]:
    """Mean of the neighbours' values, at unit length.

    Args:
      values: those of one CLIP; inside `shard_map` this device's rows.
      ids: from `search`.
      axes: the mesh axes over which the values are divided.

    Returns:
      The supports, 0 of a region without neighbours; and which regions have neighbours.
    """
    supported = (ids >= 0).any(axis=1)
    if axes is not None:
        ids = jax.lax.all_gather(ids, axes, tiled=True)
    rows = ids - _first_row(len(values), axes)
    here = (ids >= 0) & (rows >= 0) & (rows < len(values))
    rows = jnp.where(here, rows, 0)

    def add(total: Array, column: tuple[Array, Array]) -> tuple[Array, None]:
        return total + jnp.where(column[1][:, None], values[column[0]].astype(jnp.float32), 0.0), None

    total = jnp.zeros((len(ids), values.shape[1]), jnp.float32)
    if axes is not None:
        total = jax.lax.pcast(total, axes, to="varying")
    total, _ = jax.lax.scan(add, total, (rows.T, here.T))
    if axes is not None:
        total = jax.lax.psum_scatter(total, axes, tiled=True)
    return normalise(total), supported


# --- exact keys ---


def _nearest_keys(
    keys: Float[Array, "N C"], queries: Float[Array, "R C"], k: int, axes: Axes
) -> tuple[Int[Array, "R k"], Float[Array, "R k"]]:
    """The nearest of all keys, a block of them at a time.

    The k best scores lie in the k groups with the largest maxima, so only these are sorted.
    """
    first, total = _first_row(len(keys), axes), len(keys)
    block = min(_BLOCK, total)

    def step(best: tuple[Array, Array], index: Array) -> tuple[tuple[Array, Array], None]:
        start = jnp.minimum(index * block, total - block)  # the last block overlaps the one before
        part = jax.lax.dynamic_slice_in_dim(keys, start, block).astype(jnp.float32)
        length = jnp.sqrt((part * part).sum(axis=1))
        scores = jnp.matmul(queries, part.T, precision="highest") / (length + _EPSILON)[None]
        entries = (length > 0) & (start + jnp.arange(block) >= index * block)
        scores = jnp.where(entries[None] & ~jnp.isnan(scores), scores, -jnp.inf)
        rows, scores = _promising(scores, k)
        ids = jnp.concatenate([best[0], first + start + rows], axis=1)
        return _largest(ids, jnp.concatenate([best[1], scores], axis=1), k), None

    return jax.lax.scan(step, _nothing(queries, k, axes), jnp.arange(-(-total // block)))[0]


def _promising(
    scores: Float[Array, "R block"], k: int
) -> tuple[Int[Array, "R candidates"], Float[Array, "R candidates"]]:
    """Columns and scores of the k groups with the largest maxima, in the order of the columns."""
    scores = jnp.pad(scores, ((0, 0), (0, -scores.shape[1] % _GROUP)), constant_values=-jnp.inf)
    groups = scores.reshape(len(scores), -1, _GROUP)
    chosen = jnp.sort(jax.lax.top_k(groups.max(axis=2), min(k, groups.shape[1]))[1], axis=1)
    columns = chosen[:, :, None] * _GROUP + jnp.arange(_GROUP)[None, None]
    candidates = jnp.take_along_axis(groups, chosen[:, :, None], axis=1)
    return columns.reshape(len(scores), -1), candidates.reshape(len(scores), -1)


# --- quantised keys ---


def _nearest_codes(
    keys: QuantisedKeys, queries: Float[Array, "R C"], k: int, axes: Axes
) -> tuple[Int[Array, "R k"], Float[Array, "R k"]]:
    """The nearest of the keys in the lists that are searched, by tables of the products of query and code words."""
    parts, _, width = keys.words.shape
    products = jnp.matmul(queries, keys.centroids.T, precision="highest")
    centroids, lists = jax.lax.top_k(products, min(keys.lists, len(keys.centroids)))
    order = jnp.argsort(lists, axis=1)  # rows in ascending order
    centroids, lists = (jnp.take_along_axis(x, order, axis=1) for x in (centroids, lists))
    ends = jnp.stack([keys.starts[lists], keys.starts[lists + 1]]) - _first_row(len(keys.codes), axes)
    begins, ends = jnp.clip(ends, 0, len(keys.codes))
    tables = jnp.einsum(
        "rmw,mew->rme", queries.reshape(len(queries), parts, width), keys.words, precision="highest"
    )
    squares = (queries * queries).sum(axis=1)

    def one(centroids: Array, begins: Array, ends: Array, table: Array, square: Array, best: Any) -> Any:
        """The nearest keys of one query, some codes at a time."""
        upto = jnp.cumsum(ends - begins)

        def step(index: Any, best: Any) -> Any:
            position = index * _CODES + jnp.arange(_CODES)
            number = jnp.minimum(jnp.searchsorted(upto, position, side="right"), len(upto) - 1)
            row = jnp.clip(ends[number] - (upto[number] - position), 0, len(keys.codes) - 1)
            words = table[jnp.arange(parts)[None], keys.codes[row].astype(jnp.int32)].sum(axis=1)
            scores = 2 * (centroids[number] + words) - keys.squares[row] - square
            scores = jnp.where((position < upto[-1]) & ~jnp.isnan(scores), scores, -jnp.inf)
            ids = jnp.concatenate([best[0], keys.ids[row]])
            found = _largest(ids[None], jnp.concatenate([best[1], scores])[None], k)
            return found[0][0], found[1][0]

        return jax.lax.fori_loop(0, quotient_up(upto[-1], _CODES), step, best)

    return jax.vmap(one)(centroids, begins, ends, tables, squares, _nothing(queries, k, axes))


# --- both ---


def _nothing(
    queries: Float[Array, "R C"], k: int, axes: Axes
) -> tuple[Int[Array, "R k"], Float[Array, "R k"]]:
    nothing = jnp.full((len(queries), k), -1, jnp.int32), jnp.full((len(queries), k), -jnp.inf)
    return nothing if axes is None else jax.lax.pcast(nothing, axes, to="varying")


def _largest(
    ids: Int[Array, "R n"], scores: Float[Array, "R n"], k: int
) -> tuple[Int[Array, "R k"], Float[Array, "R k"]]:
    """The k largest scores and their ids; of equal ones the first. No id goes with a score of -inf."""
    scores, place = jax.lax.top_k(scores, k)
    ids = jnp.take_along_axis(ids, place, axis=1)
    return jnp.where(scores > -jnp.inf, ids, -1), scores


def _first_row(rows: int, axes: Axes) -> Any:
    """The row of the whole bank that a device's first is."""
    return 0 if axes is None else jax.lax.axis_index(axes) * rows


def _exchanged(found: Array, axes: tuple[str, ...]) -> Array:
    """What all devices found for this device's regions, [R, devices * k], from what it found for all."""
    devices = jax.lax.axis_size(axes)
    by_device = found.reshape(devices, -1, found.shape[1])
    parts = jax.lax.all_to_all(by_device, axes, split_axis=0, concat_axis=0)
    return jnp.moveaxis(parts, 0, 1).reshape(parts.shape[1], -1)
