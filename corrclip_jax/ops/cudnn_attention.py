"""cuDNN's flash attention, as a call that can be lowered on any machine.

`jax.nn.dot_product_attention(implementation="cudnn")` emits the same call, but needs cuDNN where it is traced: a
machine without it could not export a program for GPUs. The kernel runs on compute capability 8.0 (Ampere) and
later.
Shapes: B batch, T queries, S keys, H heads, D head width.
"""

import json
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap
from jaxtyping import Array, Bool, Float

from corrclip_jax.ops.one_batch import one_batch

TARGETS = ("__cudnn$fmhaSoftmax", "__cudnn$fmhaScaleBiasSoftmax")
"""The custom calls, without and with a bias."""
EXPORT_CHECKS = tuple(jax.export.DisabledSafetyCheck.custom_call(target) for target in TARGETS)
"""What `jax.export.export(disabled_checks=)` needs: JAX vouches for no custom call of its own in other versions."""

_HIDDEN = -(2.0**41)  # what a masked logit gets: far below any other, and finite, in bfloat16 as in float16
_TYPES = {"bfloat16": "BF16", "float16": "F16"}
_WIDEST_HEAD = 128
_SMALLEST_MATRIX = 64 * 64  # below, one small product is no dearer than the kernel's start
_OLDEST_DEVICE = 8.0

for _target in TARGETS:  # a batch that is spread over devices stays so
    jax.ffi.register_ffi_target_as_batch_partitionable(_target)


def can_flash(q: Any, k: Any) -> bool:
    """Whether the kernel takes queries [B, T, H, D] and keys [B, S, H, D], and the GPUs here can run it."""
    width = q.shape[-1]
    fits = q.dtype.name in _TYPES and width % 8 == 0 and width <= _WIDEST_HEAD
    return fits and q.shape[1] * k.shape[1] >= _SMALLEST_MATRIX and _devices_can()


def flash_attention(
    q: Float[Array, "B T H D"],
    k: Float[Array, "B S H D"],
    v: Float[Array, "B S H D"],
    mask: Bool[Array, "B T S"] | None = None,
    *,
    scale: float | None = None,
) -> Float[Array, "B T H D"]:
    """Scaled dot-product attention in bfloat16 or float16 with a float32 softmax, without ever holding its matrix.

    A query sees the keys where `mask` is True; `scale` is by default D ** -0.5. Mapped over queries alone
    (`jax.vmap`, keys and values shared), the queries of all examples go through one call.
    """
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    if mask is None:
        return _plain(scale)(q, k, v)
    return _masked(scale)(q, k, v, mask)


@lru_cache
def _plain(scale: float) -> Callable[..., Array]:
    @custom_vmap
    def attend(q: Array, k: Array, v: Array) -> Array:
        return _call(q, k, v, None, scale)

    @attend.def_vmap
    def attend_all(count: int, mapped: Any, q: Array, k: Array, v: Array) -> tuple[Array, bool]:
        if mapped == [True, False, False]:
            queries = jnp.moveaxis(q, 0, 1)
            out = attend(queries.reshape(queries.shape[0], -1, *queries.shape[3:]), k, v)
            return jnp.moveaxis(out.reshape(queries.shape), 1, 0), True
        return one_batch(attend, (q, k, v), _axes(mapped)), True

    return attend


@lru_cache
def _masked(scale: float) -> Callable[..., Array]:
    @custom_vmap
    def attend(q: Array, k: Array, v: Array, mask: Array) -> Array:
        bias = jnp.where(mask, 0, _HIDDEN).astype(q.dtype)
        return _call(q, k, v, bias[:, None], scale)

    @attend.def_vmap
    def attend_all(count: int, mapped: Any, *operands: Array) -> tuple[Array, bool]:
        return one_batch(attend, operands, _axes(mapped)), True

    return attend


def _axes(mapped: Any) -> list[int | None]:
    """`custom_vmap` moves what it maps to the first axis."""
    return [0 if is_mapped else None for is_mapped in mapped]


def _call(q: Array, k: Array, v: Array, bias: Array | None, scale: float) -> Array:
    batch, queries, heads, width = q.shape
    shape = (batch, heads, queries, width)
    operands = (q, k, v) if bias is None else (q, k, v, bias)
    call = jax.ffi.ffi_call(
        TARGETS[bias is not None],
        (jax.ShapeDtypeStruct(shape, q.dtype), jax.ShapeDtypeStruct((0,), jnp.uint8)),  # and a workspace
        output_layouts=((0, 2, 1, 3), (0,)),
        custom_call_api_version=2,
        legacy_backend_config=json.dumps(_settings(q, k, scale)),
    )
    return call(*operands)[0].swapaxes(1, 2)


def _settings(q: Any, k: Any, scale: float) -> dict[str, Any]:
    """What XLA's GPU compiler reads of the call (its message `CudnnfMHABackendConfig`)."""
    batch, queries, heads, _ = q.shape
    return {
        "operation_queue_id": "0",
        "cudnn_fmha_backend_config": {
            "algorithm": {
                "algo_id": "0",
                "math_type": "TENSOR_OP_MATH",
                "tuning_knobs": {"17": "1", "24": "0"},
                "is_cudnn_frontend": True,
                "workspace_size": "0",
            },
            "fmha_scale": scale,
            # The attention matrix [B, H, T, S], which exists on paper only.
            "intermediate_tensor_shape": {
                "element_type": _TYPES[q.dtype.name],
                "dimensions": [str(n) for n in (batch, heads, queries, k.shape[1])],
                "tuple_shapes": [],
                "layout": {
                    "dim_level_types": [],
                    "dim_unique": [],
                    "dim_ordered": [],
                    "minor_to_major": ["3", "2", "1", "0"],
                    "tiles": [],
                    "element_size_in_bits": "0",
                    "memory_space": "0",
                    "index_primitive_type": "PRIMITIVE_TYPE_INVALID",
                    "pointer_primitive_type": "PRIMITIVE_TYPE_INVALID",
                    "dynamic_shape_metadata_prefix_bytes": "0",
                },
                "is_dynamic_dimension": [False] * 4,
            },
            "is_flash_attention": True,
            "mask_type": "NO_MASK",
            "bmm1_dot_dimension_numbers": _contract("3", "3", ["0", "2"], ["0", "2"]),
            "bmm2_dot_dimension_numbers": _contract("3", "1", ["0", "1"], ["0", "2"]),
            "dropout_rate": 0.0,
            "seed": 42,
            "sliding_window_length": 0,
            "max_seg_per_batch": 1,
            "is_paged_attention": False,
        },
    }


def _contract(left: str, right: str, left_batch: list[str], right_batch: list[str]) -> dict[str, list[str]]:
    return {
        "lhs_contracting_dimensions": [left],
        "rhs_contracting_dimensions": [right],
        "lhs_batch_dimensions": left_batch,
        "rhs_batch_dimensions": right_batch,
    }


def _devices_can() -> bool:
    capabilities = [getattr(device, "compute_capability", None) for device in jax.devices()]
    return all(float(one) >= _OLDEST_DEVICE for one in capabilities if one is not None)
