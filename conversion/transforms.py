"""What a rule may do to a tensor: named functions of the array and the shapes wanted, giving the arrays.

torch keeps the output axis first, Flax last. Shapes prove nothing here, only parity with torch does: a transposed
convolution turned another way passes every shape check and is wrong.
"""

from collections.abc import Callable, Sequence

import numpy as np

from corrclip_jax.params.trees import Shape

Transform = Callable[[np.ndarray, Sequence[Shape | None]], list[np.ndarray]]


def _split_axes(array: np.ndarray, shape: Shape | None) -> np.ndarray:
    """`array` with axes split as `shape` has them (C -> H, d); as it is where the axes are not such splits."""
    if shape is None:
        return array
    axes = iter(shape)
    for size in array.shape:
        product = 1
        while product < size and (axis := next(axes, None)) is not None:
            product *= axis
        if size == 1:
            product = next(axes, 0)
        if product != size:
            return array
    return array if next(axes, None) is not None else array.reshape(shape)


def _one(change: Callable[[np.ndarray], np.ndarray]) -> Transform:
    """The transform of a tensor that goes to one place: `change`, then heads split off."""
    return lambda array, shapes: [_split_axes(change(array), shapes[0])]


def _linear(array: np.ndarray) -> np.ndarray:
    return array.transpose(1, 0)


def _conv(array: np.ndarray) -> np.ndarray:
    return array.transpose(2, 3, 1, 0)


def _patches(array: np.ndarray, shapes: Sequence[Shape | None]) -> list[np.ndarray]:
    """Rows over flattened patches in the order (channel, row, column), as the convolution that they are."""
    shape = shapes[0]
    assert shape is not None
    return [_conv(array.reshape(len(array), shape[2], *shape[:2]))]


def _split(change: Callable[[np.ndarray], np.ndarray]) -> Transform:
    """The transform of tensors stacked along the first axis: equal parts, each changed by `change`."""

    def transform(array: np.ndarray, shapes: Sequence[Shape | None]) -> list[np.ndarray]:
        parts = np.split(array, len(shapes))
        return [_split_axes(change(part), shape) for part, shape in zip(parts, shapes, strict=True)]

    return transform


def _squeeze(array: np.ndarray, shapes: Sequence[Shape | None]) -> list[np.ndarray]:
    """Axes of length one come or go; all others stay in their order."""
    shape = shapes[0]
    same = shape is not None and [n for n in array.shape if n != 1] == [n for n in shape if n != 1]
    return [array.reshape(shape) if same else array]


TRANSFORMS: dict[str, Transform] = {
    "copy": _one(lambda array: array),
    # torch's (out, in) -> (in, out)
    "linear": _one(_linear),
    # torch's (out, in, h, w) -> (h, w, in, out)
    "conv": _one(_conv),
    # torch's (out, in h w), a linear layer over patches -> (h, w, in, out)
    "patches": _patches,
    # torch's (in, out, h, w) -> (h, w, out, in), for nn.ConvTranspose(transpose_kernel=True)
    "conv_transpose": _one(_conv),
    # a fused projection (n out, in) -> n kernels; its bias -> n biases
    "split_linear": _split(_linear),
    "split_bias": _split(lambda array: array),
    "squeeze": _squeeze,
    # (n, ...) -> n tensors of (1, ...)
    "rows": _split(lambda array: array),
}
