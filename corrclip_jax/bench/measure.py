"""Report of `corrclip bench`: every stage, the whole program and the device, as plain JSON types."""

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
from corrclip_jax.bench.stages import (
    draw_bank,
    draw_classes,
    draw_photos,
    settings_of,
    split_stages,
    whole_program,
)
from corrclip_jax.config import Config
from corrclip_jax.models.layers import in_compute_type
from corrclip_jax.runtime.environment import versions

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
    bank_entries: int = 0,
    progress: Callable[[str], None] = lambda step: None,
) -> Report:
    """Time every stage and the whole program on random images.

    Args:
      config: the model.
      params: its parameters.
      height: of the images, in pixels.
      width: of the images, in pixels.
      batch: number of images in a call.
      classes: number of classes, with one name each.
      repeat: runs of every program; the median counts.
      bank_entries: entries of a random bank, for a model of CorrCLIPv2; 0 for none.
      progress: called with the name of each step as it begins.

    Returns:
      For every stage: `seconds` for a whole batch, `share` of the sum of all stages, `flops` counted in the program
      (see `count_flops`), `rate_share`, which compares flops per second with the device's measured rate of matrix
      products in the same precision, and the bytes that XLA plans for arguments, results and temporaries. The
      same for the whole program; the peak memory of the device and of this process, where known; device and
      versions.
    """
    params = in_compute_type(params, config.dtype)
    images = draw_photos(batch, height, width)
    text = draw_classes(config, classes)
    bank = draw_bank(bank_entries, config) if bank_entries else None
    progress("Matrix products")
    rate = matmul_rate(config.dtype)
    progress("Inputs of the stages")
    rows = []
    for stage in split_stages(config, params, images, text, bank):
        progress(f"Stage: {stage.name}")
        row = _program(stage.function, stage.arguments, rate, stage.times, repeat)
        rows.append({"name": stage.name, **row})
    total = sum(row["seconds"] for row in rows)
    for row in rows:
        row["share"] = row["seconds"] / total
    progress("The whole program")
    whole = _program(whole_program(config), (params, images, text, bank), rate, 1.0, repeat)
    whole["images_per_second"] = batch / whole["seconds"]
    # Other programs on the machine may lower the rate while it is measured: the higher of two counts.
    again = matmul_rate(config.dtype)
    for row in (*rows, whole):
        row["rate_share"] *= rate / max(rate, again)
    return {
        "model": config.name,
        "settings": {
            **settings_of(config, height, width, batch, classes, bank_entries),
            "repeat": repeat,
        },
        "matmul_flops_per_second": max(rate, again),
        "stages": rows,
        "program": whole,
        "peak_bytes": peak_bytes(),
        **environment(),
    }


def environment() -> Report:
    """Device, versions, and the Linux setting of huge pages, without which a CPU is slow on large arrays."""
    device = jax.devices()[0]
    return {
        "device": {"platform": device.platform, "kind": device.device_kind, "count": jax.device_count()},
        "versions": versions("python", "jax", "jaxlib", "flax", "numpy"),
        "huge_pages": _huge_pages(),
    }


def _huge_pages() -> str | None:
    """The setting on Linux: the word in brackets of "always [madvise] never"; None elsewhere."""
    setting = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    return setting.read_text("utf-8").split("[")[1].split("]")[0] if setting.is_file() else None


def peak_bytes() -> dict[str, int | None]:
    """Peak memory so far, in bytes, of the first device and of this process; None if unknown."""
    statistics = jax.devices()[0].memory_stats() or {}
    unit = 1 if sys.platform == "darwin" else 1024
    return {
        "device": statistics.get("peak_bytes_in_use"),
        "process": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit,
    }


def _program(
    function: Callable[..., Any], arguments: tuple[Any, ...], rate: float, times: float, repeat: int
) -> Report:
    """Compile and time one program, which runs `times` times in a batch, and count its arithmetic."""
    timed = time_program(function, arguments, repeat, times)
    flops = count_flops(function, *arguments) * times
    return {**timed, "flops": flops, "rate_share": flops / timed["seconds"] / rate}


def time_program(
    function: Callable[..., Any], arguments: tuple[Any, ...], repeat: int, times: float = 1.0
) -> Report:
    """Compile and time one program.

    Args:
      function: of arrays.
      arguments: its inputs.
      repeat: runs, of which the median counts.
      times: how often a batch needs the program.

    Returns:
      `seconds` for a batch, also of each run, `compile_seconds`, and the `bytes` that XLA plans for arguments,
      results and temporaries.
    """
    jax.clear_caches()  # of programs that were compiled before, for the inputs of this one
    start = time.perf_counter()
    compiled = jax.jit(function).lower(*arguments).compile()
    compile_seconds = time.perf_counter() - start
    compiled(*arguments)
    runs = [seconds(lambda: compiled(*arguments)) * times for _ in range(repeat)]
    memory: Any = compiled.memory_analysis()
    return {
        "seconds": statistics.median(runs),
        "seconds_of_each": runs,
        "compile_seconds": compile_seconds,
        "bytes": {
            "arguments": memory.argument_size_in_bytes,
            "results": memory.output_size_in_bytes,
            "temporaries": memory.temp_size_in_bytes,
        },
    }
