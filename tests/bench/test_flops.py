"""Counted arithmetic: loops, choices, platforms, convolutions, and whole towers against their own formula."""

import jax
import jax.numpy as jnp
import pytest
from jax import ShapeDtypeStruct as Spec
from jax.sharding import AbstractMesh, AxisType, PartitionSpec

from corrclip_jax.bench.flops import count_flops, flops_of
from corrclip_jax.config import Config, DINOConfig
from corrclip_jax.method.similarity import patch_features
from corrclip_jax.ops.attention import attention
from corrclip_jax.params.structure import expected_network

A, B = Spec((3, 5), jnp.float32), Spec((5, 5), jnp.float32)
ONCE = 2 * 3 * 5 * 5


def test_batched_products():
    assert count_flops(
        lambda a, b: jnp.einsum("nij,njk->nik", a, b), Spec((4, 3, 5), "f4"), Spec((4, 5, 2), "f4")
    ) == (2 * 4 * 3 * 5 * 2)


def test_loops_count_as_often_as_they_run():
    def scan(a, b):
        return jax.lax.scan(lambda x, _: (x @ b, None), a, None, length=7)[0]

    assert count_flops(scan, A, B) == 7 * ONCE
    assert count_flops(jax.jit(lambda a, b: jax.lax.map(lambda _: a @ b, jnp.arange(4))), A, B) == 4 * ONCE
    assert count_flops(lambda a, b: jax.lax.fori_loop(0, 6, lambda _, x: x @ b, a), A, B) == 6 * ONCE


def test_what_each_device_does_on_its_share_counts_for_all():
    mesh, divided = AbstractMesh((3,), ("images",), axis_types=(AxisType.Auto,)), PartitionSpec("images")
    specs = {"in_specs": (divided, PartitionSpec()), "out_specs": divided}
    assert count_flops(jax.shard_map(jnp.matmul, mesh=mesh, **specs), A, B) == ONCE


def test_a_loop_of_unknown_length_counts_once():
    def loop(n, a, b):
        return jax.lax.fori_loop(0, n, lambda _, x: x @ b, a)

    assert count_flops(loop, Spec((), jnp.int32), A, B) == ONCE


def test_the_costlier_choice_and_the_platforms_own_branch():
    def choice(flag, a, b):
        return jax.lax.cond(flag, lambda: a @ b @ b, lambda: a @ b)

    assert count_flops(choice, Spec((), bool), A, B) == 2 * ONCE

    def by_platform(a, b):
        return jax.lax.platform_dependent(a, b, cpu=lambda a, b: a @ b, default=lambda a, b: a @ b @ b)

    assert count_flops(by_platform, A, B, platform="cpu") == ONCE
    assert count_flops(by_platform, A, B, platform="gpu") == 2 * ONCE


def test_a_kernel_counts_by_its_grid_padding_included():
    heads = [Spec((3, 1100, 2, 64), jnp.bfloat16)] * 3
    padded = 3 * 2 * 4 * 1152 * 1152 * 64
    assert count_flops(attention, *heads, platform="tpu") == padded
    beside = jax.make_jaxpr(lambda x, *heads: (x @ x, attention(*heads)))(B, *heads)
    assert flops_of(beside, "tpu", kernels_only=True) == padded
    assert flops_of(beside, "cpu", kernels_only=True) == 0


@pytest.mark.parametrize("groups", [1, 2])
def test_convolutions(groups):
    def convolve(x, kernel):
        return jax.lax.conv_general_dilated(
            x, kernel, (2, 2), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups
        )

    image, kernel = Spec((1, 8, 8, 4), jnp.float32), Spec((2, 2, 4 // groups, 6), jnp.float32)
    assert count_flops(convolve, image, kernel) == 2 * (4 * 4 * 6) * (2 * 2 * 4 // groups)


@pytest.mark.parametrize("platform", ["cpu", "gpu", "tpu"])
def test_attention_costs_the_same_everywhere(platform):
    x = Spec((2, 300, 4, 16), jnp.bfloat16)
    assert count_flops(attention, x, x, x, platform=platform) == 4 * 2 * 4 * 300 * 300 * 16


def test_a_whole_tower_has_the_arithmetic_of_its_formula():
    config = Config(dino=DINOConfig(image_size=32, patch_size=8, width=48, layers=3, heads=3), sam2=None)
    width, tokens, cells = 48, 17, 16
    block = 2 * tokens * width * width * (4 + 8) + 4 * tokens * tokens * width
    last = 2 * tokens * width * width  # query plus key, which is one product
    embedding = 2 * cells * (8 * 8 * 3) * width
    got = count_flops(
        lambda params, pixels: patch_features(config, {"dino": params}, pixels),
        expected_network(config.dino),
        Spec((1, 32, 32, 3), jnp.float32),
    )
    assert got in (embedding + 2 * block + last, embedding + 2 * block + 2 * last)
