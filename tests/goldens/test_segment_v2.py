"""Whole runs of the authors' second program: every stage from the backbone's features to the labels."""

from dataclasses import replace
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_models_v2 import network, seeded
from tests_shared import GOLDENS_V2

from corrclip_jax.bank.faiss_index import read_index
from corrclip_jax.config import Config, with_fields
from corrclip_jax.method import labels, windows
from corrclip_jax.method.bank import Bank
from corrclip_jax.method.branches import window_step
from corrclip_jax.method.correlation import compact
from corrclip_jax.method.segment import image_features, make_segment
from corrclip_jax.method.similarity import similarity_grid
from corrclip_jax.method.sliding_windows import sliding_windows
from corrclip_jax.method.support import SupportMap, region_support
from corrclip_jax.method.whole_image import whole_images
from corrclip_jax.text.embedding import TextEmbedding

RUNS = sorted(path.stem for path in GOLDENS_V2.glob("run_*.npz"))
TOLERANCE = 2e-4  # of the largest magnitude
CAP = 32


@lru_cache(maxsize=2)
def load(name):
    """A golden run, and the configuration and parameters of its models."""
    with np.load(GOLDENS_V2 / f"{name}.npz") as archive:
        golden = dict(archive)
    family = str(golden["family"])
    (clip, clip_params), (backbone, backbone_params) = network(str(golden["clip"])), network(family)
    config = Config(clip=clip, dino=None, sam2=None, similarity=family, **{family: backbone})
    method = {
        "window": int(golden["window"]),
        "stride": int(golden["stride"]),
        "resize_short": int(golden["short"]),
        "similarity_of": "image",
        "max_regions": CAP - 1,
    }
    config = with_fields(config, method=method, parts={"merging": False})
    return golden, config, {"clip": clip_params, family: backbone_params}


@pytest.fixture(scope="module", params=RUNS)
def run(request):
    return load(request.param), request.param.removeprefix("run_")


def bank_of(golden, name, stores=("main", "aux")):
    rows = len(golden["keys"])
    widths = {"main": golden["query_features"].shape[1], "aux": golden["aux_query_features"].shape[1]}
    values = {
        store: jnp.asarray(seeded().bank_values(rows, widths[store], f"{name}/{store}")) for store in stores
    }
    return Bank(jnp.asarray(golden["keys"]), values)


def text_of(golden, aux=True):
    return TextEmbedding(
        jnp.asarray(golden["query_features"]),
        jnp.asarray(golden["query_to_class"], jnp.int32),
        int(golden["query_to_class"].max()) + 1,
        {"aux": jnp.asarray(golden["aux_query_features"])} if aux else {},
    )


def error(ours, wanted):
    """The largest difference, relative to the largest magnitude."""
    return np.abs(np.asarray(ours) - wanted).max() / np.abs(wanted).max()


def inputs(golden):
    return jnp.asarray(golden["image"])[None], jnp.asarray(golden["regions"], jnp.int32)[None]


@pytest.fixture(scope="module")
def stages(run, tmp_path_factory):
    """All stages of a run by one program: with the whole bank, its main values, its published index; without."""
    (golden, config, params), name = run
    text, alone = text_of(golden), text_of(golden, aux=False)
    index = tmp_path_factory.mktemp("index") / f"{name}.faiss"
    index.write_bytes(golden["faiss"].tobytes())

    @jax.jit
    def compute(params, image, regions, bank, codes):
        layout = sliding_windows(image.shape[1:3], None, config)
        whole = whole_images(config, params, image, None, layout.resized(1))
        first = windows.cut_image(image[0], layout.plan)[:1], windows.cut_regions(regions[0], layout.plan)[:1]
        similar = layout.cells(whole, jnp.zeros(1, int), jnp.zeros(1, int))
        window = window_step(config, params, *first, CAP + 1, similar)
        features = image_features(config, params, image, regions, CAP + 1, layout, whole)
        main = replace(bank, values={"main": bank.values["main"]})
        supports = [
            region_support(whole, regions, CAP, one, queries, config.method)
            for one, queries in ((bank, text), (main, alone), (replace(bank, keys=codes), text))
        ]

        def logits(view, features, regions, *supports):
            grid = view.logits(features, text.features)
            own = labels.upsample(grid, jnp.asarray(view.rows), jnp.asarray(view.columns))
            maps = [SupportMap(one, compact(regions, CAP), view.size, view.resized) for one in supports]
            return own, *(one.fuse(own, jnp.arange(len(regions))) for one in maps)

        maps = layout.map_images(logits, features, regions, *supports)
        named = dict(zip(("own", "both", "no_aux", "ivfpq"), (one[0] for one in maps), strict=True))
        return whole.features[0], window, (supports[0], supports[2]), named

    bank = bank_of(golden, name)
    return golden, config, jax.tree.map(np.asarray, compute(params, *inputs(golden), bank, read_index(index)))


