"""Memory budget: how many windows, points and rows go through a program at once by default.

None of this changes results. On CPUs, whose memory JAX does not report, the sizes suit the caches.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import jax

from corrclip_jax.config import Config, SAM2Config, similarity_network, with_fields

_FLOAT = 4
# On a CPU: tokens of one pass through the networks, and bytes of one block of logits.
_CPU_CELLS, _CPU_LOGITS = 1600, 16 << 20
# On accelerators: shares of the memory, and amounts beyond which more at once gains nothing.
_WINDOWS_SHARE, _MOST_WINDOWS = 1 / 4, 32
_POINTS_SHARE, _POINTS_BYTES = 1 / 8, 1 << 30
_LOGITS_SHARE, _LOGITS_BYTES = 1 / 64, 1 << 30

_assumed: ContextVar[int | None] = ContextVar("assumed", default=None)


@contextmanager
def assumed_memory(size: int) -> Iterator[None]:
    """Trace programs as for a device of `size` bytes, whatever device is here."""
    token = _assumed.set(size)
    try:
        yield
    finally:
        _assumed.reset(token)


def device_bytes() -> int | None:
    """The memory that JAX may use on its first device; None where that is not reported, as on CPUs."""
    if (assumed := _assumed.get()) is not None:
        return assumed
    return (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")


def windows_at_once(config: Config, memory: int | None) -> int:
    """Windows that go through the networks together: `method.windows_per_chunk`, or what fits in `memory` bytes."""
    if config.method.windows_per_chunk is not None:
        return config.method.windows_per_chunk
    _, backbone = similarity_network(config)
    network, cells = backbone, (config.method.window // backbone.patch_size) ** 2
    if config.method.similarity_of == "image":
        network = config.clip.vision
        cells = (2 * (config.method.window // network.patch_size)) ** 2
    if memory is None:
        return max(1, _CPU_CELLS // cells)
    # The correlations' matrices, those of attention where it is not fused, and a block's activations.
    matrices = 4 if config.dtype == "bfloat16" else 4 + 2 * network.heads
    activations = (network.mlp_ratio + 8) * network.width
    if network is not backbone:
        activations += 6 * backbone.width  # the features at two pixels per cell and axis
    return _fitting(memory * _WINDOWS_SHARE, _FLOAT * cells * (matrices * cells + activations), _MOST_WINDOWS)


def images_at_once(config: Config, patches: int, memory: int | None) -> int:
    """Whole images of so many `patches` that go through the backbone of the similarities together."""
    _, backbone = similarity_network(config)
    if memory is None:
        return max(1, _CPU_CELLS // patches)
    matrices = 1 if config.dtype == "bfloat16" else 2 * backbone.heads
    activations = (backbone.mlp_ratio + 8) * backbone.width
    return _fitting(
        memory * _WINDOWS_SHARE, _FLOAT * patches * (matrices * patches + activations), _MOST_WINDOWS
    )


def points_at_once(config: Config, memory: int | None) -> int:
    """Points that SAM decodes together: `regions.points_per_chunk`, or what fits; one where `memory` is None.

    What fits is rounded to a divisor of all points, as a remainder would be a program of its own.
    """
    if config.regions.points_per_chunk is not None:
        return config.regions.points_per_chunk
    if memory is None:
        return 1
    each = _FLOAT * _point_values(config.sam2 or SAM2Config())
    points = config.regions.points_per_side**2
    most = _fitting(min(memory * _POINTS_SHARE, _POINTS_BYTES), each, points)
    return even_part(most, points)


def even_part(most: int, count: int) -> int:
    """The largest divisor of `count` up to `most`, or `most` where that is less than half of it.

    >>> even_part(18, 64), even_part(8, 100), even_part(18, 121), even_part(8, 121)
    (16, 5, 11, 8)
    """
    even = max(size for size in range(1, most + 1) if count % size == 0)
    return even if 2 * even >= most else most


def rows_at_once(rows: int | None, queries: int, width: int, memory: int | None) -> int:
    """Rows of an image whose logits [rows, queries, width] exist together: `rows`, or what fits."""
    if rows is not None:
        return rows
    budget = _CPU_LOGITS if memory is None else min(memory * _LOGITS_SHARE, _LOGITS_BYTES)
    return _fitting(budget, _FLOAT * queries * width, width)


def with_memory_defaults(config: Config, memory: int | None, *, queries: int, width: int) -> Config:
    """The configuration with every open number chosen for a device of `memory` bytes."""
    rows = rows_at_once(config.method.rows_per_chunk, queries, width, memory)
    return with_fields(
        config,
        method={"windows_per_chunk": windows_at_once(config, memory), "rows_per_chunk": rows},
        regions={"points_per_chunk": points_at_once(config, memory)},
    )


def _point_values(sam2: SAM2Config) -> int:
    """Numbers that the mask decoder holds for one point: its maps of the image in three resolutions."""
    coarse = sam2.embed_size**2 * sam2.embed_dim
    half, full = coarse * 4 // 4, coarse * 16 // 8
    return 6 * coarse + 2 * half + 3 * full


def _fitting(budget: int | float, each: int | float, most: int) -> int:
    return max(1, min(most, int(budget // each)))


def exhausted(error: Any) -> bool:
    """Whether an error says that a device ran out of memory."""
    return isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(error)


def too_large(name: object) -> str:
    """The message for an image, by its name, that does not fit into the memory."""
    return f"{name} is too large for the memory. Scale it down."


def with_advice(error: jax.errors.JaxRuntimeError) -> jax.errors.JaxRuntimeError:
    """The error, with a note on how to need less memory if it ran out."""
    if exhausted(error):
        error.add_note(
            "To need less memory, give fewer or smaller images a call, or lower in the configuration "
            "(with_fields) method.windows_per_chunk, method.rows_per_chunk, regions.points_per_chunk."
        )
    return error
