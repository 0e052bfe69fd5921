"""Programs: compiled once a key and shape, batches of the size that memory allows, halved where it runs out."""

import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from corrclip_jax.inference import programs as module
from corrclip_jax.inference.buckets import Batch, Bucket
from corrclip_jax.inference.programs import BatchLimit, Piece, Programs

BUCKET = Bucket(4, 5, 1)


def doubled(programs: Programs, fitting: int, tried: list[int]):
    """A `start` that doubles numbers, for batches of at most `fitting`."""

    def make():
        def double(two, x):
            if len(x) > fitting:
                raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")
            return two * x

        return double

    def start(batch: Batch, items: list[float]):
        tried.append(batch.batch_size)
        x = np.zeros(batch.batch_size, np.float32)
        x[: len(items)] = items
        return programs("double", make, jnp.asarray(x))

    return start


@pytest.mark.parametrize(("devices", "fitting", "sizes"), [(1, 8, {8}), (1, 3, {8, 4, 2}), (2, 2, {8, 4, 2})])
def test_batches_are_halved_until_they_fit_and_results_stay_with_their_batch(devices, fitting, sizes):
    programs = Programs(jnp.float32(2), BatchLimit(8, 1 << 20), identity="test", devices=devices)
    batches = [Batch(BUCKET, tuple(range(first, first + 8)), 8) for first in (0, 8, 16)]
    batches.append(Batch(BUCKET, (24,), 8))
    tried: list[int] = []
    found = list(programs.run(batches, float, doubled(programs, fitting, tried)))
    assert len(found) == len(batches)
    for batch, pieces in zip(batches, found, strict=True):
        assert tuple(index for piece in pieces for index in piece.batch.indices) == batch.indices
        for piece in pieces:
            assert piece.out[: len(piece.items)].tolist() == [2 * index for index in piece.batch.indices]
    assert set(tried) == sizes
    assert tried.count(8) <= 2 or fitting == 8, "what is known not to fit is not tried again"
    assert programs.count == 1
    assert programs.compile_seconds > 0
    assert [piece.compiled for pieces in found for piece in pieces].count(True) == 1


def test_results_are_rows_of_what_ran_or_why_there_is_none():
    batch, broken, failed = Batch(BUCKET, (3, 5, 4), 4), ValueError("broken"), RuntimeError("device")
    piece = Piece(batch, ["a", broken, "c"], np.arange(4), 0.0, False)
    assert list(piece.results()) == [(3, "a", 0), (5, broken, broken), (4, "c", 1)]
    assert list(piece.results(lambda item: item == "c")) == [(3, "a", None), (5, broken, broken), (4, "c", 0)]
    results = list(piece._replace(out=failed).results())
    assert results == [(3, "a", failed), (5, broken, broken), (4, "c", failed)]


def test_what_does_not_fit_alone_fails_alone():
    programs = Programs(jnp.float32(2), BatchLimit(8, 1 << 20), identity="test")
    other = Bucket(9, 9, 1)
    fits = doubled(programs, 8, [])
    never = doubled(programs, 0, [])
    batches = [Batch(BUCKET, (0, 1), 2), Batch(other, (2, 3), 2)]
    start = lambda batch, items: (never if batch.bucket == BUCKET else fits)(batch, items)  # noqa: E731
    first, second = programs.run(batches, float, start)
    assert [piece.batch.indices for piece in first] == [(0,), (1,)]
    assert all(isinstance(piece.out, jax.errors.JaxRuntimeError) for piece in first)
    assert second[0].out.tolist() == [4, 6]


def test_programs_run_where_jax_is_told_not_to_compile():
    programs = Programs(jnp.float32(2), BatchLimit(8, 1 << 20), identity="test")
    with jax.disable_jit():
        assert programs("double", lambda: lambda two, x: two * x, jnp.arange(3.0)).tolist() == [0, 2, 4]


def test_a_program_is_compiled_once_a_key_and_shape():
    programs = Programs(jnp.float32(2), BatchLimit(8, 1 << 20), identity="test")
    made = []

    def make():
        made.append(1)
        return lambda two, x, more=None: two * x

    for x in (jnp.ones(3), jnp.zeros(3), jnp.ones(4)):
        programs("a", make, x)
    assert programs.compiles("b", jnp.ones(3))
    assert programs.compiles("a", jnp.ones(3), more=jnp.ones(1))
    assert not programs.compiles("a", jnp.ones(3))
    assert (programs.count, len(made)) == (2, 2)


def test_the_batch_size_follows_limit_devices_and_count(monkeypatch):
    limit = BatchLimit(images=8, pixels=100)
    assert Programs((), limit, identity="test").batch_size(BUCKET, 100) == 1, "on CPUs"
    monkeypatch.setattr(module.jax, "default_backend", lambda: "gpu")
    assert Programs((), limit, identity="test").batch_size(BUCKET, 100) == 5, "20 pixels each"
    assert Programs((), limit, identity="test").batch_size(Bucket(1, 1, 1), 100) == 8
    assert Programs((), limit, identity="test").batch_size(Bucket(1, 1, 1), 3) == 4
    assert Programs((), limit, identity="test").batch_size(Bucket(50, 50, 1), 3) == 1
    assert Programs((), limit, identity="test", devices=3).batch_size(BUCKET, 100) == 15
    assert Programs((), limit, identity="test", devices=3).batch_size(BUCKET, 4) == 6
    assert Programs((), limit, identity="test", images_per_device=2).batch_size(BUCKET, 100) == 2


def test_seconds_are_without_compilation_also_of_the_batch_that_ran_meanwhile():
    programs = Programs(jnp.float32(2), BatchLimit(8, 1 << 20), identity="test")

    def start(batch: Batch, items: list[float]):
        def make():
            time.sleep(0.5)
            return lambda two, x: two * x

        return programs(batch.bucket, make, jnp.zeros(batch.batch_size))

    batches = [Batch(Bucket(side, side, 1), (side,), 1) for side in (4, 5, 5, 6)]
    pieces = [piece for found in programs.run(batches, float, start) for piece in found]
    assert [piece.compiled for piece in pieces] == [True, True, False, True]
    assert programs.compile_seconds > 1.5
    assert all(0 <= piece.seconds < 0.25 for piece in pieces)


def test_want_of_memory_on_the_host_is_that_of_a_batch():
    programs = Programs(jnp.float32(2), BatchLimit(8, 1 << 20), identity="test")
    fits = doubled(programs, 8, [])

    def start(batch: Batch, items: list[float]):
        if 1 in items:
            raise MemoryError("cannot allocate")
        return fits(batch, items)

    [halves] = programs.run([Batch(BUCKET, (0, 1), 2)], float, start)
    assert halves[0].out.tolist() == [0]
    assert isinstance(halves[1].out, jax.errors.JaxRuntimeError)
    assert "RESOURCE_EXHAUSTED" in str(halves[1].out)
