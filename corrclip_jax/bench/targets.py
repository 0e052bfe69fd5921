"""Accelerators that programs are compiled for without having one: TPUs, and NVIDIA GPUs of three generations."""

import os
from importlib.util import find_spec
from typing import Any, NamedTuple

from corrclip_jax.runtime.extras import require

_TPU_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",  # else libtpu asks the cloud's metadata server for minutes
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
_COMPILERS = {"tpu": ("programs for TPUs", "tpu-aot"), "cuda": ("programs for GPUs", "gpu-aot")}
_CUDA_PLUGINS = ("jax_cuda12_plugin", "jax_cuda13_plugin")
_SHARE = 0.75  # of a GPU's memory, which JAX takes if it is not told otherwise
_CUDNN = (9, 8)  # of the described GPU's machine; flash attention needs 8.9


class Target(NamedTuple):
    """A kind of accelerator.

    Attributes:
      platform: JAX's name of its compiler, "tpu" or "cuda".
      flops_per_second: peak rate of bfloat16 products of one chip, dense.
      bytes: memory of one chip that JAX takes.
      hertz: clock that a TPU's estimated cycles count in; None where it is not published, and for GPUs.
      topologies: the compiler's name of so many chips.
      description: of a GPU, as XLA's compiler reads it (its message `GpuTargetConfigProto`).
    """

    platform: str
    flops_per_second: float
    bytes: float
    hertz: float | None
    topologies: dict[int, str]
    description: str = ""


def _gpu(
    name: str, flops_per_second: float, capability: tuple[int, int], **properties: int | float
) -> Target:
    """An NVIDIA GPU by what its data sheet and the CUDA Programming Guide (compute capabilities) say of it."""
    fixed: dict[str, int | float] = {"threads_per_block_limit": 1024, "threads_per_warp": 32}
    fixed |= {"shared_memory_per_block": 48 << 10}
    fixed |= {"block_dim_limit_x": 2**31 - 1, "block_dim_limit_y": 65535, "block_dim_limit_z": 65535}
    fixed |= {"registers_per_core_limit": 65536, "registers_per_block_limit": 65536}
    # A block may have all of a core's shared memory but 1 KiB, which the driver takes.
    fixed |= {"shared_memory_per_block_optin": properties["shared_memory_per_core"] - 1024}
    lines = [f"{key}: {value}" for key, value in (fixed | properties).items()]
    major, minor = capability
    description = (
        f"gpu_device_info {{ {' '.join(lines)} cuda_compute_capability {{ major: {major} minor: {minor} }} }}"
        f' platform_name: "CUDA" device_description_str: "{name}"'
        f" dnn_version_info {{ major: {_CUDNN[0]} minor: {_CUDNN[1]} }}"
    )
    topologies = {chips: f"1x1x{chips}" for chips in (1, 4, 8)}  # partitions, hosts, GPUs of a host
    return Target(
        "cuda", flops_per_second, _SHARE * properties["device_memory_size"], None, topologies, description
    )


TARGETS = {
    "v5e": Target("tpu", 197e12, 16e9, 0.94e9, {1: "v5e:2x2", 4: "v5e:2x2", 8: "v5e:2x4"}),
    "v6e": Target("tpu", 918e12, 32e9, None, {1: "v6e:2x2", 4: "v6e:2x2", 8: "v6e:2x4"}),
    "a100": _gpu(
        "NVIDIA A100-SXM4-80GB",
        312e12,
        (8, 0),
        core_count=108,
        fpus_per_core=64,
        threads_per_core_limit=2048,
        shared_memory_per_core=164 << 10,
        l2_cache_size=40 << 20,
        memory_bandwidth=2_039_000_000_000,
        clock_rate_ghz=1.41,
        device_memory_size=80_000_000_000,
    ),
    "h100": _gpu(
        "NVIDIA H100 80GB HBM3",
        989e12,
        (9, 0),
        core_count=132,
        fpus_per_core=128,
        threads_per_core_limit=2048,
        shared_memory_per_core=228 << 10,
        l2_cache_size=50 << 20,
        memory_bandwidth=3_350_000_000_000,
        clock_rate_ghz=1.98,
        device_memory_size=80_000_000_000,
    ),
    "l4": _gpu(
        "NVIDIA L4",
        121e12,
        (8, 9),
        core_count=58,
        fpus_per_core=128,
        threads_per_core_limit=1536,
        shared_memory_per_core=100 << 10,
        l2_cache_size=48 << 20,
        memory_bandwidth=300_000_000_000,
        clock_rate_ghz=2.04,
        device_memory_size=24_000_000_000,
    ),
}
"""By the names that `corrclip bench --compile-for` takes."""

COMPILER_OPTIONS = {
    "tpu": {},
    # Triton's kernels for products are chosen by timing them, which needs the GPU; cuBLAS takes all of them then.
    "cuda": {"xla_gpu_enable_triton_gemm": False},
}


def checked_target(kind: str, chips: int, batch: int) -> Target:
    """The target of that name, if so many chips of it can share a batch and its compiler is here.

    Raises:
      ValueError: for another kind, another number of chips, or a batch that the chips do not divide.
      MissingExtraError: where the compiler is not installed.
    """
    if kind not in TARGETS:
        raise ValueError(f"the accelerator must be one of {', '.join(TARGETS)}. Got {kind!r}.")
    target = TARGETS[kind]
    if chips not in target.topologies:
        allowed = ", ".join(map(str, target.topologies))
        raise ValueError(f"the number of chips must be one of {allowed}. Got {chips}.")
    if batch % chips:
        raise ValueError(f"{chips} chips cannot divide a batch of {batch} images evenly: choose a multiple.")
    purpose, extra = _COMPILERS[target.platform]
    require(compiler_package(target), purpose, extra, "on Linux")
    return target


def compiler_package(target: Target) -> str:
    """The package that compiles for a target; of GPUs the one of CUDA 12, unless only that of 13 is installed."""
    if target.platform == "tpu":
        return "libtpu"
    return next(filter(find_spec, _CUDA_PLUGINS), _CUDA_PLUGINS[0])


def described_devices(target: Target, chips: int) -> list[Any]:
    """Devices that programs are compiled for, though none of them is here."""
    from jax.experimental import topologies

    if target.platform == "tpu":
        os.environ.update({name: value for name, value in _TPU_ENVIRONMENT.items() if name not in os.environ})
        described = topologies.get_topology_desc(platform="tpu", topology_name=target.topologies[chips])
    else:
        described = topologies.get_topology_desc(
            platform="cuda", target_config=target.description, topology=target.topologies[chips]
        )
    return list(described.devices[:chips])
