"""Counts on disk belong to exactly the photos, labels, region maps and options that they were made with."""

import dataclasses
import json
import os
import shutil

import jax
import numpy as np
import pytest
from evaluation_process import NAMES, Bench, label_by_colour
from PIL import Image
from small_models import small_bank, small_config, small_params, small_v2, write_vocabulary

import corrclip_jax
from corrclip_jax.datasets.dataset import Dataset, Example
from corrclip_jax.evaluation import scorer
from corrclip_jax.evaluation.counts import StateError
from corrclip_jax.evaluation.kept_labels import KeptLabels
from corrclip_jax.hub import presets
from corrclip_jax.hub.presets import load
from corrclip_jax.io.own_files import ForeignFileError
from corrclip_jax.io.region_maps import write_regions
from corrclip_jax.params.model_folder import save

COUNT = 3


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return Bench(tmp_path_factory.mktemp("model"), 0).model


@pytest.fixture(autouse=True)
def networkless(monkeypatch, shared_programs):
    """In the method's place: a pixel's class is its red modulo the classes."""
    monkeypatch.setattr(scorer, "make_segment", label_by_colour)


@pytest.fixture
def run(model, tmp_path):
    """Photos, labels, maps, and a function that evaluates them with changed options."""
    for index in range(COUNT):
        rng = np.random.default_rng(index)
        labels = rng.integers(0, len(NAMES), (24, 32), dtype=np.uint8)
        for name in ("photos", "truth", "maps"):
            (tmp_path / name).mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)).save(
            tmp_path / f"photos/{index}.bmp"
        )
        Image.fromarray(labels).save(tmp_path / f"truth/{index}.bmp")
        write_regions(tmp_path / f"maps/{index}.npz", labels.astype(int))

    def evaluate(**options):
        given = {"images": "photos", "labels": "truth", "out": "out"} | options
        folders = {name: tmp_path / given.pop(name) for name in ("images", "labels", "out")}
        settings = {"model": model, "classes": NAMES, "regions": "none"} | given
        return corrclip_jax.evaluate(**folders, **settings)

    return evaluate


def corrected(path) -> None:
    """Change a file's pixels, but neither its size nor its time."""
    before = path.stat()
    Image.fromarray(np.roll(np.array(Image.open(path)), 1, axis=0)).save(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_mtime_ns, path.stat().st_size) == (before.st_mtime_ns, before.st_size)


@pytest.mark.parametrize("kind", ["photos", "labels"])
def test_a_file_that_was_corrected_is_named_and_its_counts_are_not_used(run, tmp_path, kind):
    run()
    corrected(tmp_path / ("truth" if kind == "labels" else kind) / "1.bmp")
    with pytest.raises(
        StateError, match=rf"{kind}: the content has changed of 1 of 3 counted images: 1\n.*--restart"
    ):
        run()
    assert run(resume=False).before == 0


def test_region_maps_that_were_made_anew_are_noticed(run, tmp_path):
    run(regions=tmp_path / "maps")
    for index in range(COUNT):
        write_regions(tmp_path / f"maps/{index}.npz", np.full((24, 32), index))
    with pytest.raises(StateError, match="regions: the content has changed of 3 of 3"):
        run(regions=tmp_path / "maps")


def test_the_same_content_in_another_folder_is_not_counted_again(run, tmp_path):
    run(regions=tmp_path / "maps")
    for name in ("photos", "truth", "maps"):
        shutil.copytree(tmp_path / name, tmp_path / f"{name}-copy")
    again = run(images="photos-copy", labels="truth-copy", regions=tmp_path / "maps-copy")
    assert again.before == COUNT


def test_another_option_is_named_and_refused(run, tmp_path):
    run()
    for options, message in [
        ({"first_id": 1, "classes": NAMES}, r"data\.first_id: was 0, is 1"),
        ({"ignored": 1}, r"data\.left_out\[0\]: was 255, is 1"),
        ({"classes": ["cat", "dog", "cloud"]}, r'data\.classes\[2\]: was "sky", is "cloud"'),
        ({"count": 2}, r"images: were 3 \(0, 1, 2\), are 2 \(0, 1\)"),
        ({"regions": tmp_path / "maps"}, 'regions: was "none", is "files"'),
    ]:
        with pytest.raises(StateError, match=message):
            run(**options)
    assert run().before == COUNT, "what is refused changes no counts"


