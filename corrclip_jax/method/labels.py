"""Labels: features to logits of every query, the class of every pixel, majority votes (METHOD.md, section 8).

Written for one image. The logits of all queries never exist at full size: a block of the image's rows is
up-sampled, decided and dropped before the next one.
Shapes: (ny, nx) windows, (gh, gw) grid of a window, D joint width, Q queries, K classes, (H0, W0) image.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float16, Int

from corrclip_jax.config import MethodConfig
from corrclip_jax.ops.loops import map_chunks
from corrclip_jax.runtime.memory import device_bytes, rows_at_once
from corrclip_jax.text.embedding import TextEmbedding

_ROWS_BY_REGION = 16  # of an image that are summed by region at a time


def logit_grid(
    features: Float[Array, "ny nx gh gw D"], queries: Float[Array, "Q D"]
) -> Float[Array, "ny*gh Q nx*gw"]:
    """Logits of all windows' cells, the windows laid side by side."""
    ny, nx, gh, gw, _ = features.shape
    grid = jnp.einsum("ijyxd,qd->iyqjx", features, queries)
    return grid.reshape(ny * gh, len(queries), nx * gw)


def window_logits(
    features: Float[Array, "n gh gw D"], queries: Float[Array, "Q D"]
) -> Float[Array, "n gh Q gw"]:
    """Logits of each window's cells."""
    return jnp.einsum("nyxd,qd->nyqx", features, queries)


def upsample(
    grid: Float[Array, "*n cells_y Q cells_x"],
    rows: Float[Array, "h *n cells_y"] | Float[np.ndarray, "h *n cells_y"],
    columns: Float[Array, "W0 *n cells_x"] | Float[np.ndarray, "W0 *n cells_x"],
) -> Float[Array, "h Q W0"]:
    """Logits at some of the image's rows, by the stitching matrices: rows @ grid @ columns.T.

    The grid is that of all windows side by side, or there are n, whose shares are summed.
    """
    formula = "hy,yqx,wx->hqw" if grid.ndim == 3 else "hny,nyqx,wnx->hqw"
    return jnp.einsum(formula, rows, grid, columns, optimize=[(0, 1), (0, 1)])


def classify(
    grid: Float[Array, "*n cells_y Q cells_x"],
    rows: Float[Array, "H0 *n cells_y"] | Float[np.ndarray, "H0 *n cells_y"],
    columns: Float[Array, "W0 *n cells_x"] | Float[np.ndarray, "W0 *n cells_x"],
    text: TextEmbedding,
    method: MethodConfig,
    fuse: Callable[[Array, Array], Array] | None = None,
) -> tuple[Int[Array, "H0 W0"], Float[Array, "H0 W0"]]:
    """The best class of every pixel and its probability.

    A class's probability is that of its best query, and the softmax keeps the order of the logits, so that the
    best query alone decides; its probability needs one sum over the queries. `fuse` may change the logits
    [h, Q, W0] of some of the image's rows, given their numbers [h]. Where logits are not finite, the class is -1
    and the probability NaN.
    """

    def decide(block: tuple[Any, Any]) -> tuple[Array, Array]:
        rows, numbers = block
        logits = upsample(grid, rows, columns)
        if fuse is not None:
            logits = fuse(logits, numbers)
        logits = method.logit_scale * logits
        logits = jnp.where(text.query_to_class[:, None] < 0, -jnp.inf, logits)
        best = logits.argmax(axis=1)
        highest = logits.max(axis=1)
        score = 1 / jnp.exp(logits - highest[:, None]).sum(axis=1)
        label = jnp.where(score < method.background_threshold, 0, text.query_to_class[best])
        return jnp.where(jnp.isnan(score), -1, label).astype(jnp.int32), score

    height, width = len(rows), len(columns)
    at_once = rows_at_once(method.rows_per_chunk, text.features.shape[0], width, device_bytes())
    size = min(at_once, height)
    blocks = jnp.pad(rows, ((0, -height % size), *[(0, 0)] * (rows.ndim - 1))).reshape(
        -1, size, *rows.shape[1:]
    )
    numbers = jnp.arange(len(blocks) * size).reshape(-1, size)
    labels, scores = jax.lax.map(decide, (blocks, jnp.minimum(numbers, height - 1)))
    return labels.reshape(-1, width)[:height], scores.reshape(-1, width)[:height]


