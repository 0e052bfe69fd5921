"""Many devices: photos are divided among them, parameters copied to each or kept in parts.

    mesh = jax.make_mesh((jax.device_count(),), ("photos",))
    segment = jax.jit(make_segment(config, mesh=mesh))
    params = put_params(params, mesh, parts=True)
    result = segment(params, put_batch(images, mesh), text_emb)       # every process gives its own photos
    labels = fetch_batch(result.labels)                               # and gets theirs back

A batch axis is divided over all axes of the mesh. A batch of plain `jit` would not be: photos are worked through in
loops, whose steps XLA does not divide among devices; inside `jax.shard_map` every device has a loop of its own.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Shaped

Tree = TypeVar("Tree")


def over_photos(mesh: Mesh) -> NamedSharding:
    """The first axis divided over all devices."""
    return NamedSharding(mesh, P(mesh.axis_names))


def sharded(function: Callable[..., Tree], mesh: Mesh) -> Callable[..., Tree]:
    """`function(params, text, *batched)` with every device at work on its part of the batched arguments.

    Parameters and text may arrive divided in any way; each device gets all of them.

    Raises:
      ValueError: by the function, where the batch cannot be divided evenly.
    """
    parts = P(mesh.axis_names)

    def call(params: Any, text: Any, *batched: Any) -> Tree:
        count = len(jax.tree.leaves(batched)[0])
        if count % mesh.size:
            raise ValueError(
                f"the batch must be divisible by the mesh's {mesh.size} devices. Got {count} photos: fill it up "
                "with photos of size 0 (sizes=)."
            )
        arguments, specs = (params, text, *batched), (P(), P(), *(parts for _ in batched))
        if AxisType.Explicit in mesh.axis_types:  # such arrays are never moved on the quiet
            arguments = tuple(_reshard(*pair, mesh) for pair in zip(arguments, specs, strict=True))
        # What is the same on all devices stays so, which the check cannot see through loops of unlike length.
        divided = jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=parts, check_vma=False)
        return divided(*arguments)

    return call


def _reshard(tree: Tree, spec: P, mesh: Mesh) -> Tree:
    return jax.tree.map(lambda x: jax.reshard(x, NamedSharding(mesh, spec)), tree)


def put_params(params: Tree, mesh: Mesh, *, parts: bool = False) -> Tree:
    """Parameters on the mesh: a copy on every device, or in `parts`.

    In parts (as in fully sharded data parallelism) each array is divided along its longest axis that the devices
    divide evenly, and small or odd ones are copied; a program gathers an array before it is used. Where the mesh
    spans processes, each must give the same parameters (and put text embeddings on the mesh in this way too).
    """

    def put(x: Any) -> Array:
        spec = P()
        if parts:
            fitting = [axis for axis, size in enumerate(x.shape) if size and size % mesh.size == 0]
            longest = max(fitting, key=lambda axis: x.shape[axis], default=None)
            if longest is not None:
                spec = P(*[None] * longest, mesh.axis_names)
        host = np.asarray(x)  # from where every process takes its own part
        return jax.make_array_from_callback(host.shape, NamedSharding(mesh, spec), lambda index: host[index])

    return jax.tree.map(put, params)


def put_batch(batch: Tree, mesh: Mesh) -> Tree:
    """This process's part of a batch (arrays, or a tree of them) to one array over all processes' devices."""
    place = over_photos(mesh)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(place, np.asarray(x)), batch)


def fetch_batch(array: Array) -> Shaped[np.ndarray, "..."]:
    """This process's part of a result, in the order in which its part of the batch was put."""
    if array.is_fully_addressable:
        return np.asarray(array)
    own = {shard.index[0].start or 0: shard.data for shard in array.addressable_shards}
    return np.concatenate([np.asarray(own[start]) for start in sorted(own)])
