"""The engine: transforms, and strictness with all faults at once."""

import jax
import ml_dtypes
import numpy as np
import pytest
import torch

from corrclip_jax.conversion.rules import (
    ConversionError,
    Rule,
    Sizes,
    Table,
    apply_table,
    linear,
    norm,
    place,
)
from corrclip_jax.conversion.transforms import TRANSFORMS

TABLE = Table(
    "Model",
    "test",
    rules=(
        *norm(r"norm\.(\d+)", r"norm_\1"),
        *linear(r"dense\.(\d+)", r"dense_\1"),
        Rule(r"qkv", ("q", None, "v"), "split_linear"),
        Rule(r"scale", "scale"),
    ),
    ignored=(r"mask", r"head\..*"),
)


def expected(**shapes) -> dict:
    return {name: jax.ShapeDtypeStruct(shape, np.float32) for name, shape in shapes.items()}


def model(layers: int = 3) -> dict:
    tree: dict = {"q": (4, 2, 3), "v": (4, 6), "scale": ()}
    for i in range(layers):
        tree |= {f"norm_{i}": {"scale": (4,), "bias": (4,)}, f"dense_{i}": {"kernel": (4, 5), "bias": (5,)}}
    return jax.tree.map(
        lambda shape: jax.ShapeDtypeStruct(shape, np.float32), tree, is_leaf=lambda x: isinstance(x, tuple)
    )


def tensors(layers: int = 3) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes: dict[str, tuple[int, ...]] = {"qkv": (18, 4), "scale": (), "mask": (9, 9), "head.weight": (3,)}
    for i in range(layers):
        shapes |= {f"norm.{i}.weight": (4,), f"norm.{i}.bias": (4,)}
        shapes |= {f"dense.{i}.weight": (5, 4), f"dense.{i}.bias": (5,)}
    return {name: np.asarray(rng.standard_normal(shape), np.float32) for name, shape in shapes.items()}


def faults_of(source: dict, tree: dict, table: Table = TABLE) -> ConversionError:
    with pytest.raises(ConversionError) as caught:
        apply_table(table, source, tree)
    return caught.value


def test_every_tensor_goes_to_its_place():
    source = tensors()
    tree = apply_table(TABLE, source, model())
    np.testing.assert_array_equal(tree["dense_1"]["kernel"], source["dense.1.weight"].T)
    np.testing.assert_array_equal(tree["norm_2"]["scale"], source["norm.2.weight"])
    np.testing.assert_array_equal(tree["q"], source["qkv"][:6].T.reshape(4, 2, 3))
    np.testing.assert_array_equal(tree["v"], source["qkv"][12:].T)
    assert tree["scale"].shape == ()


@pytest.mark.parametrize("name", sorted(TRANSFORMS))
def test_transforms_keep_every_value(name):
    shapes = {
        "conv": ((5, 3, 2, 7), [(2, 7, 3, 5)]),
        "conv_transpose": ((5, 3, 2, 7), [(2, 7, 3, 5)]),
        "copy": ((6,), [(2, 3)]),
        "linear": ((5, 6), [(2, 3, 5)]),
        "patches": ((5, 42), [(2, 7, 3, 5)]),
        "rows": ((3, 4), [(1, 4)] * 3),
        "split_bias": ((12,), [(2, 2)] * 3),
        "split_linear": ((12, 5), [(5, 2, 2)] * 3),
        "squeeze": ((1, 4, 1), [(4,)]),
    }
    source, targets = shapes[name]
    array = np.arange(np.prod(source)).reshape(source)
    parts = TRANSFORMS[name](array, targets)
    assert [part.shape for part in parts] == targets
    assert sorted(np.concatenate([part.ravel() for part in parts])) == sorted(array.ravel())