def test_features_and_first_window(stages):
    golden, config, (features, window, _, _) = stages
    plan = windows.plan_windows(*golden["image"].shape[:2], config.method)
    assert similarity_grid(config, (plan.y.padded, plan.x.padded)) == tuple(golden["window_grid"])
    assert error(features.transpose(2, 0, 1), golden["vfm_raw"]) < 2e-5
    kept = slice(None, None, int(golden["row_step"]))
    cells = window.similarity_features[0].reshape(-1, features.shape[-1])
    assert error(cells[kept], golden["window_vfm"]) < 2e-5
    assert error(window.features[0, kept], golden["window_features"]) < TOLERANCE


def test_neighbours_and_their_logits(stages):
    golden, _, (_, _, (support, by_codes), _) = stages
    there = support.neighbours[0, :, 0] >= 0
    np.testing.assert_array_equal(support.neighbours[0][there], golden["indices"])
    assert np.abs(support.scores[0][there] - golden["distances"]).max() < 1e-5
    np.testing.assert_array_equal(by_codes.neighbours[0][there], golden["indices_ivfpq"])
    mean = (golden["support_logits_main"] + golden["support_logits_aux"]) / 2
    assert error(support.logits[0][there], mean) < 2e-5


VARIANTS = {
    "labels": ("both", "logits"),
    "labels_no_aux": ("no_aux", "logits_no_aux"),
    "labels_own": ("own", "logits_own"),
    "labels_ivfpq": ("ivfpq", "logits_ivfpq"),
}


@pytest.mark.parametrize("variant", [*VARIANTS, "labels_threshold"])
def test_logits_and_labels(stages, variant):
    golden, config, (*_, logits) = stages
    which, name = VARIANTS.get(variant, VARIANTS["labels"])
    ours = logits[which].swapaxes(0, 1)
    step = 5 if name == "logits" else int(golden["other_step"])
    assert error(ours[:, ::step, ::step], golden[name]) < TOLERANCE
    threshold = float(golden["threshold"]) if variant == "labels_threshold" else 0.0
    assert (label(ours, golden, config, threshold) == golden[variant]).mean() >= 0.9999


def label(logits, golden, config, threshold):
    """Section 8 of the method, from logits [Q, H, W]."""
    scaled = np.exp(config.method.logit_scale * (logits - logits.max(axis=0)))
    best = np.where(1 / scaled.sum(axis=0) < threshold, 0, golden["query_to_class"][logits.argmax(axis=0)])
    ids = np.unique(golden["regions"], return_inverse=True)[1].reshape(best.shape)
    for index in range(1, ids.max() + 1):
        best[ids == index] = np.bincount(best[ids == index]).argmax()
    return best


def test_the_whole_program_gives_the_labels(run):
    (golden, config, params), name = run
    image, regions = inputs(golden)
    bank = bank_of(golden, name)
    result = jax.jit(make_segment(config))(params, image, text_of(golden), regions=regions, bank=bank)
    assert (np.asarray(result.labels[0]) == golden["labels"]).mean() >= 0.9999
