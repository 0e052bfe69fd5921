"""TPU compilation without a TPU: what XLA's TPU compiler (`libtpu`) says of a model's whole program.

The compiler gives the memory that the program takes and an estimate of the cycles of every operation but of custom
kernels; nothing runs. The body of a loop counts as often as the loop runs, or once where only the data say how
often that is.
"""

import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

from corrclip_jax.bench.flops import flops_of
from corrclip_jax.bench.stages import draw_bank, draw_classes, settings_of, whole_program
from corrclip_jax.config import Config, with_fields
from corrclip_jax.models.layers import in_compute_type
from corrclip_jax.params.structure import expected_params
from corrclip_jax.runtime.environment import versions
from corrclip_jax.runtime.extras import require
from corrclip_jax.runtime.memory import windows_at_once

Report = dict[str, Any]


class Target(NamedTuple):
    """A kind of TPU.

    Attributes:
      flops_per_second: peak rate of bfloat16 products of one chip.
      bytes: memory of one chip.
      hertz: clock that estimated cycles count in; None where it is not published.
      topologies: the compiler's name of so many chips.
    """

    flops_per_second: float
    bytes: float
    hertz: float | None
    topologies: dict[int, str]


TARGETS = {
    "v5e": Target(197e12, 16e9, 0.94e9, {1: "v5e:2x2", 4: "v5e:2x2", 8: "v5e:2x4"}),
    "v6e": Target(918e12, 32e9, None, {1: "v6e:2x2", 4: "v6e:2x2", 8: "v6e:2x4"}),
}
_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",  # else libtpu asks the cloud's metadata server for minutes
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
_COLLECTIVE = re.compile(
    r" (all-gather|all-reduce|all-to-all|reduce-scatter|collective-permute)(?:-start)?\("
)
_NETWORK = re.compile(r"([A-Z]\w*)(?:\.(\w+))?")  # a Flax module and its method
_WRAPPER = re.compile(r"(?:vmap|jit|shard_map)\(|\)")
_LOOP = re.compile(r" while\(.*condition=%?([\w.\-]+), body=%?([\w.\-]+)")
_PARTS = (("attn", "attention"), ("mlp", "MLP"), ("norm", "norms"), ("ln_", "norms"))
_STEPS = ("correlate", "correct_by_region", "one_image")


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
    """Compile the whole program of a model for TPUs, on any Linux machine with the extra `tpu-aot`.

    Args:
      config: the model; its parameters are only shapes, in the types that a `Segmenter` holds.
      kind: a name of `TARGETS`.
      height: of the images, in pixels.
      width: of the images, in pixels.
      batch: number of images in a call, on all chips together.
      classes: number of classes, with one name each.
      chips: 1, or the size of a mesh over which the images are divided.
      bank_entries: entries of a bank, for a model of CorrCLIPv2; 0 for none.
      progress: called with the name of each step as it begins.

    Returns:
      `bytes` that one chip needs for arguments, results, temporaries and code, and whether they fit its memory;
      `cycles` estimated for one chip, in all and by stage; `flops` of one chip's share of products and
      convolutions, and the seconds and cycles that they take at its peak rate; `collectives` by name; the number
      of custom `kernels`, of which the compiler estimates nothing, their own flops, and the cycles that these
      take at half the peak rate; the number of `loops_counted_once`.

    Raises:
      ValueError: for another kind, another number of chips, or a batch that the chips do not divide.
      MissingExtraError: where `libtpu` is not installed.
    """
    target = _checked(kind, chips, batch)
    chunk = windows_at_once(config, int(target.bytes))
    config = with_fields(config, method={"windows_per_chunk": chunk})
    os.environ.update({name: value for name, value in _ENVIRONMENT.items() if name not in os.environ})
    from jax.experimental import topologies

    described: Any = topologies.get_topology_desc(platform="tpu", topology_name=target.topologies[chips])
    devices = described.devices[:chips]
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
    traced = jax.jit(program).trace(params, images, text, bank)
    lowered = traced.lower(lowering_platforms=("tpu",))
    traced_at = time.perf_counter()
    progress(f"Compiling for {kind}")
    with _nothing_cached():
        compiled = lowered.compile()
    done = time.perf_counter()
    progress("Counting")
    flops, in_kernels = (flops_of(traced.jaxpr, "tpu", kernels_only=only) for only in (False, True))
    return {
        "model": config.name,
        "target": {"kind": kind, "chips": chips, "topology": target.topologies[chips]},
        "settings": settings_of(config, height, width, batch, classes, bank_entries),
        "trace_seconds": traced_at - start,
        "compile_seconds": done - traced_at,
        **_memory(compiled, target),
        **_arithmetic(flops / chips, in_kernels / chips, target),
        **read_program(compiled.as_text()),
        "versions": versions("python", "jax", "jaxlib", "libtpu"),
    }


