"""Float32 products of a program in float32 have all digits, those of one in bfloat16 enough of them."""

import re

import jax
import jax.numpy as jnp
import pytest

from corrclip_jax import make_segment
from corrclip_jax.config import with_fields
from corrclip_jax.ops.precision import float32_products
from corrclip_jax.params.structure import expected_params
from corrclip_jax.testing.models import small_config, small_text


@pytest.mark.parametrize(("dtype", "wanted"), [("float32", "HIGHEST"), (jnp.bfloat16, "HIGH")])
def test_products_are_as_precise_as_the_compute_type_needs(dtype, wanted):
    with float32_products(dtype):
        text = jax.jit(lambda x: x @ x).lower(jnp.ones((2, 2))).as_text()
    assert re.findall(r"precision = \[(\w+), (\w+)\]", text) == [(wanted, wanted)]


@pytest.mark.parametrize(("dtype", "allowed"), [("float32", {"HIGHEST"}), ("bfloat16", {"HIGH", "HIGHEST"})])
def test_no_float32_product_of_the_whole_program_is_left_to_the_device(dtype, allowed):
    config = with_fields(small_config(), dtype=dtype)
    images = jax.ShapeDtypeStruct((1, 40, 50, 3), jnp.uint8)
    traced = jax.jit(make_segment(config)).trace(expected_params(config), images, small_text(config))
    lines = traced.lower().as_text().splitlines()
    products = [line for line in lines if "stablehlo.dot_general" in line and "xf32>, " in line]
    assert len(products) > 10
    found = {precision for line in products for precision in re.findall(r"precision = \[(\w+),", line)}
    assert found and found <= allowed
    assert all("precision = " in line for line in products)