def test_heads_are_split_from_the_axis_that_holds_them():
    weight = np.arange(24).reshape(6, 4)  # (out, in)
    (kernel,) = TRANSFORMS["linear"](weight, [(4, 2, 3)])
    np.testing.assert_array_equal(kernel[:, 1, 2], weight[5])
    (out,) = TRANSFORMS["linear"](weight, [(2, 2, 6)])
    np.testing.assert_array_equal(out[1, 0], weight[:, 2])


def test_a_tensor_of_the_right_size_and_the_wrong_shape_is_refused():
    source = tensors() | {"dense.0.weight": np.zeros((4, 5), np.float32)}
    error = faults_of(source, model())
    assert error.faults["shape"] == ("dense.0.weight (4, 5): wanted dense_0/kernel (4, 5). Got (5, 4).",)
    assert "missing" not in error.faults or not error.faults["missing"]


def test_all_faults_come_in_one_error_and_are_symmetric():
    source = tensors()
    del source["norm.1.bias"], source["scale"]
    source["surplus.0"] = source["surplus.1"] = np.zeros(1, np.float32)
    source["dense.3.bias"] = np.zeros(5, np.float32)  # a block more than the model has
    source["dense.0.bias"] = np.zeros(7, np.float32)
    source["dense.1.weight"] = np.zeros(5, np.float32)
    source["norm.0.weight"] = np.full(4, np.nan, np.float32)
    source["norm.0.bias"] = np.zeros(4, np.int64)
    error = faults_of(source, model())
    assert {kind: entries for kind, entries in error.faults.items() if entries} == {
        "unknown": ("surplus.0", "surplus.1", "dense.3.bias"),
        "missing": ("norm.1.bias", "scale"),
        "shape": (
            "dense.0.bias (7,): wanted dense_0/bias (5,). Got (7,).",
            "dense.1.weight (5,): wanted dense_1/kernel (4, 5). Got other axes.",
        ),
        "values": ("norm.0.weight",),
        "type": ("norm.0.bias (int64)",),
    }
    assert "surplus.{0-1}" in str(error)
    assert "norm.1.bias" in str(error)


def test_a_name_that_two_rules_match_and_a_place_that_is_filled_twice_are_faults():
    table = Table(
        "Model",
        "test",
        rules=(Rule("a", "x"), Rule("a|b", "y"), Rule("c", "z"), Rule("d", "z")),
        ignored=("b",),
    )
    source = {name: np.zeros(2, np.float32) for name in "abcd"}
    error = faults_of(source, expected(x=(2,), y=(2,), z=(2,)), table)
    assert error.faults["ambiguous"] == ("a", "b")
    assert error.faults["double"] == ("z (from d)",)
    assert error.faults["missing"] == ("a",)  # fills both places


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_other_float_types_become_float32(dtype, kind):
    values = [0.5, -1.25, 3.0]  # exact in all of them
    if kind == "torch":
        source = {"scale": torch.tensor(values, dtype=getattr(torch, dtype))}
    else:
        source = {"scale": np.array(values, getattr(ml_dtypes, dtype, None) or dtype)}
    table = Table("Model", "test", (Rule("scale", "scale"),))
    tree = apply_table(table, source, expected(scale=(3,)))
    assert tree["scale"].dtype == np.float32
    np.testing.assert_array_equal(tree["scale"], values)


def test_a_double_that_overflows_float32_is_a_fault():
    table = Table("Model", "test", (Rule("scale", "scale"),))
    with np.errstate(over="ignore"):
        error = faults_of({"scale": np.array([1e300])}, expected(scale=(1,)), table)
    assert error.faults["values"] == ("scale",)


def test_sizes_tell_which_tensor_is_missing():
    sizes = Sizes(
        place(TABLE, {"dense.0.weight": (8, 3), "norm.0.weight": (3,), "norm.1.weight": (3,)}), "a model"
    )
    assert sizes.count("norm_{}/scale") == 2
    assert int(3 * sizes.ratio("dense_0/kernel")) == 8
    with pytest.raises(
        ConversionError, match="scale, which shows the model's size, needs 2 axes and the file has nothing"
    ):
        sizes.shape("scale", 2)
