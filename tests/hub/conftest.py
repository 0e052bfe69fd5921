"""A hub on loopback with every published model in small, and a home of the test's own."""

import importlib.util
import sys

import pytest
from hub_server import HubServer
from huggingface_hub import constants
from small_hub import NETWORKS, SMALL, small_repositories
from small_models import write_vocabulary

from corrclip_jax.config import Config, with_fields
from corrclip_jax.conversion.published import preset_models
from corrclip_jax.hub import presets


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A weights home and a cache of the hub's client of the test's own, and no network."""
    monkeypatch.setenv("CORRCLIP_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    return tmp_path / "home"


@pytest.fixture
def hub(home, tmp_path, monkeypatch):
    """The hub on loopback, filled with every published model, and the client that asks it."""
    vocabulary = write_vocabulary(tmp_path)
    with HubServer() as server:
        server.repositories = small_repositories(vocabulary)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_URL_HOSTS", frozenset({"127.0.0.1"}))
        yield server


@pytest.fixture
def small_presets(monkeypatch) -> dict[str, Config]:
    """Every preset with the small networks."""
    for name, config in presets.PRESETS.items():
        networks = {family: NETWORKS[family] for family in preset_models(name) if family != "clip"}
        small = with_fields(
            SMALL, dino=None, sam2=None, name=name, similarity=config.similarity, parts=config.parts
        )
        small = with_fields(small, clip={"quick_gelu": config.clip.quick_gelu}, **networks)
        small = with_fields(
            small,
            regions={"source": config.regions.source},
            method={"similarity_of": config.method.similarity_of},
        )
        monkeypatch.setitem(presets.PRESETS, name, small)
    return presets.PRESETS


@pytest.fixture
def without_torch(monkeypatch):
    """As if torch were not installed."""
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name == "torch" else find(name, *rest),
    )
    monkeypatch.setitem(sys.modules, "torch", None)


@pytest.fixture
def no_waiting(monkeypatch) -> list[float]:
    """Seconds that would have been waited."""
    waited: list[float] = []
    monkeypatch.setattr("time.sleep", waited.append)
    return waited
