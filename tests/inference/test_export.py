"""Exported programs: one file for three platforms, equal results in another process, what is refused."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from command_line import corrclip
from small_models import jitted, small_bank, small_config, small_model, small_params, small_v2

from corrclip_jax import embed_text, export, load, load_exported
from corrclip_jax.config import from_dict, with_fields
from corrclip_jax.inference.export import DESCRIPTION, PROGRAM
from corrclip_jax.method.segment import make_segment
from corrclip_jax.ops.cudnn_attention import TARGETS
from corrclip_jax.params.structure import init_params
from corrclip_jax.text.embedding import TextEmbedding, pad_queries

SIZE = (60, 90)


def pictures(count=1):
    coarse = np.random.default_rng(0).integers(0, 256, (count, 6, 9, 3), dtype=np.uint8)
    return coarse.repeat(10, 1).repeat(10, 2)


def region_maps(count=1):
    return np.random.default_rng(1).integers(0, 6, (count, 3, 6)).repeat(20, 1).repeat(15, 2).astype(np.int32)


def some_text(queries=5, classes=4):
    features = np.random.default_rng(5).standard_normal((queries, 16)).astype(np.float32)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    return TextEmbedding(jnp.asarray(features), jnp.arange(queries, dtype=jnp.int32) % classes, classes)


def in_a_process_of_its_own(code, *arguments):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def params():
    return init_params(with_fields(small_config(), sam2=None))


@pytest.fixture(scope="module")
def given(tmp_path_factory, params):
    """A program that takes region maps, for two photos."""
    config = with_fields(small_config(), sam2=None)
    folder = tmp_path_factory.mktemp("exported") / "program"
    names = [["cat"], ["sky", "cloud"], ["grass"], ["sea"]]
    height, width = SIZE
    return export(
        folder,
        config,
        params,
        some_text(),
        height=height,
        width=width,
        batch=2,
        classes=names,
        given_regions=True,
    )


@pytest.mark.slow
@pytest.mark.process
def test_a_program_of_the_command_for_three_platforms_in_a_fresh_process(tmp_path):
    """It finds regions, with a source that compiles quickly."""
    names, model = "red star, sand; beach, grass", small_model(tmp_path, sam2=False)
    arguments = ["export", "--out", tmp_path / "out", "-c", names, "--size", "90x60", "-m", model]
    done = corrclip(*arguments, "--regions", "slic", "--points", 4)
    assert done.exit_code == 0, done.output
    np.save(tmp_path / "images.npy", pictures())
    code = """
