"""The bank that comes with the package: what `tiny-v2` takes it for, its size, and the recipe that makes it."""

import numpy as np
from recipe_path import recipe

from corrclip_jax.bank.folder import load_bank, read_images
from corrclip_jax.hub.embedded import EMBEDDED_BANK
from corrclip_jax.hub.presets import load


def test_the_embedded_bank_is_of_the_embedded_model_and_small():
    config, params = load("tiny-v2")
    assert (config.name, config.method.similarity_of, config.parts.merging) == ("tiny-v2", "image", False)
    bank = load_bank(EMBEDDED_BANK, (config, params))
    assert len(bank.keys) == len(bank.values["main"]) == 3884
    np.testing.assert_allclose(np.linalg.norm(bank.values["main"].astype(np.float32), axis=1), 1, atol=2e-3)
    assert sum(file.stat().st_size for file in EMBEDDED_BANK.rglob("*") if file.is_file()) < 3e6


def test_the_recipe_draws_the_scenes_that_the_bank_knows(tmp_path):
    maker = recipe("make_bank")
    maker.draw(tmp_path, [3, 439])
    known = [image.name for image in read_images(EMBEDDED_BANK, maker.read_description(EMBEDDED_BANK))]
    assert sorted(path.name for path in tmp_path.iterdir()) == [known[3], known[439]]
