"""Ray Data: images labelled by actors on the machines of a cluster, from files, Parquet, tars and addresses.

`SegmentImages` is the callable class for `Dataset.map_batches`. Under `corrclip segment --engine ray`, `sources`
lists the images, `parts` knows which rows are there, and `cluster` runs the actors; `bank` builds banks. Ray,
PyArrow and fsspec (extra `ray`) are imported inside functions, JAX inside actors and by `bank`. Begin with
`segment_images.py`.
"""

from corrclip_jax.ray.segment_images import SegmentImages

__all__ = ["SegmentImages"]
