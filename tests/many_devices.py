"""A program of its own for `test_sharding`, which says by XLA_FLAGS how many devices there are.

python many_devices.py one            8 devices in this process
python many_devices.py ID PORT        process ID of two, 2 devices each, joined by a coordinator at PORT
"""

import sys
import tempfile
from pathlib import Path

import jax
import numpy as np
from small_models import small_bank, small_config, small_v2, write_vocabulary

from corrclip_jax import Segmenter, embed_text, make_segment, with_fields
from corrclip_jax.inference.buckets import Batch, Bucket
from corrclip_jax.inference.stream import padded_batch, sizes_of
from corrclip_jax.method.bank import Bank, search, support
from corrclip_jax.method.bank_arrays import bank_specs, put_bank, quantised_keys
from corrclip_jax.params.structure import init_params
from corrclip_jax.runtime.sharding import fetch_batch, over_images, put_batch, put_params

CLASSES = ["cat", "sky", "grass", "water"]
CANVAS = (60, 90)


def small():
    """The small model, with thresholds that its random weights pass."""
    with tempfile.TemporaryDirectory() as folder:
        config = small_config(write_vocabulary(Path(folder)))
        params = init_params(config)
        text = embed_text(config, params, CLASSES)
    every = {"iou_threshold": -99.0, "stability_threshold": 0.0, "nms_threshold": 1.0}
    return with_fields(config, method={"max_windows": 6}, regions=every), params, text


def pictures(count, batch_size):
    """Photos of mixed sizes on a canvas, their sizes, and what fills the batch up."""
    rng = np.random.default_rng(0)
    photos = []
    for index in range(count):
        coarse = rng.integers(0, 256, (6 - index % 2, 9 - index % 2, 3), dtype=np.uint8)
        photos.append(coarse.repeat(10, 0).repeat(10, 1))
    assert len({photo.shape for photo in photos}) > 1
    batch = Batch(Bucket(*CANVAS, 6), tuple(range(count)), batch_size)
    return photos, padded_batch(photos, batch), sizes_of(photos, batch)


def assert_equal(ours, wanted):
    np.testing.assert_array_equal(ours[0], wanted[0])
    np.testing.assert_allclose(ours[1], wanted[1], rtol=1e-5)
    np.testing.assert_array_equal(ours[2], wanted[2])
    assert len(np.unique(ours[0])) > 2


def one_process():
    config, params, text = small()
    photos, images, sizes = pictures(6, 8)
    assert jax.device_count() == 8
    wanted = jax.device_get(tuple(jax.jit(make_segment(config))(params, images, text, sizes=sizes)))
    assert wanted[2].max() > 1

    mesh = jax.sharding.Mesh(np.array(jax.devices()).reshape(4, 2), ("a", "b"))
    parts = put_params(params, mesh, shard=True)
    stored = sum(x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(parts))
    assert stored < 0.2 * sum(x.nbytes for x in jax.tree.leaves(params))
    result = jax.jit(make_segment(config, mesh=mesh))(parts, put_batch(images, mesh), text, sizes=sizes)
    for array in result:
        assert {shard.data.shape[0] for shard in array.addressable_shards} == {1}
    assert_equal([fetch_batch(array) for array in result], wanted)

    # The same regions are given to programs that need not find them.
    given = {"sizes": sizes, "regions": np.maximum(wanted[2], 0)}
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
        make_segment(config, mesh=mesh)(params, images[:3], text)
    except ValueError as error:
        assert "divisible by the mesh's 8 devices. Got 3 images" in str(error)
    else:
        raise AssertionError("a batch of three was divided by eight")

    bank_over(mesh)
    support_over(mesh, config, text)
    segmenter = Segmenter((config, params), mesh=mesh, shard_params=True)
    of_one_size = photos[::2]  # fewer than devices
    height, width = of_one_size[0].shape[:2]
    results = segmenter(of_one_size, CLASSES, regions=list(wanted[2][:6:2, :height, :width]))
    for ours, labels in zip(results, wanted[0][::2], strict=False):
        np.testing.assert_array_equal(ours.labels, labels[:height, :width])
    assert segmenter._runner.programs.count == 1


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


def support_over(mesh, config, text):
    """Images and bank divided over devices give the labels and the neighbours of one device."""
    config = small_v2(with_fields(config, sam2=None, regions={"source": "none"}))
    params, bank = init_params(config), small_bank(config, 50)
    _, images, sizes = pictures(6, 8)
    regions = np.arange(images.size // 3).reshape(images.shape[:3]) // 700 % 5
    inputs = {"sizes": sizes, "regions": regions.astype(np.int32)}
    wanted = jax.device_get(tuple(jax.jit(make_segment(config))(params, images, text, bank=bank, **inputs)))
    assert (wanted[3] >= 0).any()
    ours = jax.jit(make_segment(config, mesh=mesh))(
        put_params(params, mesh), put_batch(images, mesh), text, bank=put_bank(bank, mesh), **inputs
    )
    assert_equal([fetch_batch(array) for array in ours], wanted)
    np.testing.assert_array_equal(ours.neighbours, wanted[3])
    np.testing.assert_allclose(ours.support, wanted[5], atol=1e-5)


def two_processes(process, port):
    jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=process)
    assert (jax.device_count(), jax.local_device_count()) == (4, 2)
    config, params, text = small()
    config = with_fields(config, regions={"source": "none"})
    _, images, sizes = pictures(4, 4)
    own = slice(2 * process, 2 * process + 2)
    wanted = jax.device_get(tuple(jax.jit(make_segment(config))(params, images[own], text, sizes=sizes[own])))
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("photos",))
    text = put_params(text, mesh)
    for parts in (False, True):
        result = jax.jit(make_segment(config, mesh=mesh))(
            put_params(params, mesh, shard=parts),
            put_batch(images[own], mesh),
            text,
            sizes=put_batch(sizes[own], mesh),
        )
        assert result.labels.shape == (4, *CANVAS)
        assert_equal([fetch_batch(array) for array in result], wanted)


if __name__ == "__main__":
    if sys.argv[1] == "one":
        one_process()
    else:
        two_processes(int(sys.argv[1]), int(sys.argv[2]))
    print("equal")