def read_program(text: str) -> Report:
    """Estimated cycles by stage, collectives and custom kernels of a compiled TPU program.

    Args:
      text: of the compiled program, with the compiler's estimates.

    Returns:
      `cycles`, the sum; `stages`, a list of names with cycles and shares, the dearest first; `collectives`, how
      often each occurs in the text; `kernels`, how many custom kernels do; `loops_counted_once`, how many loops
      have a length that only the data say.
    """
    stages: Counter[str] = Counter()
    unknown: set[str] = set()
    bodies, entry = _computations(text)

    def walk(name: str, times: int) -> None:
        for line in bodies.get(name, ()):
            if loop := _LOOP.search(line):
                condition, body = loop.groups()
                trips = _trips(line, bodies.get(condition, []))
                if trips is None:
                    unknown.add(body)
                walk(body, times * (trips or 1))
            elif " conditional(" in line:
                branches = line.partition("branch_computations=")[2].partition("}")[0]
                for branch in re.findall(r"%([\w.\-]+)", branches):
                    walk(branch, times)
            elif cycles := re.search(r'"estimated_cycles":"(\d+)"', line):
                operation = re.search(r'op_name="([^"]+)"', line)
                stages[stage_of(operation[1] if operation else "")] += int(cycles[1]) * times

    walk(entry, 1)
    total = stages.total()
    return {
        "cycles": total,
        "stages": [
            {"name": name, "cycles": cycles, "share": cycles / total}
            for name, cycles in stages.most_common()
            if cycles
        ],
        "loops_counted_once": len(unknown),
        "collectives": dict(Counter(_COLLECTIVE.findall(text))),
        "kernels": text.count('custom_call_target="tpu_custom_call"'),
    }


def stage_of(operation: str) -> str:
    """The stage that an operation belongs to, from its path: a network and its part, or a step of the method.

    >>> stage_of("jit(segment)/while/body/jit(apply)/DINO/blocks_3/attn/jit(attention)/dot_general")
    'DINO: attention'
    >>> stage_of("jit(segment)/while/body/closed_call/jit(correlate)/add")
    'correlate'
    """
    path = [_WRAPPER.sub("", part) for part in operation.split("/")]
    for place, part in enumerate(path, 1):
        if network := _NETWORK.fullmatch(part):
            name = " ".join(filter(None, network.groups())).replace("_", " ")
            inner = (title for key, title in _PARTS if any(key in one for one in path[place:]))
            return f"{name}: {next(inner, 'other')}"
    return next((part for part in reversed(path) if part in _STEPS), "other")


def _trips(line: str, condition: list[str]) -> int | None:
    """How often a loop runs, where the compiler or the loop's condition says it."""
    if known := re.search(r'"known_trip_count":\{"n":"(\d+)"', line):
        return int(known[1])
    limits = re.findall(r"constant\((\d+)\)", "\n".join(condition))
    return int(limits[0]) if len(limits) == 1 else None


def _computations(text: str) -> tuple[dict[str, list[str]], str]:
    """The lines of every computation of a program, and the name of the one that it begins with."""
    bodies: dict[str, list[str]] = {}
    name = entry = ""
    for line in text.splitlines():
        if start := re.match(r"^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$", line):
            name = start[2]
            entry = name if start[1] else entry
            bodies[name] = []
        elif name:
            bodies[name].append(line)
    return bodies, entry


def _checked(kind: str, chips: int, batch: int) -> Target:
    if kind not in TARGETS:
        raise ValueError(f"the kind of TPU must be one of {', '.join(TARGETS)}. Got {kind!r}.")
    target = TARGETS[kind]
    if chips not in target.topologies:
        allowed = ", ".join(map(str, target.topologies))
        raise ValueError(f"the number of chips must be one of {allowed}. Got {chips}.")
    if batch % chips:
        raise ValueError(f"{chips} chips cannot divide a batch of {batch} images evenly: choose a multiple.")
    require("libtpu", "programs for TPUs", "tpu-aot", "on Linux")
    return target


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
        "code": memory.generated_code_size_in_bytes,
    }
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