import sys, numpy as np, corrclip_jax
folder, images, out = sys.argv[1:]
exported = corrclip_jax.load_exported(folder)
np.savez(out, **exported(np.load(images))._asdict())
print(",".join(exported.description["platforms"]))
"""
    program = jax.export.deserialize(bytearray((tmp_path / "out" / PROGRAM).read_bytes())).mlir_module()
    assert not re.search(r"custom_call @\w*callback", program)
    printed = in_a_process_of_its_own(code, tmp_path / "out", tmp_path / "images.npy", tmp_path / "out.npz")
    assert printed.strip() == "cpu,cuda,tpu"
    assert load(tmp_path / "out")[0].regions.points_per_side == 4
    config, params = load(model)
    config = with_fields(config, regions={"source": "slic"})
    text = pad_queries(embed_text(config, params, ["red star", ["sand", "beach"], "grass"]), 8)
    wanted = jax.jit(make_segment(config))(params, pictures(), text)
    assert len(np.unique(wanted.regions)) > 4
    with np.load(tmp_path / "out.npz") as got:
        np.testing.assert_array_equal(got["labels"], wanted.labels)
        np.testing.assert_array_equal(got["regions"], wanted.regions)
        np.testing.assert_allclose(got["scores"], wanted.scores, rtol=1e-5)


def test_a_program_that_takes_region_maps(given, params):
    exported = load_exported(given)
    images, regions = pictures(2), region_maps(2)
    segment = jitted(exported.config)
    wanted = segment(params, images, some_text(), regions=regions)
    got = exported(images, regions=regions)
    np.testing.assert_array_equal(got.labels, wanted.labels)
    assert len(np.unique(got.labels)) > 1
    features, owners = np.asarray(some_text(3, 3).features), np.int32([0, 1, 2, -1, -1])
    fewer = TextEmbedding(jax.device_put(np.pad(features, ((0, 2), (0, 0)))), jax.device_put(owners), 3)
    other = exported(images, regions=regions, text_emb=fewer)
    wanted = segment(params, images, replace(fewer, num_classes=4), regions=regions)
    np.testing.assert_array_equal(other.labels, wanted.labels)
    assert (np.asarray(other.labels) != np.asarray(got.labels)).any()


def test_the_description_says_what_it_is(given):
    content = json.loads((given / DESCRIPTION).read_text())
    assert content["platforms"] == ["cpu", "cuda", "tpu"]
    assert content["inputs"]["images"] == {"shape": [2, 60, 90, 3], "dtype": "uint8"}
    assert content["results"]["labels"] == {"shape": [2, 60, 90], "dtype": "int32"}
    assert content["results"]["scores"]["dtype"] == "float32"
    assert content["classes"] == [["cat"], ["sky", "cloud"], ["grass"], ["sea"]]
    assert (content["queries"], content["dtype"]) == (5, "float32")
    assert content["versions"]["jax"] == jax.__version__
    exported = load_exported(given)
    filled = from_dict(type(exported.config), content["config"])
    assert filled.method.windows_per_chunk >= 1
    assert filled.clip == exported.config.clip
    assert load(given)[0] == exported.config


@pytest.mark.parametrize(("dtype", "flashes"), [("bfloat16", True), ("float32", False)])
def test_gpus_in_bfloat16_get_flash_attention(tmp_path, params, dtype, flashes):
    # Windows large enough that a matrix of attention is worth avoiding.
    config = with_fields(
        small_config(), sam2=None, dtype=dtype, method={"window": 168, "resize_short": 168, "stride": 112}
    )
    folder = export(
        tmp_path / dtype,
        config,
        params,
        some_text(),
        height=60,
        width=90,
        given_regions=True,
        platforms=["cuda"],
    )
    text = jax.export.deserialize(bytearray((folder / PROGRAM).read_bytes())).mlir_module()
    assert (TARGETS[0] in text) is flashes
    with pytest.raises(ValueError, match=r"was exported for cuda, and this is cpu\. Export it for cpu"):
        load_exported(folder)


def test_what_does_not_fit_the_program_is_refused(given):
    exported = load_exported(given)
    images, regions = pictures(2), region_maps(2)
    with pytest.raises(
        ValueError, match=r"images must be uint8 \[2, 60, 90, 3\].* Got uint8 \[1, 60, 90, 3\]"
    ):
        exported(images[:1], regions=regions)
    with pytest.raises(ValueError, match=r"images must be uint8 .* Got int32"):
        exported(images.astype(np.int32), regions=regions)
    with pytest.raises(ValueError, match=r"regions must be an integer type .* Got float64"):
        exported(images, regions=regions / 1)
    with pytest.raises(ValueError, match="exported to take region maps: give regions="):
        exported(images)
    with pytest.raises(ValueError, match=r"must be of 5 queries.* Got \[8, 16\]"):
        exported(images, regions=regions, text_emb=pad_queries(some_text(), 8))


@pytest.mark.process
def test_what_is_no_array_is_refused(given):
    """In a process without the tests' type checks."""
    code = """
import sys, numpy as np, corrclip_jax
exported, images = corrclip_jax.load_exported(sys.argv[1]), np.zeros((2, 60, 90, 3), np.uint8)
for arguments in (
    {"images": list(images), "regions": images[..., 0]},
    {"images": None, "regions": images[..., 0]},
    {"images": images, "regions": images[..., 0].tolist()},
    {"images": images, "regions": images[..., 0], "text_emb": ["cat", "sky"]},
):
    try:
        exported(**arguments)
    except ValueError as error:
        print(error)
"""
    images, nothing, regions, text = in_a_process_of_its_own(code, given).splitlines()
    assert images.startswith("images must be an array, uint8 [2, 60, 90, 3]") and "Got list" in images
    assert nothing.startswith("images must be an array") and "Got NoneType" in nothing
    assert regions.startswith("regions must be an array") and "Got list" in regions
    assert text.startswith("text embeddings must be a TextEmbedding") and "Got list" in text


