"""Compilation for accelerators that are not here: what the compilers of TPUs and GPUs say of a model's program.

A compiler gives the memory that the program takes; that of TPUs (`libtpu`) also estimates the cycles of every
operation but of custom kernels; that of GPUs (JAX's CUDA plugin) shows which operations became calls of cuBLAS and
cuDNN. Nothing runs. The body of a loop counts as often as the loop runs, or once where only the data say how often
that is.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

from corrclip_jax.bench.compiled_program import Report, read_program
from corrclip_jax.bench.flops import flops_of
from corrclip_jax.bench.stages import draw_bank, draw_classes, settings_of, whole_program
from corrclip_jax.bench.targets import (
    COMPILER_OPTIONS,
    Target,
    checked_target,
    compiler_package,
    described_devices,
)
from corrclip_jax.config import Config
from corrclip_jax.models.layers import in_compute_type
from corrclip_jax.params.structure import expected_params
from corrclip_jax.runtime.environment import versions
from corrclip_jax.runtime.memory import assumed_memory


def compile_for(
    config: Config,
    kind: str,
    *,
    height: int,
    width: int,
    batch: int = 1,
    classes: int = 21,
    chips: int = 1,
    bank_entries: int = 0,
    progress: Callable[[str], None] = lambda step: None,
) -> Report:
    """Compile the whole program of a model for TPUs or GPUs, on any Linux machine with the extra for them.

    Args:
      config: the model; its parameters are only shapes, in the types that a `Segmenter` holds.
      kind: a name of `bench.targets.TARGETS`.
      height: of the images, in pixels.
      width: of the images, in pixels.
      batch: number of images in a call, on all chips together.
      classes: number of classes, with one name each.
      chips: 1, or the size of a mesh over which the images are divided.
      bank_entries: entries of a bank, for a model of CorrCLIPv2; 0 for none.
      progress: called with the name of each step as it begins.

    Returns:
      `bytes` that one chip needs for arguments, results, temporaries and (of TPUs) code, and whether they fit it;
      `flops` of one chip's share of products and convolutions, and the seconds that they take at its peak rate;
      `collectives` by name; the number of `loops_counted_once`. For TPUs `cycles` estimated for one chip, in all
      and by stage, and those of the products at the peak rate; the number of custom `kernels`, of which the
      compiler estimates nothing, their own flops, and the cycles that these take at half the peak rate; the number
      of other operations without an estimate (`unestimated`). For GPUs `launches` of kernels, in all and by stage,
      and how many of them are cuBLAS' and cuDNN's.

    Raises:
      ValueError: for another kind, another number of chips, or a batch that the chips do not divide.
      MissingExtraError: where the compiler is not installed.
    """
    target = checked_target(kind, chips, batch)
    devices = described_devices(target, chips)
    mesh = Mesh(devices, ("images",)) if chips > 1 else None
    whole: Any = SingleDeviceSharding(devices[0]) if mesh is None else NamedSharding(mesh, PartitionSpec())
    divided = whole if mesh is None else NamedSharding(mesh, PartitionSpec("images"))
    program = whole_program(config, mesh)
    text = draw_classes(config, classes)
    bank = draw_bank(bank_entries, config) if bank_entries else None
    images = jax.ShapeDtypeStruct((batch, height, width, 3), jnp.uint8, sharding=divided)
    held = jax.eval_shape(lambda params: in_compute_type(params, config.dtype), expected_params(config))
    params, text, bank = (_placed(tree, whole) for tree in (held, text, bank))
    progress("Tracing")
    start = time.perf_counter()
    with assumed_memory(int(target.bytes)):
        traced = jax.jit(program).trace(params, images, text, bank)
        settings = settings_of(config, height, width, batch, classes, bank_entries)
    lowered = traced.lower(lowering_platforms=(target.platform,))
    traced_at = time.perf_counter()
    progress(f"Compiling for {kind}")
    with _nothing_cached():
        compiled = lowered.compile(compiler_options=COMPILER_OPTIONS[target.platform])
    done = time.perf_counter()
    progress("Counting")
    counted = "tpu" if target.platform == "tpu" else "gpu"
    flops, in_kernels = (flops_of(traced.jaxpr, counted, kernels_only=only) for only in (False, True))
    return {
        "model": config.name,
        "target": {"kind": kind, "chips": chips, "topology": target.topologies[chips]},
        "settings": settings,
        "trace_seconds": traced_at - start,
        "compile_seconds": done - traced_at,
        **_memory(compiled, target),
        **_arithmetic(flops / chips, in_kernels / chips, target),
        **read_program(compiled.as_text(), target.platform),
        "versions": versions("python", "jax", "jaxlib", compiler_package(target)),
    }


@contextmanager
def _nothing_cached() -> Iterator[None]:
    """JAX cannot read back what it keeps of programs for devices that are not here."""
    settings: Any = jax.config
    before = settings.jax_enable_compilation_cache
    settings.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()  # else JAX does not look at the setting again
    try:
        yield
    finally:
        settings.update("jax_enable_compilation_cache", before)
        compilation_cache.reset_cache()


def _placed(tree: Any, sharding: Any) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)


def _memory(compiled: Any, target: Target) -> Report:
    memory = compiled.memory_analysis()
    held = {
        "arguments": memory.argument_size_in_bytes,
        "results": memory.output_size_in_bytes,
        "temporaries": memory.temp_size_in_bytes,
    }
    if target.platform == "tpu":  # for GPUs it is not known before the program is loaded
        held["code"] = memory.generated_code_size_in_bytes
    return {"bytes": held, "bytes_of_a_chip": target.bytes, "fits": sum(held.values()) <= target.bytes}


def _arithmetic(flops: float, in_kernels: float, target: Target) -> Report:
    seconds = flops / target.flops_per_second
    cycles_per_flop = None if target.hertz is None else target.hertz / target.flops_per_second
    return {
        "flops": flops,
        "kernel_flops": in_kernels,
        "floor_seconds": seconds,
        "floor_cycles": None if cycles_per_flop is None else flops * cycles_per_flop,
        "kernel_cycles_at_half_rate": None if cycles_per_flop is None else 2 * in_kernels * cycles_per_flop,
    }
