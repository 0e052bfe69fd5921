"""A program of its own for `test_sharding`, which says by XLA_FLAGS how many devices there are.

python many_devices.py ALONE            8 devices in this process
python many_devices.py ALONE ID PORT    process ID of two, 2 devices each, joined by a coordinator at PORT

ALONE is a file of models and of the results of one device, which `test_sharding` writes.
"""

import pickle
import sys
from pathlib import Path

import jax
import numpy as np

from corrclip_jax import Segmenter, make_segment
from corrclip_jax.inference.buckets import Batch, Bucket
from corrclip_jax.inference.stream import padded_batch, sizes_of
from corrclip_jax.method.bank import Bank, search, support
from corrclip_jax.method.bank_arrays import bank_specs, put_bank, quantised_keys
from corrclip_jax.runtime.sharding import fetch_batch, over_images, put_batch, put_params

CLASSES = ["cat", "sky", "grass", "water"]
CANVAS = (60, 90)


def pictures():
    """Six photos of mixed sizes, and with two images of size 0 as a batch for eight devices, with its sizes."""
    rng = np.random.default_rng(0)
    photos = []
    for index in range(6):
        coarse = rng.integers(0, 256, (6 - index % 2, 9 - index % 2, 3), dtype=np.uint8)
        photos.append(coarse.repeat(10, 0).repeat(10, 1))
    assert len({photo.shape for photo in photos}) > 1
    batch = Batch(Bucket(*CANVAS, 6), tuple(range(6)), 8)
    return photos, padded_batch(photos, batch), sizes_of(photos, batch)


def assert_equal(ours, wanted):
    """Labels, scores and regions of this process's images are those of one device."""
    np.testing.assert_array_equal(ours[0], wanted[0])
    np.testing.assert_allclose(ours[1], wanted[1], rtol=1e-5)
    np.testing.assert_array_equal(ours[2], wanted[2])
    assert len(np.unique(ours[0])) > 2


def one_process(config, v2, text, first, second):
    assert jax.device_count() == 8
    photos, images, sizes = pictures()
    mesh = jax.sharding.Mesh(np.array(jax.devices()).reshape(4, 2), ("a", "b"))
    images_bank_and_params_over(mesh, v2, text, images, sizes, *second)

    # The same regions are given to programs that need not find them.
    params, given, wanted = first
    explicit = jax.make_mesh((8,), ("photos",), axis_types=(jax.sharding.AxisType.Explicit,))
    result = jax.jit(make_segment(config, mesh=explicit))(
        put_params(params, explicit, shard=True), put_batch(images, explicit), text, **given
    )
    assert_equal([np.asarray(array) for array in result], wanted)
    result = jax.jit(make_segment(config))(
        put_params(params, explicit), put_batch(images, explicit), text, **put_batch(given, explicit)
    )
    assert_equal([np.asarray(array) for array in result], wanted)
    segment = make_segment(config)
    divided = jax.jit(
        lambda params, text, images, given: segment(params, images, text, **given),
        in_shardings=(None, None, over_images(mesh), over_images(mesh)),
    )
    result = divided(*put_params((params, text), mesh), images, given)
    assert_equal([np.asarray(array) for array in result], wanted)
    try:
        make_segment(config, mesh=mesh)(params, images[:3], text, regions=given["regions"][:3])
    except ValueError as error:
        assert "divisible by the mesh's 8 devices. Got 3 images" in str(error)
    else:
        raise AssertionError("a batch of three was divided by eight")

    bank_over(mesh)
    segmenter = Segmenter((config, params), mesh=mesh, shard_params=True)
    of_one_size = photos[::2]  # fewer than devices
    height, width = of_one_size[0].shape[:2]
    results = segmenter(of_one_size, CLASSES, regions=list(wanted.regions[:6:2, :height, :width]))
    for ours, labels in zip(results, wanted.labels[::2], strict=False):
        np.testing.assert_array_equal(ours.labels, labels[:height, :width])
    assert segmenter._runner.programs.count == 1
    regions_over(mesh, config, params, photos)


