"""Versions by the names of packages."""

import importlib.metadata

import pytest

from corrclip_jax._version import __version__
from corrclip_jax.runtime.environment import versions


def test_the_own_version_is_known_in_every_spelling_and_in_a_plain_checkout(monkeypatch):
    def nothing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", nothing)
    for name in ("corrclip_jax", "corrclip-jax", "CorrCLIP.JAX"):
        assert versions(name) == {name: __version__}
    assert versions("jax") == {"jax": None}


@pytest.mark.parametrize("name", ["no-such-package", "corrclip"])
def test_a_package_that_is_not_installed_has_no_version(name):
    assert versions(name) == {name: None}