def test_other_labels_of_the_same_names_are_refused(run, tmp_path):
    run()
    shutil.copytree(tmp_path / "truth", tmp_path / "other")
    Image.fromarray(np.zeros((24, 32), np.uint8)).save(tmp_path / "other" / "2.bmp")
    with pytest.raises(StateError, match=r"labels: .* 1 of 3 counted images: 2"):
        run(labels="other")


def test_examples_from_memory_are_told_by_their_arrays(model, tmp_path):
    def data(value):
        example = Example(np.zeros((24, 32, 3), np.uint8), np.full((24, 32), value, np.int32))
        return Dataset("mine", tuple((name,) for name in NAMES), 1, lambda index: example)

    evaluate = lambda value: corrclip_jax.evaluate(data(value), model=model, regions="none", out=tmp_path)  # noqa: E731
    evaluate(0)
    assert evaluate(0).before == 1
    with pytest.raises(StateError, match="labels: the content has changed of 1 of 1"):
        evaluate(1)


def test_a_finished_run_is_reported_again_without_a_model_at_work(
    run, tmp_path, monkeypatch, programs_of_module
):
    programs_of_module.clear()  # so that the first run compiles
    first = run(predictions=True)
    kept = {path.name: path.read_bytes() for path in (tmp_path / "out").glob("report.*")}

    def busy(*arguments, **options):
        raise AssertionError("a network was read, or the scorer was prepared or labelled something")

    monkeypatch.setattr(presets, "read", busy)
    for name in ("prepare", "_start"):
        monkeypatch.setattr(scorer.Scorer, name, busy)
    again = run(predictions=True)
    assert again.before == COUNT
    np.testing.assert_array_equal(again.scores, first.scores)
    assert (tmp_path / "out" / "report.html").read_bytes() == kept["report.html"], "with the same pictures"
    content = json.loads(kept["report.json"])
    assert content.pop("compiling_seconds") > 0
    assert again.report.pop("compiling_seconds") == 0
    assert again.report == content


def test_other_weights_in_the_same_files_are_noticed(run, model, tmp_path):
    shutil.copytree(model, tmp_path / "model")
    run(model=tmp_path / "model")
    config, params = load(tmp_path / "model")
    params["clip"]["visual"] = jax.tree.map(lambda x: np.asarray(x) + 1, params["clip"]["visual"])
    save(tmp_path / "model", params, config)
    with pytest.raises(StateError, match=r"weights_sha256\.clip: was "):
        run(model=tmp_path / "model")


def test_label_maps_that_were_lost_are_made_again(run, tmp_path):
    run(predictions=True)
    whole = (tmp_path / "out" / "report.html").read_text()
    prediction = (tmp_path / "out" / "predictions" / "1.png").read_bytes()
    next((tmp_path / "out" / "state").glob("labels-*.png")).unlink()
    (tmp_path / "out" / "predictions" / "1.png").unlink()
    found = run(predictions=True)
    assert (found.before, found.report["pictures"]) == (COUNT, COUNT)
    assert (tmp_path / "out" / "predictions" / "1.png").read_bytes() == prediction
    assert (tmp_path / "out" / "report.html").read_text().count("<img") == whole.count("<img")


def test_predictions_can_be_asked_for_afterwards(run, tmp_path):
    first = run()
    found = run(predictions=True)
    assert found.before == COUNT
    assert found.report["confusion"] == first.report["confusion"]
    assert len(list((tmp_path / "out" / "predictions").iterdir())) == COUNT


def test_only_files_of_its_own_are_deleted_from_the_folder_of_counts(run, tmp_path):
    run()
    mine = [tmp_path / "out" / "state" / name for name in ("notes.txt", "labels-mine.png", "part-7.txt")]
    for path in mine:
        path.write_text("mine")
    run()
    run(resume=False)
    assert all(path.read_text() == "mine" for path in mine)