def regions_over(mesh, config, params, photos):
    """The devices share the photos whose regions are asked for, and find those of one device."""
    ours, wanted = (Segmenter((config, params), regions="slic", mesh=one) for one in (mesh, None))
    for found, alone in zip(ours.regions(photos), wanted.regions(photos), strict=True):
        np.testing.assert_array_equal(found.map, alone.map)
    programs = ours._region_runner.programs
    assert programs.batch_size(Bucket(*CANVAS, 6), len(photos)) == 8
    assert {shard.data.shape[0] for shard in programs._last[0].addressable_shards} == {1}


def images_bank_and_params_over(mesh, config, text, images, sizes, params, bank, wanted):
    """Images, bank and parameters divided over devices give the regions, labels and neighbours of one device."""
    parts = put_params(params, mesh, shard=True)
    stored = sum(x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(parts))
    assert stored < 0.2 * sum(x.nbytes for x in jax.tree.leaves(params))
    result = jax.jit(make_segment(config, mesh=mesh))(
        parts, put_batch(images, mesh), text, sizes=sizes, bank=put_bank(bank, mesh)
    )
    for array in result:
        assert {shard.data.shape[0] for shard in array.addressable_shards} == {1}
    assert_equal([fetch_batch(array) for array in result], wanted)
    assert (wanted.neighbours >= 0).any()
    np.testing.assert_array_equal(result.neighbours, wanted.neighbours)
    np.testing.assert_allclose(result.support, wanted.support, atol=1e-5)


def bank_over(mesh):
    """A bank that the devices share gives the neighbours and the support of a whole one."""
    rng = np.random.default_rng(0)
    draw = lambda *shape: rng.standard_normal(shape).astype(np.float32)  # noqa: E731
    count, axes = 4999, mesh.axis_names
    values, queries = {"main": draw(count, 5).astype(np.float16)}, draw(mesh.size, 8)
    lists, codes = rng.integers(0, 40, count), rng.integers(0, 256, (count, 4), dtype=np.uint8)
    for keys in (
        draw(count, 8).astype(np.float16),
        quantised_keys(draw(40, 8), draw(4, 256, 2), lists, codes, rng.permutation(count), 7),
    ):
        bank = Bank(keys, values)

        def both(bank, queries, axes=None):
            ids, _ = search(bank, queries, 20, axes=axes)
            return ids, *support(bank.values["main"], ids, axes=axes)

        divided = jax.shard_map(
            lambda bank, queries: both(bank, queries, axes),
            mesh=mesh,
            in_specs=(bank_specs(bank, axes), jax.P(axes)),
            out_specs=jax.P(axes),
        )
        shared = put_bank(bank, mesh)
        assert {len(shard.data) for shard in shared.values["main"].addressable_shards} == {-(-count // 8)}
        ours, wanted = jax.jit(divided)(shared, put_batch(queries, mesh)), jax.jit(both)(bank, queries)
        np.testing.assert_array_equal(ours[0], wanted[0])
        np.testing.assert_allclose(ours[1], wanted[1], atol=1e-6)


def two_processes(process, port, config, text, params, given, wanted):
    """The parameters of CLIP are divided over the processes, those of DINO are copied to each."""
    jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=process)
    assert (jax.device_count(), jax.local_device_count()) == (4, 2)
    _, images, _ = pictures()
    own = slice(4 * process, 4 * process + 4)
    images, given, wanted = jax.tree.map(lambda array: array[own], (images, given, tuple(wanted)))
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("photos",))
    parts = {name: put_params(tree, mesh, shard=name == "clip") for name, tree in params.items()}
    result = jax.jit(make_segment(config, mesh=mesh))(
        parts, put_batch(images, mesh), put_params(text, mesh), **put_batch(given, mesh)
    )
    assert result.labels.shape == (8, *CANVAS)
    assert_equal([fetch_batch(array) for array in result], wanted)


if __name__ == "__main__":
    config, v2, (text, first, second) = pickle.loads(Path(sys.argv[1]).read_bytes())
    if len(sys.argv) == 2:
        one_process(config, v2, text, first, second)
    else:
        two_processes(int(sys.argv[2]), int(sys.argv[3]), config, text, *first)
    print("equal")
