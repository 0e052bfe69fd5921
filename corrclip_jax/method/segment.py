"""Segmentation: the whole method as one pure function, images and text embeddings in, labels out.

`make_segment(config)` gives a pure function for `jax.jit`: static shapes, no host callback, one compilation a
shape. Shapes: B images [H0, W0], N windows [h, w] on a grid [gh, gw], D joint width, Q queries, K classes.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, UInt8

from corrclip_jax.config import Config
from corrclip_jax.method import labels
from corrclip_jax.method.branches import spatial_layers, window_step
from corrclip_jax.method.checks import check_inputs
from corrclip_jax.method.correlation import compact, normalise
from corrclip_jax.method.sliding_windows import ImageWindows, SlidingWindows, sliding_windows
from corrclip_jax.regions.sources import find_regions
from corrclip_jax.runtime.sharding import explicit_mesh, sharded
from corrclip_jax.text.embedding import TextEmbedding, as_text_embedding


class Result(NamedTuple):
    """Labels of a batch of images.

    Where there is no result, labels are -1 and scores NaN: outside of images of given sizes (there `regions` are -1
    too), and in an image with more regions or windows than the cap. Under `jax_debug_nans` these scores are 0.

    Attributes:
      labels: classes 0 .. K-1.
      scores: the winning class's probability, 0 .. 1, before the map correction.
      regions: the region maps that were used, 0 for unsegmented pixels.
    """

    labels: Int[Array, "B H0 W0"]
    scores: Float[Array, "B H0 W0"]
    regions: Int[Array, "B H0 W0"]


def make_segment(config: Config, *, mesh: Mesh | None = None) -> Callable[..., Result]:
    """The segmentation function of a configuration.

    It is called as `segment(params, images, text_emb, *, sizes=None, regions=None)`:

    - `params`: the tree of `load`: "clip", the backbone of the similarities ("dino") and, where regions are to be
      found, the network of the configured source ("sam2").
    - `images`: uint8 [B, H0, W0, 3], RGB.
    - `text_emb`: a `TextEmbedding`, or an array [K, D] of one unit-length query a class.
    - `sizes`: integer [B, 2], height and width of each image, for a padded batch: each image fills the top left
      corner of its array. Results equal those of each image alone. The windows of all images must need the same
      padding as those of the whole array (none, unless a side is six times the other), and there are at most
      `config.method.max_windows` of an image. An image of size 0 fills up a batch.
    - `regions`: integer [B, H0, W0], region maps to use in place of found ones. Ids are 0 and above; the smallest
      id of an image stands for unsegmented pixels, at most `config.method.max_regions` others are regions.

    A call that does not fit into the device's memory ends in XLA's `RESOURCE_EXHAUSTED`: give fewer images a call,
    or less at once (`method.windows_per_chunk`, `method.rows_per_chunk`, `regions.points_per_chunk`). `Segmenter`
    halves its batches by itself.

    Args:
      config: the models and the numbers of the method.
      mesh: devices that share the images of a batch. By default, where images are divided over a mesh with
        explicit axes, that mesh.

    Returns:
      The function, which returns a `Result`.

    Raises:
      ValueError: by either function, for a configuration, parameters or arrays that do not fit, at trace time.
    """
    spatial_layers(config)

    def run(params, text, images, sizes, regions) -> Result:
        with jax.default_matmul_precision("highest"):
            windows = sliding_windows(images.shape[1:3], sizes, config)
            if regions is None:
                regions, cap = find_regions(config, params, images, sizes)
            else:
                regions, cap = regions.astype(jnp.int32), config.method.max_regions + 1
            features = image_features(config, params, images, regions, cap, windows)
            return label_images(config, features, text, regions, cap, windows)

    def segment(params, images, text_emb, *, sizes=None, regions=None) -> Result:
        text = as_text_embedding(text_emb)
        check_inputs(config, params, images, text, sizes, regions)
        sizes = None if sizes is None else jnp.asarray(sizes, jnp.int32)
        devices = explicit_mesh(images) if mesh is None else mesh
        return (run if devices is None else sharded(run, devices))(params, text, images, sizes, regions)

    return segment


def image_features(
    config: Config,
    params: dict,
    images: UInt8[Array, "B H0 W0 3"],
    regions: Int[Array, "B H0 W0"],
    cap: int,
    windows: SlidingWindows,
) -> Float[Array, "B ny nx gh gw D"] | Float[Array, "B n gh gw D"]:
    """Unit-length features of every window's cells; the windows of all images are one batch for the networks.

    Of padded images the windows are one axis of `windows_padded.most_windows`, an image's own first.
    """

    def step(pixels, regions):
        # A padded window holds one id more than its image.
        return normalise(window_step(config, params, pixels, regions, cap + 1).features)

    return windows.map(step, images, regions)


def label_images(
    config: Config,
    features: Float[Array, "B ny nx gh gw D"] | Float[Array, "B n gh gw D"],
    text: TextEmbedding,
    regions: Int[Array, "B H0 W0"],
    cap: int,
    windows: SlidingWindows,
) -> Result:
    """Features to labels at the images' own size, corrected by region."""

    def one_image(image: ImageWindows, features, regions) -> Result:
        # Pixels outside of the image take a region id that is there anyway.
        regions = jnp.where(image.inside, regions, regions[0, 0])
        grid = image.logits(features, text.features)
        found, scores = labels.classify(grid, image.rows, image.columns, text, config.method)
        ids = compact(regions, cap)
        if config.parts.correction:
            found = labels.correct_by_region(found, jnp.where(image.inside, ids, cap), cap, text.num_classes)
        valid = image.inside & (ids.max() < cap) & (regions.min() >= 0) & image.fits
        return Result(
            jnp.where(valid, found, -1),
            jnp.where(valid, scores, 0.0 if jax.debug_nans.value else jnp.nan),
            jnp.where(image.inside, regions, -1),
        )

    return windows.map_images(one_image, features, regions)