def test_the_worst_and_the_best_labels_are_kept_in_any_order(tmp_path):
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 12, 40) / 12
    scores[[3, 9]] = np.nan
    labels = rng.integers(-1, 300, (40, 4, 5))
    order = rng.permutation(40).tolist()
    kept = KeptLabels(tmp_path, 4, np.full(40, np.nan))
    for index in order[:20]:
        kept.offer(index, scores[index], labels[index])
    before = np.full(40, np.nan)
    before[order[:20]] = scores[order[:20]]
    kept = KeptLabels(tmp_path, 4, before)
    for index in order[20:]:
        kept.offer(index, scores[index], labels[index])
    ranked = sorted((score, index) for index, score in enumerate(scores) if not np.isnan(score))
    wanted = {index for _, index in (*ranked[:4], *ranked[-4:])}
    assert {path.name for path in tmp_path.iterdir()} == {f"labels-{index}.png" for index in wanted}
    for index in wanted:
        np.testing.assert_array_equal(kept.read(index), labels[index])
    kept.keep_only([])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["report.md", "worst.png", "predictions/1.png"])
def test_a_file_of_other_origin_is_not_replaced_unless_asked(run, tmp_path, name):
    path = tmp_path / "out" / name
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    with pytest.raises(ForeignFileError, match=rf"{name} was not written by this program"):
        run(predictions=True)
    assert [each for each in (tmp_path / "out").rglob("*") if each.is_file()] == [path]
    assert path.read_text() == "mine"
    run(predictions=True, overwrite=True)
    assert path.read_bytes() != b"mine"
    run(predictions=True)


@pytest.mark.parametrize("folder", ["photos", "truth", "maps"])
def test_results_do_not_go_among_the_inputs(run, tmp_path, folder):
    with pytest.raises(ValueError, match="would be taken for more of them"):
        run(out=folder, regions=tmp_path / "maps")


def test_names_of_any_bytes_and_any_length_are_counted_and_reported(run, tmp_path):
    names = [os.fsdecode(b"caf\xe9"), "x" * 251, "a|b<i>"]
    for index, name in enumerate(names):
        (tmp_path / f"photos/{index}.bmp").rename(tmp_path / f"photos/{name}.bmp")
        (tmp_path / f"truth/{index}.bmp").rename(tmp_path / f"truth/{name}.bmp")
    (tmp_path / f"truth/{names[0]}.bmp").write_bytes(b"broken")
    found = run(predictions=True)
    assert sorted(path.stem for path in (tmp_path / "out" / "predictions").iterdir()) == sorted(names[1:])
    content = json.loads((tmp_path / "out" / "report.json").read_text("utf-8"))
    assert list(content["unreadable"]) == names[:1]
    assert set(content["picture_mean_iou"]) == set(names[1:])
    assert next(iter(found.unreadable.values())).startswith(str(tmp_path / f"truth/{names[0]}.bmp"))
    assert run(predictions=True).before == 2


def test_counts_of_another_bank_are_not_resumed_and_the_report_names_it(run, tmp_path):
    config = small_v2(small_config(write_vocabulary(tmp_path), sam2=False))
    model, bank = (config, small_params(config)), small_bank(config)
    found = run(model=model, bank=bank)
    assert found.report["bank"] == {"folder": None, "entries": 40, "values": ["main"]}
    assert "in memory, 40 entries, values main, sha256 " in (tmp_path / "out/report.md").read_text()
    assert run(model=model, bank=jax.tree.map(np.asarray, bank)).before == COUNT
    values = bank.values["main"]
    other = dataclasses.replace(bank, values={"main": values.at[7, 3].set(values[7, 3] + 0.25)})
    for changed in (other, None):
        with pytest.raises(StateError, match="bank_sha256: was"):
            run(model=model, bank=changed)
    with pytest.raises(ValueError, match="a bank needs features of whole images"):
        run(bank=bank)
