"""Count the arithmetic of a program from its jaxpr: matrix products and convolutions, loops and all.

XLA's own cost analysis counts a loop's body once and custom calls not at all; here a body counts as often as
it runs.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.extend import core


def count_flops(function: Callable, *args: Any, platform: str | None = None, **kwargs: Any) -> int:
    """Floating-point operations of the matrix products and convolutions of one call; nothing is computed.

    A multiplication and its addition are two. Of a choice between platforms the branch of `platform` (default: the
    one in use) counts, of any other choice the costliest. A loop whose length depends on data counts once, as
    where regions are painted. Leaves need a shape and a dtype only.

    >>> from jax import ShapeDtypeStruct as Spec
    >>> count_flops(lambda a, b: a @ b, Spec((2, 3), "float32"), Spec((3, 5), "float32"))
    60
    """
    jaxpr = jax.make_jaxpr(function)(*args, **kwargs)
    return _flops(jaxpr.jaxpr, platform or jax.default_backend())


def _flops(jaxpr: core.Jaxpr, platform: str) -> int:
    return sum(_equation(equation, platform) for equation in jaxpr.eqns)


def _equation(equation: core.JaxprEqn, platform: str) -> int:
    params = equation.params
    match equation.primitive.name:
        case "dot_general":
            (contracted, _), _ = params["dimension_numbers"]
            left = _shape(equation.invars[0])
            return 2 * math.prod(_shape(equation.outvars[0])) * math.prod(left[axis] for axis in contracted)
        case "conv_general_dilated":
            kernel, out = _shape(equation.invars[1]), _shape(equation.outvars[0])
            # Every output value is a product with one output channel's kernel.
            channel = params["dimension_numbers"].rhs_spec[0]
            return 2 * math.prod(out) * math.prod(kernel) // kernel[channel]
        case "scan":
            return params["length"] * _flops(params["jaxpr"].jaxpr, platform)
        case "cond":
            branches = [branch.jaxpr for branch in params["branches"]]
            if platforms := params.get("branches_platforms"):
                names = {"gpu": ("gpu", "cuda", "rocm")}.get(platform, (platform,))
                chosen = next(
                    i for i, known in enumerate(platforms) if known is None or set(known) & set(names)
                )
                branches = [branches[chosen]]
            return max(_flops(branch, platform) for branch in branches)
        case "ffi_call" if "fmha" in params["target_name"]:
            # Fused attention, operands [B, T, H, d] and [B, S, H, d]: two products of [T, S] and d.
            query, key = (_shape(variable) for variable in equation.invars[:2])
            return 4 * math.prod(query) * key[1]
        case _:
            return sum(_flops(inner, platform) for inner in _inner(params))


def _shape(variable: Any) -> tuple[int, ...]:
    return variable.aval.shape


def _inner(params: dict[str, Any]) -> Iterator[core.Jaxpr]:
    for value in params.values():
        for one in value if isinstance(value, tuple | list) else (value,):
            if isinstance(one, core.ClosedJaxpr):
                yield one.jaxpr
            elif isinstance(one, core.Jaxpr):
                yield one