def region_logits(
    grid: Float[Array, "*n cells_y Q cells_x"],
    rows: Float[Array, "H0 *n cells_y"] | Float[np.ndarray, "H0 *n cells_y"],
    columns: Float[Array, "W0 *n cells_x"] | Float[np.ndarray, "W0 *n cells_x"],
    regions: Int[Array, "H0 W0"],
    cap: int,
) -> Float[Array, "cap Q"]:
    """The mean logits of the pixels of every region.

    `regions` are compacted ids below `cap`; pixels with the id `cap` are left out. Up-sampling is linear, so each
    row's columns are summed by region before they meet the queries.
    """
    height, queries = len(rows), grid.shape[-2]
    padding = -height % _ROWS_BY_REGION
    blocks = jnp.pad(rows, ((0, padding), *[(0, 0)] * (rows.ndim - 1)))
    ids = jnp.pad(regions, ((0, padding), (0, 0)), constant_values=cap)
    blocks, ids = (x.reshape(-1, _ROWS_BY_REGION, *x.shape[1:]) for x in (blocks, ids))
    formula = "hy,yqx,hrx->rq" if grid.ndim == 3 else "hny,nyqx,hrnx->rq"
    lines = np.arange(_ROWS_BY_REGION)[:, None]

    def add(total: Array, block: tuple[Array, Array]) -> tuple[Array, None]:
        rows, ids = block
        by_region = jnp.zeros((_ROWS_BY_REGION, cap, *columns.shape[1:]))
        by_region = by_region.at[lines, ids].add(jnp.asarray(columns)[None], mode="drop")
        return total + jnp.einsum(formula, rows, grid, by_region, optimize=[(0, 1), (0, 1)]), None

    total, _ = jax.lax.scan(add, jnp.zeros((cap, queries)), (blocks, ids))
    pixels = jnp.zeros(cap).at[regions].add(1, mode="drop")
    return total / jnp.maximum(pixels, 1)[:, None]


def correct_by_region(
    labels: Int[Array, "H0 W0"], regions: Int[Array, "H0 W0"], cap: int, num_classes: int
) -> Int[Array, "H0 W0"]:
    """Give every region its most frequent label, the smallest of several; unsegmented pixels keep theirs.

    `regions` are compacted ids below `cap`, of which 0 is unsegmented; pixels with the id `cap` have no vote, and
    those of label -1 neither have one nor get another label.
    """
    voted = jnp.where(labels < 0, num_classes, labels)  # beyond the classes: dropped
    votes = jnp.zeros((cap, num_classes), jnp.int32).at[regions, voted].add(1, mode="drop")
    keep = (regions == 0) | (labels < 0)
    return jnp.where(keep, labels, votes.argmax(axis=1).astype(jnp.int32)[regions])


def probabilities(
    grid: Float[Array, "*n cells_y Q cells_x"],
    rows: Float[Array, "h *n cells_y"] | Float[np.ndarray, "h *n cells_y"],
    columns: Float[Array, "w *n cells_x"] | Float[np.ndarray, "w *n cells_x"],
    text: TextEmbedding,
    method: MethodConfig,
    fuse: Callable[[Array, Int[Array, " h"]], Array] | None = None,
) -> Float16[Array, "K h w"]:
    """The probability of every class, that of its best query, at some of the image's rows and columns.

    `rows` and `columns` are those of the stitching matrices; `fuse` gets the numbers of rows among them.
    """
    classes = text.num_classes
    owner = jnp.where(text.query_to_class < 0, classes, text.query_to_class)

    def block(part: tuple[Array, ...]) -> Float16[Array, "b K w"]:
        logits = upsample(grid, part[0], columns)
        if fuse is not None:
            logits = fuse(logits, part[1])
        logits = jnp.where(text.query_to_class[:, None] < 0, -jnp.inf, method.logit_scale * logits)
        each = jax.nn.softmax(logits, axis=1).swapaxes(0, 1)
        best = jnp.zeros((classes + 1, *each.shape[1:])).at[owner].max(each)[:classes]
        return best.swapaxes(0, 1).astype(jnp.float16)

    at_once = rows_at_once(method.rows_per_chunk, len(owner), len(columns), device_bytes())
    return map_chunks(block, (jnp.asarray(rows), jnp.arange(len(rows))), at_once).swapaxes(0, 1)
