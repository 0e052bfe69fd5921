"""Measure a configuration: every stage, the whole program, the device beside them; a report of plain JSON types."""

import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from corrclip_jax.bench.clock import matmul_rate, seconds
from corrclip_jax.bench.flops import count_flops
from corrclip_jax.bench.stages import draw_photos, draw_text, take_apart
from corrclip_jax.config import Config
from corrclip_jax.method.segment import make_segment
from corrclip_jax.runtime.environment import versions
from corrclip_jax.runtime.memory import device_bytes, windows_at_once
from corrclip_jax.text.embedding import TextEmbedding, pad_queries, query_bucket

Report = dict[str, Any]


def measure(
    config: Config,
    params: dict,
    *,
    height: int,
    width: int,
    batch: int = 1,
    classes: int = 21,
    repeat: int = 5,
    announce: Callable[[str], None] = lambda step: None,
) -> Report:
    """Time every stage and the whole program on drawn photos [batch, height, width].

    A stage's `seconds` are those of a whole batch (median of `repeat`), its `share` that of the sum of the stages.
    `flops` are counted from the program (see `count_flops`), `rate_share` compares flops a second with the device's
    measured rate of matrix products in the towers' precision. Bytes: what XLA plans for arguments, results and
    temporaries, and the most that the device and this process ever held, where they say so.

    `announce` hears of each step.
    """
    images = draw_photos(batch, height, width)
    text = pad_queries(draw_text(classes, config.clip.embed_dim), query_bucket(classes))
    announce("Matrix products")
    rate = matmul_rate(config.dtype)
    announce("Inputs of the stages")
    rows = []
    for stage in take_apart(config, params, images, text):
        announce(f"Stage: {stage.name}")
        row = _program(stage.function, stage.arguments, rate, stage.times, repeat)
        rows.append({"name": stage.name, **row})
    total = sum(row["seconds"] for row in rows)
    for row in rows:
        row["share"] = row["seconds"] / total
    announce("The whole program")
    segment = make_segment(config)

    def program(params: dict, images: jax.Array, text: TextEmbedding) -> tuple[jax.Array, ...]:
        return tuple(segment(params, images, text))

    whole = _program(program, (params, images, text), rate, 1.0, repeat)
    whole["images_per_second"] = batch / whole["seconds"]
    # Another program, or a busy machine, changes the rate while we measure: the better of two counts.
    again = matmul_rate(config.dtype)
    for row in (*rows, whole):
        row["rate_share"] *= rate / max(rate, again)
    return {
        "model": config.name,
        "settings": {
            "height": height,
            "width": width,
            "batch": batch,
            "dtype": config.dtype,
            "regions": config.regions.source,
            "points_per_side": config.regions.points_per_side,
            "windows_per_chunk": windows_at_once(config, device_bytes()),
            "classes": classes,
            "repeat": repeat,
        },
        "matmul_flops_per_second": max(rate, again),
        "stages": rows,
        "program": whole,
        "peak_bytes": peak_bytes(),
        **environment(),
    }


def environment() -> Report:
    """Device, versions, and on Linux who gets huge pages: without them large arrays cost a CPU much time."""
    device = jax.devices()[0]
    return {
        "device": {"platform": device.platform, "kind": device.device_kind, "count": jax.device_count()},
        "versions": versions("python", "jax", "jaxlib", "flax", "numpy"),
        "huge_pages": _huge_pages(),
    }


def _huge_pages() -> str | None:
    """Linux's setting, the word in brackets of "always [madvise] never"; None elsewhere."""
    setting = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    return setting.read_text("utf-8").split("[")[1].split("]")[0] if setting.is_file() else None


def peak_bytes() -> dict[str, int | None]:
    """The most memory that the first device and this process have held so far; None where that is not known."""
    statistics = jax.devices()[0].memory_stats() or {}
    unit = 1 if sys.platform == "darwin" else 1024
    return {
        "device": statistics.get("peak_bytes_in_use"),
        "process": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit,
    }


def _program(
    function: Callable[..., Any], arguments: tuple[Any, ...], rate: float, times: float, repeat: int
) -> Report:
    """Compile and time one program, `times` of which make a batch."""
    jax.clear_caches()  # what was compiled for the stages' inputs
    start = time.perf_counter()
    compiled = jax.jit(function).lower(*arguments).compile()
    compile_seconds = time.perf_counter() - start
    compiled(*arguments)
    runs = [seconds(lambda: compiled(*arguments)) * times for _ in range(repeat)]
    flops = count_flops(function, *arguments) * times
    memory: Any = compiled.memory_analysis()
    taken = statistics.median(runs)
    return {
        "seconds": taken,
        "seconds_of_each": runs,
        "flops": flops,
        "rate_share": flops / taken / rate,
        "compile_seconds": compile_seconds,
        "bytes": {
            "arguments": memory.argument_size_in_bytes,
            "results": memory.output_size_in_bytes,
            "temporaries": memory.temp_size_in_bytes,
        },
    }
