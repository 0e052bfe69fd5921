"""Floating-point operations of a program, counted in its jaxpr: matrix products and convolutions, also in loops.

XLA's own cost analysis counts the body of a loop once and custom calls not at all; here the body of a loop
counts as often as it runs.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
from jax.extend import core

from corrclip_jax.ops import splash_attention


def count_flops(function: Callable, *args: Any, platform: str | None = None, **kwargs: Any) -> int:
    """Count the floating-point operations of matrix products and convolutions in one call; nothing is computed.

    A multiplication and its addition count as two. Of a choice between platforms, the branch of `platform`
    counts; of any other choice, the most expensive branch. A loop whose length depends on data (such as the
    painting of regions) counts once. What devices do on their shares counts for all of them.

    Args:
      function: the program.
      *args: its arguments; their leaves need only a shape and a dtype.
      platform: "cpu", "gpu" or "tpu"; by default the one in use.
      **kwargs: its keyword arguments.

    >>> from jax import ShapeDtypeStruct as Spec
    >>> count_flops(lambda a, b: a @ b, Spec((2, 3), "float32"), Spec((3, 5), "float32"))
    60
    """
    return flops_of(jax.make_jaxpr(function)(*args, **kwargs), platform or jax.default_backend())


def flops_of(jaxpr: core.ClosedJaxpr, platform: str, *, kernels_only: bool = False) -> int:
    """`count_flops` of a program that is traced already.

    Args:
      jaxpr: the program.
      platform: "cpu", "gpu" or "tpu".
      kernels_only: whether to count nothing but what custom kernels of TPUs do.
    """
    return _flops(jaxpr.jaxpr, _Counted(platform, kernels_only))


class _Counted(NamedTuple):
    """What counts: the branches of which platform, and whether only what a kernel does."""

    platform: str
    kernels_only: bool


def _flops(jaxpr: core.Jaxpr, counted: _Counted) -> int:
    return sum(_equation(equation, counted) for equation in jaxpr.eqns)


def _equation(equation: core.JaxprEqn, counted: _Counted) -> int:
    params = equation.params
    match equation.primitive.name:
        case "dot_general" | "conv_general_dilated" | "ffi_call" if counted.kernels_only:
            return 0
        case splash_attention.PRIMITIVE:
            # Operands [B, T, H, D], [B, S, H, D] and [B, S, H, V], padded to whole blocks.
            (batch, queries, heads, width), (_, keys, *_), (*_, value_width) = map(
                _shape, equation.invars[:3]
            )
            matrix = splash_attention.blocks(queries)[1] * splash_attention.blocks(keys)[1]
            return 2 * batch * heads * matrix * (width + value_width)
        case "dot_general":
            (contracted, _), _ = params["dimension_numbers"]
            left = _shape(equation.invars[0])
            return 2 * math.prod(_shape(equation.outvars[0])) * math.prod(left[axis] for axis in contracted)
        case "conv_general_dilated":
            kernel, out = _shape(equation.invars[1]), _shape(equation.outvars[0])
            # Each output value is the product of a patch with the kernel of one output channel.
            channel = params["dimension_numbers"].rhs_spec[0]
            return 2 * math.prod(out) * math.prod(kernel) // kernel[channel]
        case "scan":
            return params["length"] * _flops(params["jaxpr"].jaxpr, counted)
        case "cond":
            branches = [branch.jaxpr for branch in params["branches"]]
            if platforms := params.get("branches_platforms"):
                names = {"gpu": ("gpu", "cuda", "rocm")}.get(counted.platform, (counted.platform,))
                chosen = next(
                    i for i, known in enumerate(platforms) if known is None or set(known) & set(names)
                )
                branches = [branches[chosen]]
            return max(_flops(branch, counted) for branch in branches)
        case "ffi_call" if "fmha" in params["target_name"]:
            # Fused attention, operands [B, T, H, d] and [B, S, H, d]: two products of [T, S] and d.
            query, key = (_shape(variable) for variable in equation.invars[:2])
            return 4 * math.prod(query) * key[1]
        case "shard_map":
            return params["mesh"].size * sum(_flops(inner, counted) for inner in _inner(params))
        case _:
            return sum(_flops(inner, counted) for inner in _inner(params))


def _shape(variable: Any) -> tuple[int, ...]:
    return variable.aval.shape


def _inner(params: dict[str, Any]) -> Iterator[core.Jaxpr]:
    for value in params.values():
        for one in value if isinstance(value, tuple | list) else (value,):
            if isinstance(one, core.ClosedJaxpr):
                yield one.jaxpr
            elif isinstance(one, core.Jaxpr):
                yield one
