"""`corrclip_jax.evaluate`: whole evaluations from Python, interrupted and resumed, with the command's report."""

import importlib
import json
import signal
import threading

import numpy as np
import pytest
from command_line import corrclip
from evaluation_process import NAMES, Bench, label_by_colour
from PIL import Image
from small_models import small_config

import corrclip_jax
from corrclip_jax.cli.runs import evaluate as command
from corrclip_jax.datasets.dataset import Dataset, Example
from corrclip_jax.datasets.scenes.dataset import scenes
from corrclip_jax.evaluation import scorer
from corrclip_jax.evaluation.counts import StateError
from corrclip_jax.evaluation.options import EvaluateOptions, default_model
from corrclip_jax.evaluation.resumable import Stopped

COUNT = 12
evaluate_module = importlib.import_module("corrclip_jax.evaluation.evaluate")  # a function has its name, too
SIGNALS = (signal.SIGTERM, signal.SIGINT)


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return Bench(tmp_path_factory.mktemp("bench"), COUNT)


@pytest.fixture(autouse=True)
def networkless(monkeypatch):
    monkeypatch.setattr(scorer, "make_segment", label_by_colour)


def evaluate(bench, **options):
    return corrclip_jax.evaluate(
        images=bench.folder / "photos",
        labels=bench.folder / "truth",
        model=bench.model,
        **{"classes": NAMES, "regions": "none"} | options,
    )


def matrix_by_hand(bench) -> np.ndarray:
    matrix = np.zeros((3, 4), int)
    for path in sorted((bench.folder / "truth").iterdir()):
        truth, photo = np.array(Image.open(path)), np.array(Image.open(bench.folder / "photos" / path.name))
        np.add.at(matrix, (truth.ravel(), photo[..., 0].ravel() % len(NAMES)), 1)
    return matrix


def test_the_regions_are_by_default_those_of_the_model_s_source(bench):
    found = evaluate(bench, regions=None, count=1, assignments=["regions.source=slic"])
    assert found.report["regions"] == "slic"


def test_scores_and_the_commands_report(bench, tmp_path, monkeypatch):
    found = evaluate(bench, regions=bench.folder / "regions", out=tmp_path / "python", predictions=True)
    assert found.report["confusion"]["pixels"] == matrix_by_hand(bench).tolist()
    assert found.mean_iou == found.report["mean_iou"]
    assert list(found.class_iou) == list(NAMES)
    assert np.isfinite(found.scores).all()
    assert found.unreadable == {}
    monkeypatch.setattr(command, "keep_compiled_programs", lambda: None)
    options = ["--images", bench.folder / "photos", "--labels", bench.folder / "truth", "-m", bench.model]
    options += ["--classes-file", bench.folder / "classes.txt", "--regions", bench.folder / "regions"]
    printed = corrclip("evaluate", *options, "--out", tmp_path / "command", "--predictions")
    assert printed.exit_code == 0, printed.output
    files = [
        {path.relative_to(tmp_path / name) for path in (tmp_path / name).rglob("*") if path.is_file()}
        for name in ("python", "command")
    ]
    assert files[0] == files[1]
    assert len(files[0]) >= COUNT + 4
    reports = [
        json.loads((tmp_path / name / "report.json").read_text("utf-8")) for name in ("python", "command")
    ]
    for report in reports:
        for name in ("seconds", "pictures_per_second", "compiling_seconds"):
            assert report.pop(name) > 0
        assert report.pop("regions") == str(bench.folder / "regions")
    assert reports[0] == reports[1]


@pytest.mark.usefixtures("shared_programs")
def test_an_evaluation_that_a_callback_interrupts_is_resumed(bench, tmp_path):
    def interrupt(run):
        if run.done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(bench, out=tmp_path, progress=interrupt)
    starts = []
    found = evaluate(bench, out=tmp_path, on_start=lambda run: starts.append(int(run.base.counted.sum())))
    assert starts[0] > 0
    assert found.report["confusion"]["pixels"] == matrix_by_hand(bench).tolist()
    assert found.report["pictures"] == COUNT
    with pytest.raises(StateError, match="other settings"):
        evaluate(bench, out=tmp_path, points=3)
    evaluate(bench, out=tmp_path, points=3, resume=False)


