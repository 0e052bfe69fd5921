"""`build_bank` with a small model: what it stores, from found regions, region maps and overlapping masks."""

from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from small_models import small_config, small_params

from corrclip_jax import build_bank, with_fields
from corrclip_jax.bank.errors import BankError
from corrclip_jax.bank.folder import load_bank, read_description
from corrclip_jax.bank.rows import Rows
from corrclip_jax.inference import bank
from corrclip_jax.inference.bank_features import _image
from corrclip_jax.inference.buckets import Batch, Bucket
from corrclip_jax.inference.programs import Piece
from corrclip_jax.runtime.memory import too_large

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model():
    """A small model whose backbone sees whole images, as in CorrCLIPv2; superpixels are its regions."""
    config = small_config(sam2=False)
    config = with_fields(
        config,
        method={"similarity_of": "image"},
        parts={"merging": False},
        regions={"source": "slic", "slic": {"segments": 6}},
    )
    return config, small_params(config)


def smooth(seed, height, width):
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BILINEAR))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Photos of two sizes with region maps."""
    folder = tmp_path_factory.mktemp("photos")
    maps = folder / "maps"
    maps.mkdir()
    for name, seed, shape in (("a", 0, (60, 80)), ("b", 1, (50, 70))):
        Image.fromarray(smooth(seed, *shape)).save(folder / f"{name}.png")
        ids = np.zeros(shape, np.int32)
        ids[10:30, :40], ids[35:, 20:] = 7, 3
        np.savez(maps / f"{name}.npz", instance_mask=ids)
    return folder


@pytest.fixture(scope="module")
def built(model, photos, tmp_path_factory):
    """The folder of a bank of the region maps, and what `build_bank` returned."""
    folder = tmp_path_factory.mktemp("built") / "bank"
    return folder, build_bank(photos, folder, model, regions=photos / "maps")


def test_entries_of_region_maps(model, built):
    folder, done = built
    assert (done.added, done.description.images, done.unreadable) == (4, 2, {})
    bank = load_bank(folder, model)
    np.testing.assert_array_equal(Rows(folder / "region", 4)[:], [3, 7, 3, 7])
    np.testing.assert_array_equal(
        Rows(folder / "box", 4)[:],
        [[20, 35, 79, 59], [0, 10, 39, 29], [20, 35, 69, 49], [0, 10, 39, 29]],
    )
    assert bank.keys.dtype == bank.values["main"].dtype == np.float16
    lengths = np.linalg.norm(bank.values["main"].astype(np.float32), axis=1)
    np.testing.assert_allclose(lengths, 1, atol=1e-3)
    assert (np.linalg.norm(bank.keys.astype(np.float32), axis=1) < 1 + 1e-3).all()
    assert len(np.unique(bank.keys, axis=0)) == 4


def test_masks_are_numbered_in_their_order_and_painted_later_over_earlier():
    masks = np.zeros((3, 4, 6), bool)
    masks[0, :3, :3], masks[2, 1:, 2:] = True, True  # and one without pixels
    image = _image(np.zeros((4, 6, 3), np.uint8), masks)
    np.testing.assert_array_equal(image.ids, [1, 3])
    np.testing.assert_array_equal(image.masks, masks[[0, 2]])
    np.testing.assert_array_equal(image.map, np.where(masks[2], 2, masks[0]))
    np.testing.assert_array_equal(image.boxes, [[0, 0, 2, 2], [2, 1, 5, 3]])


def test_regions_are_found_and_a_broken_image_is_left_out(model, photos, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    images = [photos / "a.png", photos / "b.png", tmp_path / "broken.jpg"]
    done = build_bank(images, tmp_path / "bank", model)
    assert list(done.unreadable) == [str(tmp_path / "broken.jpg")]
    assert 2 < done.added <= 12
    again = build_bank(images, tmp_path / "bank", model)
    assert (again.added, list(again.unreadable)) == (0, list(done.unreadable))
    assert read_description(tmp_path / "bank").settings["regions"]["source"] == "slic"


def test_an_image_without_a_region_map_is_named(model, photos, tmp_path):
    Image.fromarray(smooth(2, 60, 80)).save(tmp_path / "c.png")
    done = build_bank([tmp_path / "c.png"], tmp_path / "bank", model, regions=photos / "maps")
    assert "has no region map" in done.unreadable[str(tmp_path / "c.png")]


def test_a_bank_of_other_weights_is_refused(model, photos, built, tmp_path):
    Image.fromarray(smooth(2, 60, 80)).save(tmp_path / "c.png")
    config, params = model
    other = config, {**params, "dino": jax.tree.map(lambda x: np.asarray(x) + 1, params["dino"])}
    with pytest.raises(BankError, match="other weights of the backbone dino"):
        load_bank(built[0], other)
    with pytest.raises(BankError, match="with other backbone"):
        build_bank([tmp_path / "c.png"], built[0], other, regions=photos / "maps")


def test_a_model_without_regions_is_refused(model, photos, tmp_path):
    with pytest.raises(ValueError, match=r"entries are regions, and the model 'small' has no network"):
        build_bank([photos / "a.png"], tmp_path / "bank", model, regions="none")


def test_regions_are_a_source_a_published_network_or_a_folder(model, photos, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"'slick' is no folder\. Did you mean slic\?"):
        build_bank([photos / "a.png"], tmp_path / "bank", model, regions="slick")
    with pytest.raises(ValueError, match=r"sam2\.1-t is a published network"):
        build_bank([photos / "a.png"], tmp_path / "bank", model, regions="sam2.1-t")
    asked = []

    def load(name, *, region_network):
        asked.append((name, region_network))
        config = small_config()
        return config, small_params(config)

    monkeypatch.setattr(bank, "load", load)
    settings = bank.bank_features("vit-b", regions="sam2.1-t").settings["regions"]
    assert (asked, settings["source"]) == ([("vit-b", "sam2.1-t")], "sam2.1-t")
    assert bank.bank_features("vit-b", regions=photos / "maps").settings["regions"] == {"source": "files"}
    assert asked[1:] == [("vit-b", None)]


@pytest.mark.parametrize("name", ["main", "dino"])
def test_a_further_clip_has_a_name_of_its_own(model, name):
    with pytest.raises(ValueError, match=f"a further CLIP cannot be called {name}"):
        bank.bank_features(model, others={"aux": model, name: model})


def test_an_image_whose_regions_do_not_fit_the_memory_is_named(model):
    features, pixels = bank.bank_features(model), np.zeros((4, 5, 3), np.uint8)
    batch, photos = Batch(Bucket(4, 5, 1), (0,), 1), {0: Path("a.png")}
    full = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")
    assert features._entries(Piece(batch, [pixels], full, 0.0, False), photos) == {0: too_large("a.png")}
    with pytest.raises(jax.errors.JaxRuntimeError, match="broken"):
        broken = Piece(batch, [pixels], jax.errors.JaxRuntimeError("broken"), 0.0, False)
        features._entries(broken, photos)
