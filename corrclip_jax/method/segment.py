"""Segmentation: the whole method as one pure function, images and text embeddings in, labels out.

`make_segment(config)` gives a pure function for `jax.jit`: static shapes, no host callback, one compilation a
shape. Shapes: B images [H0, W0], N windows [h, w] on a grid [gh, gw], D joint width, Q queries, K classes.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, Float16, Int, UInt8

from corrclip_jax.config import Config
from corrclip_jax.method import labels
from corrclip_jax.method.bank_arrays import bank_specs
from corrclip_jax.method.branches import spatial_layers, window_step
from corrclip_jax.method.checks import check_inputs
from corrclip_jax.method.correlation import compact, normalise
from corrclip_jax.method.sample_points import points_per_side, sample_pixels
from corrclip_jax.method.sliding_windows import ImageWindows, SlidingWindows, sliding_windows
from corrclip_jax.method.support import Support, SupportMap, region_support
from corrclip_jax.method.whole_image import WholeImages, whole_images
from corrclip_jax.ops.precision import float32_products
from corrclip_jax.regions.sources import find_regions
from corrclip_jax.runtime.kept_traces import keepable
from corrclip_jax.runtime.sharding import explicit_mesh, sharded
from corrclip_jax.text.embedding import TextEmbedding, as_text_embedding


@keepable
class SupportedResult(NamedTuple):
    """A `Result`, and what a bank said about each region.

    Rows of the last four are the regions of an image by ascending id, as `numpy.unique(regions)` lists them; the
    first may be the unsegmented pixels. Rows without a region, and of ids lost in the resized image, have no
    neighbours.

    Attributes:
      labels, scores, regions: as in `Result`.
      neighbours: ids of the nearest entries of the bank, nearest first; -1 where there are fewer.
      similarities: of the neighbours, larger is nearer (see `bank.search`).
      support: logits of the queries by the neighbours' values.
      own: logits of the queries by the region's own features, the mean of its pixels.
    """

    labels: Int[Array, "B H0 W0"]
    scores: Float[Array, "B H0 W0"]
    regions: Int[Array, "B H0 W0"]
    neighbours: Int[Array, "B R k"]
    similarities: Float[Array, "B R k"]
    support: Float[Array, "B R Q"]
    own: Float[Array, "B R Q"]


@keepable
class Result(NamedTuple):
    """Labels of a batch of images.

    Where there is no result, labels are -1 and scores NaN: outside of images of given sizes (there `regions` are -1
    too), in an image with more regions or windows than the cap, and where logits are not finite, as with damaged
    weights. Under `jax_debug_nans` these scores are 0.

    Attributes:
      labels: classes 0 .. K-1.
      scores: the winning class's probability, 0 .. 1, before the map correction.
      regions: the region maps that were used, 0 for unsegmented pixels.
    """

    labels: Int[Array, "B H0 W0"]
    scores: Float[Array, "B H0 W0"]
    regions: Int[Array, "B H0 W0"]


def make_segment(
    config: Config, *, mesh: Mesh | None = None, probability_points: int | None = None
) -> Callable[..., Any]:
    """The segmentation function of a configuration.

    It is called as `segment(params, images, text_emb, *, sizes=None, regions=None, bank=None)`:

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
    - `bank`: a `Bank` of unlabelled images, made with the same backbone and CLIP. `text_emb` must hold the queries
      in every CLIP that the bank has values of. With a mesh it is divided over its devices (`put_bank`).

    A call that does not fit into the device's memory ends in XLA's `RESOURCE_EXHAUSTED`: give fewer images a call,
    or less at once (`method.windows_per_chunk`, `method.rows_per_chunk`, `regions.points_per_chunk`). `Segmenter`
    halves its batches by itself.

    Args:
      config: the models and the numbers of the method.
      mesh: devices that share the images of a batch. By default, where images are divided over a mesh with
        explicit axes, that mesh.
      probability_points: also return the probabilities of all classes, at this many points along the longer side of
        each image (see `class_probabilities`).

    Returns:
      The function, which returns a `Result`, with a bank (and `config.parts.support`) a `SupportedResult`; with
      `probability_points` a pair of it and the probabilities, float16 [B, K, n, n], n at most the points and the
      images' sides.

    Raises:
      ValueError: by either function, for a configuration, parameters or arrays that do not fit, at trace time.
    """
    spatial_layers(config)

    def run(
        params: Any, text: Any, images: Any, sizes: Any, regions: Any, *, bank: Any = None, axes: Any = None
    ) -> Any:
        with float32_products(config.dtype):
            windows = sliding_windows(images.shape[1:3], sizes, config)
            if regions is None:
                regions, cap = find_regions(config, params, images, sizes)
            else:
                regions, cap = regions.astype(jnp.int32), config.method.max_regions + 1
            whole = support = None
            if config.method.similarity_of != "window":
                whole = whole_images(config, params, images, sizes, windows.resized(len(images)))
            features = image_features(config, params, images, regions, cap, windows, whole)
            if bank is not None and whole is not None and config.parts.support:
                inside = windows.fill_outside(regions)
                support = region_support(whole, inside, cap, bank, text, config.method, axes)
            points = None if probability_points is None else min(probability_points, max(images.shape[1:3]))
            return label_images(config, features, text, regions, cap, windows, support, points)

    def segment(
        params: Any, images: Any, text_emb: Any, *, sizes: Any = None, regions: Any = None, bank: Any = None
    ) -> Any:
        text = as_text_embedding(text_emb)
        check_inputs(config, params, images, text, sizes, regions, bank)
        sizes = None if sizes is None else jnp.asarray(sizes, jnp.int32)
        images, regions = jax.tree.map(jnp.asarray, (images, regions))  # of NumPy, where nothing is compiled
        devices = explicit_mesh(images) if mesh is None else mesh
        if devices is None:
            return run(params, text, images, sizes, regions, bank=bank)
        if bank is None:
            return sharded(run, devices)(params, text, images, sizes, regions)
        axes = devices.axis_names

        def run_divided(params: Any, text: Any, bank: Any, *batched: Any) -> Any:
            return run(params, text, *batched, bank=bank, axes=axes)

        spread = sharded(run_divided, devices, bank_specs(bank, axes))
        return spread(params, text, bank, images, sizes, regions)

    return segment


def image_features(
    config: Config,
    params: dict,
    images: UInt8[Array, "B H0 W0 3"],
    regions: Int[Array, "B H0 W0"],
    cap: int,
    windows: SlidingWindows,
    whole: WholeImages | None = None,
) -> Float[Array, "B ny nx gh gw D"] | Float[Array, "B n gh gw D"]:
    """Unit-length features of every window's cells; the windows of all images are one batch for the networks.

    Of padded images the windows are one axis of `windows_padded.most_windows`, an image's own first. Similarities
    are those of the features of `whole` images, where these are given.
    """

    def step(pixels: Array, regions: Array, similar: Array | None) -> Array:
        # A padded window holds one id more than its image.
        return normalise(window_step(config, params, pixels, regions, cap + 1, similar).features)

    return windows.map(step, images, regions, whole)


def label_images(
    config: Config,
    features: Float[Array, "B ny nx gh gw D"] | Float[Array, "B n gh gw D"],
    text: TextEmbedding,
    regions: Int[Array, "B H0 W0"],
    cap: int,
    windows: SlidingWindows,
    support: Support | None = None,
    points: int | None = None,
) -> Any:
    """Features to labels at the images' own size, corrected by region; joined with the support of regions.

    Returns:
      A `Result`, with support a `SupportedResult`; with `points` a pair of it and the `class_probabilities` of all
      images, float16 [B, K, points, points].
    """

    def one_image(
        image: ImageWindows, features: Array, regions: Array, support: Support | None
    ) -> tuple[Result, Array | None, Array | None]:
        ids = compact(regions, cap)
        grid = image.logits(features, text.features)
        fused = None if support is None else SupportMap(support, ids, image.size, image.resized)
        fuse = None if fused is None else fused.fuse
        found, scores = labels.classify(grid, image.rows, image.columns, text, config.method, fuse)
        counted = jnp.where(image.inside, ids, cap)
        if config.parts.correction:
            found = labels.correct_by_region(found, counted, cap, text.num_classes)
        own = None if support is None else labels.region_logits(grid, image.rows, image.columns, counted, cap)
        valid = image.inside & (ids.max() < cap) & (regions.min() >= 0) & image.fits
        result = Result(
            jnp.where(valid, found, -1),
            jnp.where(valid, scores, 0.0 if jax.debug_nans.value else jnp.nan),
            jnp.where(image.inside, regions, -1),
        )
        chances = None if points is None else class_probabilities(config, image, grid, text, points, fused)
        return result, own, chances

    result: Result
    result, own, chances = windows.map_images(one_image, features, windows.fill_outside(regions), support)
    joined = result if support is None else SupportedResult(*result, *support.as_results(), own)
    return joined if points is None else (joined, chances)


def class_probabilities(
    config: Config,
    image: ImageWindows,
    grid: Float[Array, "*n cells_y Q cells_x"],
    text: TextEmbedding,
    points: int,
    fused: SupportMap | None = None,
) -> Float16[Array, "K {points} {points}"]:
    """The probabilities of all classes, before the correction by region, at points that lie evenly over an image.

    An image has `points_per_side` of them, in the top left corner of its array; the values of a point are those of
    the pixel in the middle of its cell. What lies beyond is not to be used.
    """
    counts = points_per_side(image.size, points)
    rows, columns = (sample_pixels(image.size[axis], counts[axis], points) for axis in (0, 1))
    fuse = None
    if fused is not None:

        def fuse(logits: Array, numbers: Array) -> Array:
            return fused.fuse(logits, rows[numbers], columns)

    sampled = (jnp.asarray(image.rows)[rows], jnp.asarray(image.columns)[columns])
    return labels.probabilities(grid, *sampled, text, config.method, fuse)
