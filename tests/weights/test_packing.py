"""What lies around the training of the embedded weights: the pool, the vocabulary, packing, the card's pictures."""

import jax
import numpy as np
import pytest
from PIL import Image
from recipe_path import RECIPES, recipe

from corrclip_jax.config import with_fields
from corrclip_jax.datasets.scenes import captions
from corrclip_jax.datasets.scenes.generate import train_scene
from corrclip_jax.params import model_folder
from corrclip_jax.params.structure import init_params
from corrclip_jax.text.tokenizer import Tokenizer


def test_a_pool_gives_scenes_back_as_they_were_drawn(pool):
    scene, drawn = recipe("pool").load(pool, "scenes").scene(2), train_scene(2)
    assert np.array_equal(scene.image, drawn.image)
    assert np.array_equal(scene.instances, drawn.instances)
    assert (scene.areas, scene.things) == (drawn.areas, drawn.things)
    assert captions.contents(scene) == captions.contents(drawn)


def test_a_missing_pool_says_how_to_draw_one(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"pool\.py"):
        recipe("pool").load(tmp_path, "crops")


def test_the_vocabulary_is_read_and_knows_the_captions_words():
    tiny = recipe("tiny")
    tokenizer = Tokenizer.load(RECIPES / "vocabulary")
    assert tokenizer.vocab_size == tiny.VOCABULARY_SIZE == tiny.CONFIG.clip.text.vocab_size
    for word in ("circle", "star", "striped", "grass", "photo", "purple"):
        assert len(tokenizer.encode(word)) == 1
    assert tokenizer.encode("xylophone")


def test_the_vocabulary_is_what_its_recipe_makes(tmp_path):
    maker = recipe("make_tokenizer")
    texts = ["a red circle on grass", "a photo of the red star"] * 5
    content = maker.learn(texts, 530)
    assert len(content["model"]["vocab"]) == 530
    with pytest.raises(ValueError, match="Ask for fewer"):
        maker.learn(texts, 5000)


def test_packed_towers_are_read_back_as_they_were_rounded(tmp_path):
    pack, tiny = recipe("pack"), recipe("tiny")
    (tmp_path / "README.md").write_text("stays")
    params = init_params(tiny.CONFIG)
    for _ in range(2):  # the second time in place of the first
        pack.write(tmp_path, params, {"clip": {"seed": 0}})
    config, read = model_folder.read(tmp_path)
    assert with_fields(config, vocabulary=None) == tiny.CONFIG
    assert Tokenizer.load(config.vocabulary).vocab_size == tiny.VOCABULARY_SIZE
    for one, other in zip(jax.tree.leaves(params), jax.tree.leaves(read), strict=True):
        np.testing.assert_allclose(one, other, rtol=2**-12, atol=0)
    assert pack.size(tmp_path) < 16e6
    assert (tmp_path / "README.md").read_text() == "stays"

    # Towers without a new run stay what they are, and so does what is said of them.
    again, sources = pack.gather(tmp_path, dict.fromkeys(pack.TOWERS))
    assert sources == {"clip": {"seed": 0}}
    assert jax.tree.all(jax.tree.map(np.array_equal, again, read))


def test_rounding_keeps_twelve_bits():
    rounded = recipe("pack").rounded
    values = np.array([1.0, -3.5, 0.0, 1 + 2**-11, 1 + 2**-13], np.float32)
    assert rounded(values).tolist() == [1.0, -3.5, 0.0, 1 + 2**-11, 1.0]
    assert rounded(np.float32(2.5)).shape == ()


def test_a_log_becomes_a_plot(tmp_path):
    figures = recipe("figures")
    lines = [f"{20 * step},{2 / step}" for step in range(1, 21)]
    (tmp_path / "log.csv").write_text("\n".join(["step,loss", *lines]))
    panel = np.asarray(figures.curve(tmp_path, ("loss",), "toy"))
    line = np.argwhere((panel == figures.LINES[0]).all(-1) & (np.arange(panel.shape[1]) < 300))
    y, x = line.T
    assert y[x < 150].mean() < y[x > 250].mean()  # losses fall


def test_pictures_stand_in_rows_and_columns():
    tiled = recipe("figures").tiled
    picture = Image.new("RGB", (10, 8), "red")
    assert tiled([[picture, picture], [picture]]).size == (26, 22)


def test_the_world_is_shown_as_a_small_picture():
    picture = recipe("figures").world()
    assert picture.size == (6 * 168 + 5 * 6, 2 * 168 + 6)
    assert picture.mode == "P"
