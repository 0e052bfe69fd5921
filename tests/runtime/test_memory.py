"""Chunks follow the device's memory, and memory follows neither the vocabulary nor the grid of points."""

import jax
import jax.numpy as jnp
import pytest
from jax import ShapeDtypeStruct as Spec

from corrclip_jax.config import Config, with_fields
from corrclip_jax.hub.presets import PRESETS
from corrclip_jax.method.segment import label_images
from corrclip_jax.method.sliding_windows import sliding_windows
from corrclip_jax.method.windows import plan_windows
from corrclip_jax.params.structure import expected_network
from corrclip_jax.regions.sources import find_regions
from corrclip_jax.runtime.memory import (
    device_bytes,
    points_at_once,
    rows_at_once,
    windows_at_once,
    with_memory_defaults,
)
from corrclip_jax.text.embedding import TextEmbedding, query_bucket

GIB = 1 << 30
HEIGHT, WIDTH = 1024, 2048


def temporaries(function, *arguments):
    """What XLA plans to hold besides arguments and results, in bytes."""
    return jax.jit(function).lower(*arguments).compile().memory_analysis().temp_size_in_bytes


@pytest.mark.slow
def test_labels_take_no_more_memory_for_a_large_vocabulary():
    config = PRESETS["vit-b"]
    plan = plan_windows(HEIGHT, WIDTH, config.method)
    layout = sliding_windows((HEIGHT, WIDTH), None, config)
    grid = (len(plan.y.starts), len(plan.x.starts), 42, 42)
    taken, logits = {}, {}
    for classes in (21, 847):
        queries = query_bucket(classes)

        def labels(features, vectors, owner, regions, queries=queries):
            return label_images(config, features, TextEmbedding(vectors, owner, queries), regions, 65, layout)

        taken[classes] = temporaries(
            labels,
            Spec((1, *grid, 512), jnp.float32),
            Spec((queries, 512), jnp.float32),
            Spec((queries,), jnp.int32),
            Spec((1, HEIGHT, WIDTH), jnp.int32),
        )
        logits[classes] = 4 * queries * grid[0] * grid[1] * grid[2] * grid[3]
    assert taken[847] <= 1.3 * taken[21] + sum(logits.values())
    assert taken[847] < 4 * queries_times_photo(847) / 50


def queries_times_photo(classes):
    return query_bucket(classes) * HEIGHT * WIDTH


@pytest.mark.slow
def test_the_thorough_grid_of_points_on_a_large_photo_takes_less_than_2_gib():
    config = with_fields(
        PRESETS["vit-b"],
        regions={"points_per_side": 32},
        # As published but for the stages' depth, which memory does not depend on, but the time to compile.
        sam2={"stages": (1, 1, 2, 1), "global_blocks": (3,)},
    )
    assert config.sam2 is not None
    params = {"sam2": expected_network(config.sam2)}
    find = lambda params, images: find_regions(config, params, images)[0]  # noqa: E731
    assert temporaries(find, params, Spec((1, HEIGHT, WIDTH, 3), jnp.uint8)) < 2 * GIB


@pytest.mark.parametrize("choose", [windows_at_once, points_at_once])
def test_more_memory_takes_more_at_once_up_to_what_pays(choose):
    config = PRESETS["vit-b"]
    chosen = [choose(config, memory) for memory in (GIB // 64, 4 * GIB, 16 * GIB, 80 * GIB, 800 * GIB)]
    assert chosen[0] == 1
    assert chosen == sorted(chosen)
    assert 1 < chosen[2] <= chosen[3] == chosen[4]


def test_points_are_decoded_in_even_parts():
    for side in (8, 10, 32):
        config = with_fields(PRESETS["vit-b"], regions={"points_per_side": side})
        parts = [points_at_once(config, memory * GIB) for memory in (4, 16, 80)]
        assert 1 < parts[0] < parts[2]
        assert all(side**2 % part == 0 for part in parts)


def test_bfloat16_and_small_windows_leave_room_for_more_windows():
    config = PRESETS["vit-b"]
    full = windows_at_once(config, 8 * GIB)
    assert windows_at_once(with_fields(config, dtype="bfloat16"), 8 * GIB) > full
    assert windows_at_once(with_fields(config, method={"window": 224}), 8 * GIB) > full


def test_a_cpu_gets_what_its_caches_like():
    config = PRESETS["vit-b"]
    assert windows_at_once(config, None) == points_at_once(config, None) == 1
    assert windows_at_once(with_fields(config, method={"window": 112}), None) > 1
    assert rows_at_once(None, 32, 2048, None) == 64
    assert rows_at_once(None, 10**6, 2048, None) == 1


def test_what_is_configured_counts():
    config = with_fields(
        Config(),
        method={"windows_per_chunk": 3, "rows_per_chunk": 5},
        regions={"points_per_chunk": 7},
    )
    for memory in (None, GIB, 80 * GIB):
        assert windows_at_once(config, memory) == 3
        assert points_at_once(config, memory) == 7
        assert rows_at_once(config.method.rows_per_chunk, 32, 500, memory) == 5
        assert with_memory_defaults(config, memory, queries=32, width=500) == config
    assert None not in (
        (filled := with_memory_defaults(Config(), GIB, queries=32, width=500)).method.rows_per_chunk,
        filled.method.windows_per_chunk,
        filled.regions.points_per_chunk,
    )


@pytest.mark.parametrize(("reported", "known"), [(None, None), ({}, None), ({"bytes_limit": 5}, 5)])
def test_the_memory_is_what_the_device_reports(monkeypatch, reported, known):
    class Device:
        memory_stats = staticmethod(lambda: reported)

    monkeypatch.setattr(jax, "local_devices", lambda: [Device()])
    assert device_bytes() == known