@pytest.mark.parametrize("size", [None, 5, 8])
def test_other_classes_padded_to_the_exported_queries(tmp_path, params, size):
    """As the guide says: as many classes as the program has queries, however it was exported."""
    config = with_fields(small_config(), sam2=None)
    height, width = SIZE
    text = some_text() if size is None else pad_queries(some_text(), size)
    path = export(
        tmp_path, config, params, text, height=height, width=width, given_regions=True, platforms=["cpu"]
    )
    program = load_exported(path)
    images, regions, queries = pictures(), region_maps(), program.description["queries"]
    for other in (some_text(2, 2), some_text(5, 5), some_text(queries, queries)):
        padded = pad_queries(other, queries)
        wanted = jitted(program.config)(params, images, padded, regions=regions)
        got = program(images, regions=regions, text_emb=padded)
        np.testing.assert_array_equal(got.labels, wanted.labels)


def test_a_program_of_an_earlier_version_takes_the_classes_that_it_was_exported_with(given):
    """Their number was then the bound, and not that of the queries."""
    loaded = load_exported(given)
    earlier = loaded._replace(text=replace(loaded.text, num_classes=4))
    images, regions = pictures(2), region_maps(2)
    got = earlier(images, regions=regions, text_emb=pad_queries(some_text(4, 4), 5))
    wanted = loaded(images, regions=regions, text_emb=pad_queries(some_text(4, 4), 5))
    np.testing.assert_array_equal(got.labels, wanted.labels)
    with pytest.raises(ValueError, match=r"at most 4 classes.* Got 5\. Export it again"):
        earlier(images, regions=regions, text_emb=some_text(5, 5))


@pytest.mark.parametrize("sizes", [(46_341, 46_341, 1), (99_999, 99_999, 1), (0, 90, 1), (60, 90, 0)])
def test_images_of_no_pixels_or_too_many_are_refused(tmp_path, params, sizes):
    config = with_fields(small_config(), sam2=None)
    height, width, batch = sizes
    with pytest.raises(
        ValueError, match=r"at least 1, and height x width at most 2,147,483,647 pixels\. Got "
    ):
        export(tmp_path / "out", config, params, some_text(), height=height, width=width, batch=batch)


def test_damaged_and_missing_programs(given, tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no exported program"):
        load_exported(tmp_path)
    content = (given / DESCRIPTION).read_text()
    program = (given / PROGRAM).read_bytes()
    try:
        (given / PROGRAM).write_bytes(program[:100])
        with pytest.raises(ValueError, match="is damaged"):
            load_exported(given)
        (given / DESCRIPTION).write_text(content[:50])
        with pytest.raises(ValueError, match="is damaged"):
            load_exported(given)
        (given / DESCRIPTION).write_text('{"format": 99}')
        with pytest.raises(ValueError, match="has format 99"):
            load_exported(given)
    finally:
        (given / DESCRIPTION).write_text(content)
        (given / PROGRAM).write_bytes(program)


def test_nothing_else_is_overwritten(tmp_path, params):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "photo.jpg").write_bytes(b"photo")
    config = with_fields(small_config(), sam2=None)
    with pytest.raises(FileExistsError, match="exists and is not an exported program"):
        export(tmp_path / "mine", config, params, some_text(), height=60, width=90)
    assert (tmp_path / "mine" / "photo.jpg").read_bytes() == b"photo"
    (tmp_path / "mine" / DESCRIPTION).write_text('[{"annotations": []}]')
    with pytest.raises(FileExistsError, match="exists and is not an exported program"):
        export(tmp_path / "mine", config, params, some_text(), height=60, width=90)
    (tmp_path / "empty").mkdir()  # an empty folder is no fault, so the next one is reported
    with pytest.raises(ValueError, match="platforms"):
        export(tmp_path / "empty", config, params, some_text(), height=60, width=90, platforms=())
    with pytest.raises(ValueError, match=r"platforms must be some of cpu, cuda, tpu. Got \['abacus'\]"):
        export(
            tmp_path / "new",
            config,
            params,
            some_text(),
            height=60,
            width=90,
            given_regions=True,
            platforms=["abacus"],
        )


@pytest.fixture(scope="module")
def model_with_bank():
    """A small model of the second version, a bank with values of a second CLIP, and that CLIP."""
    config = small_v2(with_fields(small_config(), sam2=None, method={"resize_short": 112, "stride": 112}))
    config = with_fields(config, parts={"spatial": False, "semantic": False})  # of which a bank knows nothing
    second = with_fields(config, name="other", clip={"embed_dim": 6})
    text_tower = {"clip": {"text": small_params(second)["clip"]["text"]}}
    return config, small_params(config), small_bank(config, others=6), {"aux": (second, text_tower)}


