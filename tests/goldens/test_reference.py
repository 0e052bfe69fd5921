"""The torch reference against the authors' program: the proof that it reads the method rightly."""

import json
import sys
from functools import cache

import numpy as np
import pytest
import reference
import torch
from near_ties import near_ties
from reference.image import PADDING_ID, padded_window, photo_resize, resized_size
from reference.window import nearest
from tests_shared import GOLDENS

sys.path.insert(0, str(GOLDENS))
import seeded  # lies beside the goldens

RUNS = sorted(path.stem for path in GOLDENS.glob("*_*_*_*.npz"))
TOLERANCE, AT_TIES = 1e-5, 1e-2


def tensors(values: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(np.asarray(value)) for name, value in values.items()}


@cache
def models(name: str):
    golden = json.loads((GOLDENS / f"{name}.json").read_text())
    config = golden["config"]
    clip, dino = (tensors(seeded.state_dict(golden[part], f"corrclip/{part}")) for part in ("clip", "dino"))
    heads = config["vision"]["width"] // config["vision"]["head_width"]
    return (
        reference.clip_from_open_clip(clip, heads, config["text"]["heads"], config["quick_gelu"]),
        reference.dino_from_original(dino, config["dino"]["num_heads"]),
    )


@pytest.fixture(scope="module", params=RUNS)
def run(request):
    with np.load(GOLDENS / f"{request.param}.npz") as archive:
        golden = dict(archive)
    settings = reference.Settings(
        resize_short=int(golden["short"]), window=int(golden["crop"]), stride=int(golden["stride"])
    )
    return golden, settings, *models(str(golden["model"]))


def assert_close(ours: torch.Tensor, golden: np.ndarray, tied: np.ndarray | bool = False):
    """Differences relative to the largest magnitude; where similarities tie with their mean, other CPUs differ."""
    error = np.abs(ours.numpy() - golden) / np.abs(golden).max()
    assert np.mean(tied) < 0.2
    assert np.max(error * ~np.asarray(tied)) <= TOLERANCE
    assert error.max() <= AT_TIES


def test_photo_resize_is_opencvs(run):
    golden, settings, _, _ = run
    image = torch.from_numpy(golden["image"])
    ours = photo_resize(image, *resized_size(*image.shape[:2], settings))
    np.testing.assert_array_equal(ours.numpy(), golden["resized"])


def test_first_window(run):
    golden, settings, clip, dino = run
    resized = torch.from_numpy(golden["resized"])
    pixels = reference.normalised(resized)
    regions = nearest(torch.from_numpy(golden["regions"].astype(np.int64)), *resized.shape[:2])
    side = settings.window
    window, regions, _ = padded_window(
        pixels[:, :side, :side], regions[:side, :side], settings.window_multiple
    )
    regions[regions == PADDING_ID] = 10_000
    np.testing.assert_array_equal(regions.numpy(), golden["window_regions"])

    stages = reference.window_features(clip, dino, window, regions)
    gh, gw = stages["merged"].shape
    assert [gh, gw] == golden["window_grid"].tolist()
    kept = slice(None, None, 5 if gh * gw > 400 else 1)
    assert_close(stages["dino_features"].flatten(0, 1)[kept], golden["window_dino_features"])
    ties = near_ties(stages["similarity"], stages["merged"].flatten())[kept, None]
    assert_close(stages["features"].flatten(0, 1)[kept], golden["window_features"], ties)


# Larger photos have more windows of the same kinds; their first window and resize are compared above.
@pytest.mark.parametrize("run", [name for name in RUNS if not name.endswith("_448")], indirect=True)
def test_whole_photo(run):
    golden, settings, clip, dino = run
    regions = torch.from_numpy(golden["regions"].astype(np.int64))
    query_to_class = torch.from_numpy(golden["query_to_class"])
    out = reference.segment(
        clip,
        dino,
        torch.from_numpy(golden["image"]),
        regions,
        torch.from_numpy(golden["queries"]),
        query_to_class,
        settings,
        resized=torch.from_numpy(golden["resized"]),
    )
    tied = out["tied"].numpy()
    assert_close(out["logits"][:, ::6, ::6], golden["logits"], tied[::6, ::6])
    labels, _ = reference.label_map(out["logits"], query_to_class, regions, settings.logit_scale, 0.3)
    for ours, wanted in ((out["labels"], golden["labels"]), (labels, golden["labels_thr03"])):
        equal = ours.numpy() == wanted
        assert equal[~tied].all()
        assert equal.mean() >= 0.999
