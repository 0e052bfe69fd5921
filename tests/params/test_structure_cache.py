"""The cache of parameter structures: what is read from it is what would be traced."""

import jax
import jax.numpy as jnp
import pytest
from small_models import small_config

from corrclip_jax.models.dino import DINO
from corrclip_jax.params import structure_cache


@pytest.fixture
def folder(tmp_path, monkeypatch):
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    yield tmp_path / "structures"
    jax.config.update("jax_compilation_cache_dir", before)


class Trace:
    """A structure, and how often it was asked for."""

    def __init__(self):
        scale, x = jax.ShapeDtypeStruct((8,), jnp.float32), jax.ShapeDtypeStruct((), jnp.int32)
        self.structure = {"norm": {"scale": scale}, "x": x}
        self.times = 0

    def __call__(self):
        self.times += 1
        return self.structure


def network(width=32):
    config = small_config().dino
    return DINO(type(config)(**{**vars(config), "width": width}), jnp.float32)


def test_a_structure_is_traced_once_and_read_afterwards(folder):
    trace = Trace()
    assert structure_cache.kept(network(), trace) == trace.structure
    assert structure_cache.kept(network(), trace) == trace.structure
    assert trace.times == 1
    structure_cache.kept(network(64), trace)
    assert trace.times == 2, "of another configuration"


@pytest.mark.parametrize(
    "content", ["", "{", '{"norm": 3}', '{"norm": [[8], "no type"]}', '{"norm": [["x"], "int32"]}']
)
def test_a_damaged_file_is_replaced(folder, content):
    trace = Trace()
    structure_cache.kept(network(), trace)
    (file,) = folder.iterdir()
    file.write_text(content)
    assert structure_cache.kept(network(), trace) == trace.structure
    assert structure_cache.kept(network(), trace) == trace.structure
    assert trace.times == 2


def test_a_folder_that_cannot_be_written_costs_a_trace_only(folder):
    folder.write_text("a file, not a folder")
    trace = Trace()
    assert structure_cache.kept(network(), trace) == trace.structure


def test_networks_of_other_packages_are_traced(folder):
    class Own(DINO):
        pass

    Own.__module__ = "elsewhere"
    trace = Trace()
    structure_cache.kept(Own(small_config().dino), trace)
    structure_cache.kept(Own(small_config().dino), trace)
    assert trace.times == 2 and not folder.exists()