def exported_with(model, path, text, bank, **options):
    config, params = model
    return export(
        path, config, params, text, height=SIZE[0], width=SIZE[1], given_regions=True, bank=bank, **options
    )


def check_exported(exported, wanted, **given):
    got = exported(pictures(), regions=region_maps(), **given)
    np.testing.assert_array_equal(got.labels, wanted.labels)
    np.testing.assert_array_equal(got.neighbours, wanted.neighbours)
    np.testing.assert_allclose(got.support, wanted.support, atol=1e-5)
    assert (np.asarray(wanted.neighbours) >= 0).any()


def in_memory(model, text, bank):
    config, params = model
    return jitted(config)(params, pictures(), text, regions=region_maps(), bank=bank)


@pytest.fixture(scope="module")
def text_of_two():
    """Queries in the model's CLIP and in the second one."""
    aux = np.random.default_rng(6).standard_normal((5, 6)).astype(np.float32)
    return replace(some_text(), others={"aux": jax.device_put(aux)})


@pytest.mark.slow
def test_a_bank_lies_inside_the_program(tmp_path, model_with_bank, text_of_two):
    *model, bank, others = model_with_bank
    path = exported_with(model, tmp_path / "out", text_of_two, bank, others=others, bank_inside=True)
    inside = load_exported(path)
    assert inside.description["platforms"] == ["cpu", "cuda", "tpu"]
    check_exported(inside, in_memory(model, text_of_two, bank))
    with pytest.raises(ValueError, match="takes no bank: it was exported with one inside"):
        load_exported(path, bank=bank)


@pytest.mark.slow
def test_a_bank_is_an_input_of_the_program_with_the_values_of_further_clips(
    tmp_path, model_with_bank, text_of_two
):
    *model, bank, others = model_with_bank
    path = exported_with(model, tmp_path / "out", text_of_two, bank, others=others)
    program = load_exported(path, bank=bank)
    assert list(program.description["results"])[3:] == ["neighbours", "similarities", "support", "own"]
    assert program.description["bank"]["others"] == {"aux": {"name": "other", "width": 6, "digest": None}}
    wanted = in_memory(model, text_of_two, bank)
    check_exported(program, wanted)
    turned = replace(text_of_two, others={"aux": -text_of_two.others["aux"]})
    other = in_memory(model, turned, bank)
    assert (np.asarray(other.support) != np.asarray(wanted.support)).any()
    check_exported(program, other, text_emb=turned)
    with pytest.raises(ValueError, match=r"queries in the further CLIPs \{'aux': 6\}.* Got \{\}"):
        program(pictures(), regions=region_maps(), text_emb=some_text())
    with pytest.raises(ValueError, match="was exported with a bank in memory"):
        load_exported(path)
    with pytest.raises(ValueError, match="takes a bank of 40 entries"):
        load_exported(path, bank=small_bank(model[0], 41, others=6))
    with pytest.raises(ValueError, match="no values of the CLIP 'aux'"):
        load_exported(path, bank=small_bank(model[0]))


def test_further_clips_are_those_of_the_queries_and_of_a_bank(tmp_path, model_with_bank):
    *model, bank, others = model_with_bank
    text = replace(some_text(), others={"aux": np.ones((5, 6), np.float32)})
    for queries, given, known in [(text, bank, None), (some_text(), bank, others), (text, None, others)]:
        with pytest.raises(ValueError, match="others must name the CLIPs in which text_emb has queries"):
            exported_with(model, tmp_path / "out", queries, given, others=known)


def test_the_command_refuses_what_it_cannot_do(tmp_path):
    def refused(*arguments):
        done = corrclip("export", "--out", tmp_path / "out", *arguments)
        assert done.exit_code == 2
        return done.stderr

    assert "Name the classes" in refused()
    assert "--bank-inside needs a bank" in refused("-c", "cat", "--bank-inside")
    assert "give --bank as well" in refused("-c", "cat", "--also", "dfn=dfn-b16")
    assert "--bank must be the folder of a bank" in refused("-c", "cat", "--bank", tmp_path)
    assert "--size must be width x height" in refused("-c", "cat", "--size", "big")
    model = small_model(tmp_path, sam2=False)
    large = refused("-c", "cat", "-m", model, "--regions", "none", "--size", "99999x99999")
    assert "at most 2,147,483,647 pixels" in large
    assert "no SAM 2 to find regions with" in refused("-c", "cat", "-m", model, "--size", "90x60")
    assert not (tmp_path / "out").exists()
