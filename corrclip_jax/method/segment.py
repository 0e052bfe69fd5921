"""The whole method: photos and text embeddings in, a label for every pixel out.

`make_segment(config)` gives a pure function for `jax.jit`: static shapes, no host callback, one compilation a
shape. Shapes: B photos [H0, W0], N windows [h, w] a photo on a grid [gh, gw], D joint width, K classes.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from corrclip_jax.config import Config
from corrclip_jax.method import labels, windows, windows_padded
from corrclip_jax.method.branches import spatial_layers, window_step
from corrclip_jax.method.checks import check_inputs
from corrclip_jax.method.correlation import compact, normalise
from corrclip_jax.ops.loops import map_chunks
from corrclip_jax.regions.sources import find_regions
from corrclip_jax.runtime.memory import device_bytes, windows_at_once
from corrclip_jax.runtime.sharding import sharded
from corrclip_jax.text.embedding import TextEmbedding, as_text_embedding


class Result(NamedTuple):
    """Labels of a batch of photos.

    `labels` are classes 0 .. K-1; `scores` the winning class's probability before the map correction; `regions`
    the region maps that were used. Where there is no result, labels are -1 and scores NaN: outside of photos of
    given sizes (there `regions` are -1 too), and in a photo with more regions or windows than the cap.
    """

    labels: Int[Array, "B H0 W0"]
    scores: Float[Array, "B H0 W0"]
    regions: Int[Array, "B H0 W0"]


def make_segment(config: Config, *, mesh: Mesh | None = None) -> Callable[..., Result]:
    """The segmentation function of a configuration; with a `mesh` its devices share the photos of a batch.

    It is called as `segment(params, images, text_emb, *, sizes=None, regions=None)`:

    - `params`: the tree of `load`, keys "clip", "dino" and, where regions are to be found, "sam2".
    - `images`: uint8 [B, H0, W0, 3], RGB.
    - `text_emb`: a `TextEmbedding`, or an array [K, D] of one unit-length query a class.
    - `sizes`: integer [B, 2], height and width of each photo where the photos fill the top left corners of their
      images. Results are those of the photos alone. All must need the same padding of their windows as the
      images (none, unless a side is six times the other), and at most `config.method.max_windows` windows
      each. A photo of size 0 fills a batch up.
    - `regions`: integer [B, H0, W0], region maps to use in place of SAM's; any ids from 0, of which the smallest in
      a photo is "the rest", at most `config.method.max_regions` others.

    A call that the device's memory does not hold ends in XLA's `RESOURCE_EXHAUSTED`: give fewer photos a call, or
    less at once (`method.windows_per_chunk`, `method.rows_per_chunk`, `regions.points_per_chunk`). `Segmenter`
    halves its batches by itself.

    Raises:
      ValueError: by either function, for a configuration, parameters or arrays that do not fit, at trace time.
    """
    spatial_layers(config)

    def run(params, text, images, sizes, regions) -> Result:
        with jax.default_matmul_precision("highest"):
            if regions is None:
                regions, cap = find_regions(config, params, images, sizes)
            else:
                regions, cap = regions.astype(jnp.int32), config.method.max_regions + 1
            features = photo_features(config, params, images, regions, cap, sizes)
            return label_photos(config, features, text, regions, cap, sizes)

    def segment(params, images, text_emb, *, sizes=None, regions=None) -> Result:
        text = as_text_embedding(text_emb)
        check_inputs(config, params, images, text, sizes, regions)
        sizes = None if sizes is None else jnp.asarray(sizes, jnp.int32)
        return (run if mesh is None else sharded(run, mesh))(params, text, images, sizes, regions)

    return segment


def photo_features(
    config: Config, params: dict, images, regions: Int[Array, "B H0 W0"], cap: int, sizes=None
) -> Float[Array, "B ny nx gh gw D"] | Float[Array, "B n gh gw D"]:
    """Unit-length features of every window's cells; the windows of all photos are one batch for the towers.

    With `sizes` a photo's windows are one axis of `canvas.most_windows`, its own first.
    """

    def step(pixels, regions):
        # A padded window holds one id more than its photo.
        return normalise(window_step(config, params, pixels, regions, cap + 1).features)

    at_once = windows_at_once(config, device_bytes())
    side = images.shape[1:3]
    plan = windows.plan_windows(*side, config.method)
    grid = windows.grid_of(plan, config.dino.patch_size)
    if sizes is not None:
        places = windows_padded.plan_canvas(sizes, side, config.method)
        features = windows_padded.map_windows(step, images, regions, places, config.method, at_once)
        return features.reshape(*features.shape[:2], *grid, -1)
    pixels = jax.vmap(lambda photo: windows.cut_photo(photo, plan))(images)
    region_windows = jax.vmap(lambda ids: windows.cut_regions(ids, plan))(regions)
    flat = (pixels.reshape(-1, *pixels.shape[2:]), region_windows.reshape(-1, *region_windows.shape[2:]))
    features = map_chunks(lambda batch: step(*batch), flat, at_once)
    return features.reshape(len(images), len(plan.y.starts), len(plan.x.starts), *grid, -1)


def label_photos(
    config: Config,
    features: Float[Array, "B ny nx gh gw D"] | Float[Array, "B n gh gw D"],
    text: TextEmbedding,
    regions: Int[Array, "B H0 W0"],
    cap: int,
    sizes=None,
) -> Result:
    """Features to labels at the photos' own size, corrected by region."""
    side, grid = regions.shape[1:], features.shape[-3:-1]

    def stitched(features, place) -> tuple[Any, Any, Any]:
        if place is not None:
            matrices = windows_padded.stitch_matrices(place, side, grid, config.method)
            return labels.window_logits(features, text.features), *matrices
        plan = windows.plan_windows(*side, config.method)
        rows, columns = windows.stitch_matrix(plan.y, grid[0]), windows.stitch_matrix(plan.x, grid[1])
        return labels.logit_grid(features, text.features), rows, columns

    def one_photo(args):
        features, regions, size, place = args
        within = True if size is None else windows_padded.inside(size, side)
        # What lies outside of the photo is taken for a region that is there anyway.
        regions = jnp.where(within, regions, regions[0, 0])
        found, scores = labels.classify(*stitched(features, place), text, config.method)
        ids = compact(regions, cap)
        if config.parts.correction:
            found = labels.correct_by_region(found, jnp.where(within, ids, cap), cap, text.num_classes)
        fits = (ids.max() < cap) & (regions.min() >= 0) & (True if place is None else place.fits)
        valid = within & fits
        return Result(
            jnp.where(valid, found, -1), jnp.where(valid, scores, jnp.nan), jnp.where(within, regions, -1)
        )

    places = None if sizes is None else windows_padded.plan_canvas(sizes, side, config.method)
    return jax.lax.map(one_photo, (features, regions, sizes, places))