@pytest.mark.usefixtures("shared_programs")
@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_it_in_the_main_thread_and_handlers_come_back(bench, tmp_path, number):
    before = signal.getsignal(number)
    with pytest.raises(Stopped, match=f"stopped by {number.name}") as stopped:
        evaluate(bench, out=tmp_path, progress=lambda run: signal.raise_signal(number))
    assert signal.getsignal(number) is before
    assert (stopped.value.number, stopped.value.running) == (number, False)
    found = evaluate(bench, out=tmp_path)
    assert found.report["confusion"]["pixels"] == matrix_by_hand(bench).tolist()


@pytest.mark.usefixtures("shared_programs")
def test_it_runs_in_another_thread_without_a_folder(bench):
    found = []
    before = [signal.getsignal(number) for number in SIGNALS]
    seen = []
    thread = threading.Thread(
        target=lambda: found.append(
            evaluate(
                bench, progress=lambda run: seen.append([signal.getsignal(number) for number in SIGNALS])
            )
        )
    )
    thread.start()
    thread.join()
    assert found[0].report["confusion"]["pixels"] == matrix_by_hand(bench).tolist()
    assert found[0].out is None
    assert seen[-1] == before


@pytest.mark.usefixtures("shared_programs")
def test_a_dataset_with_regions_of_its_own(bench):
    def example(index):
        labels = np.full((40, 48), index % 3, np.int32)
        return Example(np.full((40, 48, 3), index, np.uint8), labels, labels)

    data = Dataset("mine", tuple((name,) for name in NAMES), 4, example)
    found = corrclip_jax.evaluate(data, model=bench.model, regions="truth", count=3, ablation=True)
    assert found.report["confusion"]["pixels"] == (np.eye(3, 4, dtype=int) * 40 * 48).tolist()
    assert found.mean_iou == 1
    assert len(found.report["ablation"]) == 13
    assert found.report["settings"]["regions"] == "truth"


def test_the_model_is_tiny_for_scenes_which_alone_it_knows(monkeypatch):
    assert default_model("scenes") == default_model(scenes("unseen")) == "tiny"
    toy = Dataset("toy", (("cat",),), 1, lambda index: None)
    assert [default_model(data) for data in (None, "voc21", toy)] == ["vit-b"] * 3
    asked = []

    def run(options, **callbacks):
        asked.append(options)
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluate_module, "run_evaluation", run)
    own = {"images": "photos", "labels": "truth", "classes": NAMES}
    for options in (own, {"dataset": "scenes", "bank": "bank", "others": {"aux": "dfn-b16"}}):
        with pytest.raises(KeyboardInterrupt):
            corrclip_jax.evaluate(**options)
    assert [options.model for options in asked] == ["vit-b", "tiny"]
    assert (asked[1].bank, asked[1].others) == ("bank", {"aux": "dfn-b16"})
    with pytest.raises(TypeError):
        EvaluateOptions("scenes", model="tiny")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "name a dataset, or give all of images, labels and classes"),
        ({"dataset": "voc21"}, "data_root is missing: the folder that holds the published files of voc21"),
        ({"dataset": "voc22"}, "the data sets are: scenes, voc21"),
        ({"dataset": "scenes", "images": "photos"}, "are for data of your own"),
        ({"dataset": "scenes", "data_root": "."}, "take no data_root"),
        ({"dataset": "scenes", "regions": "nowhere"}, "'nowhere' is no folder"),
        (
            {"dataset": "scenes", "regions": "sam2.1-t", "model": (small_config(), {})},
            "is a published network",
        ),
        ({"dataset": "scenes", "predictions": True}, "predictions need a folder: give out"),
        ({"dataset": "scenes", "count": 0}, "count must be 1 or more"),
        ({"dataset": "scenes", "save_every": 0}, "save_every must be 1 or more"),
        ({"dataset": "scenes", "points": 0}, "points must be 1 or more"),
        ({"dataset": "scenes", "background_threshold": 2.0}, "is a probability"),
        ({"dataset": "scenes", "model": "vit-x"}, "model must be one of tiny, tiny-v2, vit-b"),
    ],
)
def test_what_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        corrclip_jax.evaluate(**options)


def test_public_names():
    import corrclip_jax.evaluation

    assert corrclip_jax.evaluate.__module__ == "corrclip_jax.evaluation.evaluate"
    assert corrclip_jax.evaluation.__doc__
    for name in ("evaluate", "put_params", "put_batch", "fetch_batch"):
        assert name in corrclip_jax.__all__
        assert callable(getattr(corrclip_jax, name))
