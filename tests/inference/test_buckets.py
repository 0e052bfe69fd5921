"""Planning: few programs, hardly a window in vain; and the host's side of the work."""

import threading
import time

import jax
import numpy as np
import pytest
from tests_shared import DATA

from corrclip_jax.config import MethodConfig
from corrclip_jax.inference.buckets import (
    Batch,
    Bucket,
    cheapest_bucket,
    plan_batches,
    plan_buckets,
    wasted_windows,
    windows_of,
    with_headroom,
)
from corrclip_jax.inference.growing_buckets import GrowingBuckets
from corrclip_jax.inference.stream import padded_batch, sizes_of, stream
from corrclip_jax.io.photos import photo_size
from corrclip_jax.method.windows_padded import window_shape

METHOD = MethodConfig()
SETTINGS = [(336, 336), (448, 336), (448, 224)]


def photos_of_the_web(longest, common, count):
    """Sizes as in VOC and COCO: the longer side at its limit, a few common shapes, both orientations, strips."""
    rng = np.random.default_rng(longest)
    sizes = []
    for _ in range(count):
        kind = rng.random()
        longer = longest if kind < 0.95 else int(rng.integers(longest // 2, longest))
        shorter = int(rng.choice(common)) if kind < 0.7 else int(rng.integers(longest // 2, longest))
        if kind > 0.985:
            shorter = int(rng.integers(longest // 5, longest // 2))
        shorter = min(shorter, longer)
        sizes.append((shorter, longer) if rng.random() < 0.72 else (longer, shorter))
    return sizes


VOC = photos_of_the_web(500, [375, 375, 375, 333, 332, 334], 400)
COCO = photos_of_the_web(640, [480, 480, 480, 427, 426, 425], 600)


@pytest.mark.parametrize(("resize_short", "window"), SETTINGS)
@pytest.mark.parametrize(("sizes", "most"), [(VOC, 4), (COCO, 6)])
def test_few_programs_and_few_windows_in_vain(sizes, most, resize_short, window):
    method = MethodConfig(resize_short=resize_short, window=window)
    buckets = plan_buckets(sizes, method, most)
    batches = plan_batches(sizes, buckets, method, 8)
    assert len({(batch.bucket, batch.batch_size) for batch in batches}) <= most
    assert sorted(place for batch in batches for place in batch.indices) == list(range(len(sizes)))
    for batch in batches:
        assert len(batch.indices) <= batch.batch_size == 8
        assert all(batch.bucket.holds(sizes[place], method) for place in batch.indices)
    assert wasted_windows(batches, sizes, method) == 0
    for at_once in (4, 8, 32):
        assert wasted_windows(batches, sizes, method, at_once) < 0.25
    canvas = sum(len(batch.indices) * batch.bucket.height * batch.bucket.width for batch in batches)
    assert sum(h * w for h, w in sizes) > 0.7 * canvas


@pytest.mark.skipif(DATA is None, reason="the benchmark trees are not here")
@pytest.mark.parametrize(("folder", "most"), [("VOC2012/JPEGImages", 4), ("coco/images/val2017", 6)])
def test_the_benchmarks_own_photos(folder, most):
    sizes = [photo_size(path) for path in sorted((DATA / "benchmarks" / folder).iterdir())]
    assert len(set(sizes)) > 1
    buckets = plan_buckets(sizes * 20, METHOD, most)
    assert len(buckets) <= most
    batches = plan_batches(sizes * 20, buckets, METHOD, 8)
    assert wasted_windows(batches, sizes * 20, METHOD, 32) < 0.25


def test_narrow_photos_have_buckets_of_their_own():
    narrow = [(20, 200), (22, 210), (50, 500), (300, 30)]
    buckets = plan_buckets(VOC + narrow, METHOD, 4)
    assert len(buckets) <= 4
    for bucket in buckets:
        members = [size for size in VOC + narrow if bucket.holds(size, METHOD)]
        assert {window_shape(size, METHOD) for size in members} == {window_shape(bucket.shape, METHOD)}
    assert window_shape((20, 200), METHOD) == (224, 336)
    assert cheapest_bucket((20, 200), buckets, METHOD).shape == (50, 500)
    assert cheapest_bucket((300, 30), buckets, METHOD).shape == (300, 30)


def test_photos_of_one_size_are_one_bucket_of_that_size():
    assert plan_buckets([(375, 500)] * 9, METHOD) == (Bucket(375, 500, 2),)


@pytest.mark.parametrize(("most", "count"), [(1, 150), (2, 150), (3, 150), (10, 700)])
def test_any_sizes_fit_some_bucket(most, count):
    sizes = [tuple(size) for size in np.random.default_rng(1).integers(1, 1500, (count, 2)).tolist()]
    buckets = plan_buckets(sizes, METHOD, most)
    assert all(cheapest_bucket(size, buckets, METHOD) is not None for size in sizes)
    shapes = {window_shape(size, METHOD) for size in sizes}
    assert len(buckets) <= max(most, len(shapes))


@pytest.mark.parametrize("size", [(375, 500), (20, 200), (1, 1), (640, 427), (1, 3000)])
def test_a_roomy_bucket_still_holds_its_photos(size):
    bucket = Bucket(*size, windows_of(size, METHOD))
    room = with_headroom(bucket, [size], METHOD)
    assert room.holds(size, METHOD)
    assert bucket.height <= room.height <= bucket.height * 9 / 8 + 1
    assert bucket.width <= room.width <= bucket.width * 9 / 8 + 1


def sizes_one_by_one(count, shortest=60, longest=320):
    """Sizes of which hardly two are equal."""
    drawn = np.exp(np.random.default_rng(2).uniform(np.log(shortest), np.log(longest), (count, 2)))
    return [tuple(size) for size in drawn.astype(int).tolist()]


@pytest.mark.parametrize("method", [METHOD, MethodConfig(resize_short=84, window=56, stride=28)])
@pytest.mark.parametrize(("count", "most"), [(24, 6), (400, 10)])
def test_photos_of_ever_new_sizes_one_by_one_have_few_programs(method, count, most):
    known, programs = GrowingBuckets(method, 4), set()
    for size in sizes_one_by_one(count):
        known.add([size])
        (batch,) = known.plan([size], 1)
        assert batch.bucket.holds(size, method)
        programs.add(batch.bucket)
    assert len(programs) <= most


def test_photos_that_would_be_lost_on_a_large_canvas_get_a_program_of_their_own():
    known = GrowingBuckets(METHOD, 4)
    known.add([(2000, 2000)])
    known.add([(60, 60)])
    assert known.plan([(60, 60)], 1)[0].bucket.height >= 2000  # one photo is not worth a program
    known.add([(60, 60)] * 200)
    assert known.plan([(60, 60)], 1)[0].bucket.height < 100


@pytest.mark.parametrize(("sizes", "most"), [([], 4), ([(0, 5)], 4), ([(5, 5)], 0)])
def test_what_cannot_be_planned(sizes, most):
    with pytest.raises(ValueError, match="plan_buckets needs at least one image"):
        plan_buckets(sizes, METHOD, most)


def test_a_photo_without_a_bucket_is_named():
    with pytest.raises(ValueError, match="no bucket holds image 1 of 600 x 600"):
        plan_batches([(5, 5), (600, 600)], [Bucket(500, 500, 4)], METHOD, 1)


def test_arrays_on_canvases():
    batch = Batch(Bucket(4, 5, 1), (7, 3), 3)
    arrays = [np.full((2, 5, 3), 9, np.uint8), np.full((4, 1, 3), 8, np.uint8)]
    out = padded_batch(arrays, batch)
    assert (out.shape, out.dtype) == ((3, 4, 5, 3), np.uint8)
    assert (out[0, :2] == 9).all()
    assert (out[1, :, :1] == 8).all()
    assert out.sum() == 9 * 30 + 8 * 12
    assert sizes_of(arrays, batch).tolist() == [[2, 5], [4, 1], [0, 0]]


def batches_of(*places):
    return [Batch(Bucket(1, 1, 1), tuple(one), len(one)) for one in places]


def test_a_stream_reads_ahead_in_threads_and_keeps_the_order():
    reading, threads = [], set()

    def read(place):
        threads.add(threading.current_thread().name)
        reading.append(place)
        time.sleep(0.01 * (place % 3))
        return place

    def run(batch, items):
        assert items == list(batch.indices)
        assert len(reading) <= 2 * 2 + batch.indices[-1] + 1
        return jax.numpy.array(items) * 10

    todo = batches_of((0, 1), (2, 3), (4, 5), (6,))
    found = [(batch, items, out.tolist()) for batch, items, out in stream(todo, read, run, workers=3)]
    assert found == [(batch, list(batch.indices), [place * 10 for place in batch.indices]) for batch in todo]
    assert threading.current_thread().name not in threads


def test_a_batch_runs_before_the_one_before_is_handed_out():
    started = []
    work = stream(
        batches_of((0,), (1,), (2,)), lambda place: place, lambda batch, items: started.append(items)
    )
    next(work)
    assert started == [[0], [1]]
    work.close()
    assert started == [[0], [1]]


def test_what_the_device_cannot_do_does_not_stop_the_stream():
    def run(batch, items):
        if items == [1]:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED")
        if items == [2]:
            raise jax.errors.JaxRuntimeError("INTERNAL")
        return np.array(items)

    found = [out for _, _, out in stream(batches_of((0,), (1,), (2,), (3,)), lambda place: place, run)]
    assert [out for out in found if not isinstance(out, Exception)] == [0, 3]
    (advice,) = found[1].__notes__
    assert "method.windows_per_chunk" in advice
    assert isinstance(found[2], jax.errors.JaxRuntimeError)
    assert not hasattr(found[2], "__notes__")


def test_what_reading_raises_is_raised():
    def read(place):
        raise KeyError(place)

    with pytest.raises(KeyError, match="0"):
        list(stream(batches_of((0,)), read, lambda batch, items: None))
