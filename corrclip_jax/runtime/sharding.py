"""Sharding: the images of a batch divided among devices, parameters copied to each or sharded.

    mesh = jax.make_mesh((jax.device_count(),), ("images",))
    segment = jax.jit(make_segment(config, mesh=mesh))
    params = put_params(params, mesh, shard=True)
    result = segment(params, put_batch(images, mesh), text_emb)       # every process puts its own images
    labels = fetch_batch(result.labels)                               # and fetches their labels

A batch axis is divided over all axes of the mesh. Plain `jit` would not divide it: images are processed in loops,
whose steps XLA does not distribute; inside `jax.shard_map` every device runs a loop of its own.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Shaped

Tree = TypeVar("Tree")


def over_images(mesh: Mesh) -> NamedSharding:
    """The first axis divided over all devices."""
    return NamedSharding(mesh, P(mesh.axis_names))


def explicit_mesh(array: Any) -> Mesh | AbstractMesh | None:
    """The mesh with explicit axes over which an array's first axis is divided; None where it is not.

    Such arrays carry their division in their type (`jax.typeof`), under `jit` as well.
    """
    sharding = jax.typeof(array).sharding
    if not sharding.spec or sharding.spec[0] is None:
        return None
    return sharding.mesh if isinstance(array, jax.core.Tracer) else array.sharding.mesh


def sharded(
    function: Callable[..., Tree], mesh: Mesh | AbstractMesh, bank: Any = None
) -> Callable[..., Tree]:
    """`function(params, text, *batched)` with the batched arguments divided among the devices.

    Parameters and text may arrive divided in any way; each device gets all of them. With the specs of a `bank` it
    is `function(params, text, bank, *batched)`, and the bank is divided by these.

    Raises:
      ValueError: by the function, where the batch cannot be divided evenly.
    """
    divided_spec = P(mesh.axis_names)
    whole: tuple[Any, ...] = (P(), P()) if bank is None else (P(), P(), bank)

    def call(*arguments: Any) -> Tree:
        batched = arguments[len(whole) :]
        count = len(jax.tree.leaves(batched)[0])
        if count % mesh.size:
            raise ValueError(
                f"the batch must be divisible by the mesh's {mesh.size} devices. Got {count} images: fill it up "
                "with images of size 0 (sizes=)."
            )
        specs = (*whole, *(divided_spec for _ in batched))
        if AxisType.Explicit in mesh.axis_types:  # such arrays are never moved implicitly
            arguments = tuple(_reshard(*pair, mesh) for pair in zip(arguments, specs, strict=True))
        # Replicated values stay replicated; the check cannot see that through loops of different lengths.
        divided = jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=divided_spec, check_vma=False)
        return divided(*arguments)

    return call


def _reshard(tree: Tree, spec: Any, mesh: Mesh | AbstractMesh) -> Tree:
    """A tree divided by one spec, or by a tree of specs of the same structure."""
    specs = jax.tree.map(lambda _: spec, tree) if isinstance(spec, P) else spec
    return jax.tree.map(
        lambda one, x: jax.reshard(x, NamedSharding(mesh, one)),
        specs,
        tree,
        is_leaf=lambda x: isinstance(x, P),
    )


def put_params(params: Tree, mesh: Mesh, *, shard: bool = False) -> Tree:
    """Parameters on a mesh: a copy on every device, or sharded.

    Sharded (as in fully sharded data parallelism) each array is divided along its longest axis that the devices
    divide evenly, and small or odd ones are copied; a program gathers an array before it is used.

    Args:
      params: a tree of arrays. Where the mesh spans processes, each process must give the same (and put text
        embeddings on the mesh in this way too).
      mesh: the devices.
      shard: whether to divide the arrays.

    Returns:
      The tree as JAX arrays on the mesh.
    """

    def put(x: Any) -> Array:
        spec = P()
        if shard:
            fitting = [axis for axis, size in enumerate(x.shape) if size and size % mesh.size == 0]
            longest = max(fitting, key=lambda axis: x.shape[axis], default=None)
            if longest is not None:
                spec = P(*[None] * longest, mesh.axis_names)
        host = np.asarray(x)  # from where every process takes its own part
        return jax.make_array_from_callback(host.shape, NamedSharding(mesh, spec), lambda index: host[index])

    return jax.tree.map(put, params)


def put_batch(batch: Tree, mesh: Mesh) -> Tree:
    """This process's part of a batch as arrays over the devices of all processes.

    Args:
      batch: an array, or a tree of them, whose first axis is the images of this process.
      mesh: the devices, which must divide the whole batch evenly.

    Returns:
      The tree as JAX arrays, the parts of all processes in the order of the processes.
    """
    sharding = over_images(mesh)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), batch)


def fetch_batch(array: Array) -> Shaped[np.ndarray, "..."]:
    """This process's part of a result as a NumPy array, in the order in which its part of the batch was put."""
    if array.is_fully_addressable:
        return np.asarray(array)
    own = {shard.index[0].start or 0: shard.data for shard in array.addressable_shards}
    return np.concatenate([np.asarray(own[start]) for start in sorted(own)])
