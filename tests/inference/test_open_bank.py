"""A bank given to a `Segmenter`: from its folder or from memory, checked against the model's networks."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
from small_models import small_bank, small_config, small_v2, write_vocabulary

from corrclip_jax import Segmenter
from corrclip_jax.bank.errors import BankError
from corrclip_jax.bank.folder import Description, Network, write_description
from corrclip_jax.bank.rows import write_rows
from corrclip_jax.config import with_fields
from corrclip_jax.inference.open_bank import open_bank
from corrclip_jax.inference.other_clips import described, embed_in_all
from corrclip_jax.params.digests import network_digest
from corrclip_jax.params.structure import init_params


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    config = small_v2(small_config(write_vocabulary(tmp_path_factory.mktemp("vocabulary")), sam2=False))
    few = {"spatial": False, "semantic": False}  # branches of which a bank knows nothing
    return with_fields(config, regions={"source": "none"}, parts=few), init_params(config)


@pytest.fixture
def folder(model, tmp_path):
    """A bank of the model on disk, with values of a second CLIP."""
    config, params = model
    bank = small_bank(config, others=6)
    write_rows(tmp_path / "keys", 0, np.asarray(bank.keys))
    for name, values in bank.values.items():
        write_rows(tmp_path / "values" / name, 0, np.asarray(values))
    networks = {
        "backbone": Network("radio", 32, network_digest(params["radio"])),
        "values": {
            "main": Network(config.name, config.clip.embed_dim, network_digest(params["clip"])),
            "aux": Network("other", 6),
        },
    }
    write_description(tmp_path, Description(entries=len(bank.keys), images=1, **networks))
    return tmp_path


def test_the_values_of_the_models_own_clip_are_read(model, folder):
    config, params = model
    opened, wanted = open_bank(folder, config, params), small_bank(config, others=6)
    assert set(opened.values) == {"main"}
    np.testing.assert_array_equal(opened.keys, wanted.keys)
    np.testing.assert_array_equal(opened.values["main"], wanted.values["main"])
    assert set(open_bank(wanted, config, params).values) == {"main"}


def test_values_of_a_second_clip_are_read_for_its_text_tower(model, folder, tmp_path):
    config, params = model
    second = with_fields(config, name="other", clip={"embed_dim": 6})
    text = {"clip": {"text": init_params(second)["clip"]["text"]}}
    assert set(open_bank(folder, config, params, described({"aux": (second, text)})).values) == {
        "main",
        "aux",
    }
    embedded = embed_in_all(config, params, {"aux": (second, text)}, ["cat", ["the", "of"]])
    assert (embedded.features.shape[1], embedded.others["aux"].shape) == (16, (3, 6))
    with pytest.raises(BankError, match="the model has elsewhere of width 6"):
        open_bank(folder, config, params, {"aux": Network("elsewhere", 6)})
    with pytest.raises(BankError, match="no values of the CLIP 'dfn'; it has main, aux"):
        open_bank(folder, config, params, {"dfn": Network("other", 6)})
    with pytest.raises(BankError, match="no values of the CLIP 'dfn'"):
        open_bank(small_bank(config), config, params, {"dfn": Network("other", 6)})
    with pytest.raises(ValueError, match="give bank= as well"):
        Segmenter(model, others={"aux": (second, text)})


def test_a_bank_of_other_weights_is_refused(model, folder):
    config, params = model
    for name in ("clip", "radio"):
        other = params | {name: init_params(config, seed=1)[name]}
        with pytest.raises(BankError, match="other weights of the"):
            open_bank(folder, config, other)


def test_a_bank_in_memory_of_another_width_is_refused(model):
    config, params = model
    bank = replace(small_bank(config), keys=jnp.ones((40, 8), jnp.float16))
    with pytest.raises(ValueError, match="keys are 8 wide"):
        Segmenter((config, params), bank=bank)


def test_a_result_says_what_the_bank_said_of_each_region(model, folder):
    photo = np.random.default_rng(0).integers(0, 256, (112, 120, 3), dtype=np.uint8)
    regions = np.zeros((112, 120), np.int32)
    regions[20:60, 30:80] = 7
    result = Segmenter(model, bank=folder)(photo, ["cat", ["the", "of"]], regions=regions)
    assert result.support.regions.tolist() == [0, 7]
    assert result.support.logits.shape == result.support.own.shape == (2, 3)
    assert np.isfinite(result.support.own).all() and result.support.own.any()
    assert (result.support.neighbours >= 0).all()
    assert (np.diff(result.support.similarities, axis=1) <= 0).all()
    assert result.support.neighbours.shape == (2, 3)
