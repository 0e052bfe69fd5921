"""Kept traces: what a process has traced another reads, for the same function, arrays, settings and sources."""

import sys
from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from evaluation_process import label_by_colour
from small_models import small_bank, small_config, small_params, small_v2, write_vocabulary

from corrclip_jax.config import FAMILIES, with_fields
from corrclip_jax.datasets.dataset import Dataset, Example
from corrclip_jax.evaluation import scorer
from corrclip_jax.evaluation.scorer import Scorer
from corrclip_jax.inference.segmenter import Segmenter
from corrclip_jax.runtime import kept_files, kept_traces
from corrclip_jax.runtime.kept_traces import compile_kept

ARRAY = np.arange(6, dtype=np.float32).reshape(2, 3)
PHOTO = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The folder of traces of one test, which begins without any; compiled programs are those of all tests."""
    monkeypatch.setattr(kept_traces, "kept_folder", tmp_path.joinpath)
    monkeypatch.setattr(kept_traces, "enabled", True)
    return tmp_path / "traces"


class Make:
    """Gives a function, and counts how often."""

    def __init__(self):
        self.times = 0

    def __call__(self):
        self.times += 1
        return function


def function(params, x, *, scale):
    x = x.astype(jnp.float32)
    return {"sum": params + x.sum(), "product": x.T @ x * scale}


def call(make, identity="function", params=2.0, x=ARRAY, scale=3.0):
    arrays = jnp.float32(params), jnp.asarray(x)
    return compile_kept(make, identity, *arrays, scale=jnp.float32(scale))(*arrays, scale=jnp.float32(scale))


def test_a_function_is_traced_once_and_gives_the_same_to_the_bit(folder):
    make = Make()
    expected = jax.jit(make())(jnp.float32(2), ARRAY, scale=jnp.float32(3))
    first, second = call(make), call(make)
    assert make.times == 2 and len(list(folder.iterdir())) == 1
    for found in (first, second):
        jax.tree.map(np.testing.assert_array_equal, found, expected)
    np.testing.assert_array_equal(call(make, params=5.0)["sum"], 20)
    assert make.times == 2, "values are no part of a trace"


def test_what_makes_a_trace_another_one(monkeypatch):
    make = Make()
    call(make)
    call(make, identity=("function", 1))
    call(make, x=ARRAY[:1])
    call(make, x=ARRAY.astype(np.int32))
    with jax.default_matmul_precision("highest"):
        call(make)
    monkeypatch.setattr(kept_traces, "sources_digest", lambda: b"another version of the package")
    call(make)
    monkeypatch.setattr(kept_traces, "device_bytes", lambda: 16 << 30)
    call(make)
    assert make.times == 7


@pytest.mark.parametrize("damage", [lambda whole: whole[:-1], lambda whole: b"", lambda whole: whole[::-1]])
def test_a_damaged_file_is_replaced(folder, damage):
    make = Make()
    call(make)
    (file,) = folder.iterdir()
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    call(make)
    call(make)
    assert make.times == 2 and len(file.read_bytes()) > 0.9 * len(whole)


def test_a_folder_that_cannot_be_written_costs_a_trace_only(folder):
    folder.write_text("a file, not a folder")
    np.testing.assert_array_equal(call(Make())["sum"], 17)


def test_an_identity_that_is_an_address_is_refused():
    with pytest.raises(ValueError, match="identity must consist of values"):
        call(Make(), identity=object())


def test_a_setting_that_no_other_process_can_know_is_traced_each_time(folder, monkeypatch):
    make = Make()
    settings = jax.config.values | {"jax_of_later_versions": object()}
    monkeypatch.setattr(type(jax.config), "values", property(lambda config: settings))
    for _ in range(2):
        np.testing.assert_array_equal(call(make)["sum"], 17)
    assert make.times == 2 and not folder.exists()


def test_what_cannot_be_exported_is_compiled_as_it_is(folder):
    def on_the_host(params, x, *, scale):
        return jax.pure_callback(np.negative, jax.ShapeDtypeStruct(x.shape, x.dtype), x)

    np.testing.assert_array_equal(call(lambda: on_the_host), -ARRAY)
    assert not folder.exists()


def test_functions_that_are_not_the_package_s_are_traced_each_time(folder, monkeypatch):
    make = Make()
    monkeypatch.setattr(scorer, "make_segment", label_by_colour)
    call(make)
    assert make.times == 1 and not folder.exists(), "a function was replaced"
    monkeypatch.undo()
    monkeypatch.setattr(kept_traces, "kept_folder", folder.parent.joinpath)
    monkeypatch.setattr(kept_traces, "enabled", True)
    monkeypatch.setitem(sys.modules, "elsewhere", ModuleType("elsewhere"))
    monkeypatch.setitem(FAMILIES, "made_up", FAMILIES["dino"]._replace(module="elsewhere:Network"))
    call(make)
    assert make.times == 2 and not folder.exists(), "a network comes from elsewhere"


def test_nothing_is_kept_without_a_cache_or_in_a_bucket(folder, monkeypatch):
    before = jax.config.jax_compilation_cache_dir
    try:
        for place in (None, "gs://bucket/compiled"):
            jax.config.update("jax_compilation_cache_dir", place)
            assert kept_files.kept_folder("traces") is None
        jax.config.update("jax_compilation_cache_dir", str(folder))
        assert kept_files.kept_folder("traces") == folder / "traces"
    finally:
        jax.config.update("jax_compilation_cache_dir", before)


def same(first, second):
    for one, other in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_array_equal(one, other)


# What programs return is the same with few parts of the method, which are traced and compiled sooner.
FEW = dict.fromkeys(("scope", "value", "merging", "spatial", "semantic"), False)


def labels(vocabulary):
    config = with_fields(small_v2(small_config(vocabulary, sam2=False)), parts=FEW)
    segmenter = Segmenter((config, small_params(config)), regions="none", bank=small_bank(config))
    found = segmenter(PHOTO, ["cat", "dog"], regions=(PHOTO[..., 0] > 99).astype(np.int32))
    return found.labels, found.scores, found.probabilities, found.support.logits


def regions(vocabulary):
    config = small_config()
    found = Segmenter((config, small_params(config)), regions="sam2").regions(PHOTO)
    return found.map, dict(found.details)


def scores(vocabulary):
    config = with_fields(small_config(vocabulary, sam2=False), parts=FEW)
    truth = (PHOTO[..., 0] > 99).astype(np.int32)
    dataset = Dataset("one", (("cat",), ("dog",)), 1, lambda index: Example(PHOTO, truth))
    variants = config.parts, with_fields(config, parts={"correction": False}).parts
    made = Scorer(config, small_params(config), dataset, variants, regions="none")
    (found,) = made(made.batches([0]), keep_labels=True)
    return found.matrices, found.labels


@pytest.mark.parametrize("run", [labels, regions, scores])
def test_every_program_is_kept(run, folder, monkeypatch, tmp_path):
    vocabulary = str(write_vocabulary(tmp_path))
    first = run(vocabulary)
    assert list(folder.iterdir())
    # Not functions of the package, for where those are replaced nothing is kept.
    read, deserialize = [], jax.export.deserialize
    monkeypatch.setattr(jax.export, "deserialize", lambda content: (read.append(1), deserialize(content))[1])
    monkeypatch.setattr(jax.export, "export", lambda *args, **options: pytest.fail("traced again"))
    same(run(vocabulary), first)
    assert len(read) == len(list(folder.iterdir()))
