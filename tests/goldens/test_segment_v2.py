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
from corrclip_jax.method.correlation import compact, normalise
from corrclip_jax.method.segment import label_images, make_segment
from corrclip_jax.method.similarity import similarity_grid
from corrclip_jax.method.sliding_windows import sliding_windows
from corrclip_jax.method.support import SupportMap, region_queries, region_support, support_of
from corrclip_jax.method.whole_image import whole_images
from corrclip_jax.text.embedding import TextEmbedding

RUNS = sorted(path.stem for path in GOLDENS_V2.glob("run_*.npz"))
TOLERANCE = 2e-4  # of the largest magnitude
CAP = 32


@lru_cache(maxsize=4)
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


def bank_of(golden, name):
    rows = len(golden["keys"])
    widths = {"main": golden["query_features"].shape[1], "aux": golden["aux_query_features"].shape[1]}
    values = {store: seeded().bank_values(rows, width, f"{name}/{store}") for store, width in widths.items()}
    return jax.device_put(Bank(golden["keys"], values))


def text_of(golden, aux=True):
    owners, others = golden["query_to_class"].astype(np.int32), {"aux": golden["aux_query_features"]}
    features, owners, others = jax.device_put((golden["query_features"], owners, others if aux else {}))
    return TextEmbedding(features, owners, int(golden["query_to_class"].max()) + 1, others)


def error(ours, wanted):
    """The largest difference, relative to the largest magnitude."""
    return np.abs(np.asarray(ours) - wanted).max() / np.abs(wanted).max()


def inputs(golden):
    return golden["image"][None], golden["regions"].astype(np.int32)[None]


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

        def step(pixels, regions, similar):
            window = window_step(config, params, pixels, regions, CAP + 1, similar)
            similar = similar.reshape(*window.features.shape[:2], -1)
            return jnp.concatenate([window.features, similar], axis=-1)

        found = layout.map(step, image, regions, whole)
        width = text.features.shape[1]
        window, features = found[0, 0, 0], normalise(found[..., :width])

        main = replace(bank, values={"main": bank.values["main"]})
        queries = region_queries(whole, regions, CAP)[0][0]
        support = region_support(whole, regions, CAP, bank, text, config.method)
        others = [
            support_of(queries, one, words, config.method)
            for one, words in ((main, alone), (replace(bank, keys=codes), text))
        ]
        result = label_images(config, features, text, regions, CAP, layout, support)

        def logits(view, features, regions):
            grid = view.logits(features, text.features)
            own = labels.upsample(grid, jnp.asarray(view.rows), jnp.asarray(view.columns))
            ids, rows = compact(regions, CAP), jnp.arange(len(regions))
            whole_bank = jax.tree.map(lambda x: x[0], support)
            maps = [SupportMap(one, ids, view.size, view.resized) for one in (whole_bank, *others)]
            return own, *(one.fuse(own, rows) for one in maps)

        maps = layout.map_images(logits, features, regions)
        named = dict(zip(("own", "both", "no_aux", "ivfpq"), (one[0] for one in maps), strict=True))
        window = window[..., :width], window[..., width:]
        return whole.features[0], window, (support, others[1]), result.labels[0], named

    bank = bank_of(golden, name)
    return golden, config, jax.tree.map(np.asarray, compute(params, *inputs(golden), bank, read_index(index)))


def test_features_and_first_window(stages):
    golden, config, (features, (window_features, similar), *_) = stages
    plan = windows.plan_windows(*golden["image"].shape[:2], config.method)
    assert similarity_grid(config, (plan.y.padded, plan.x.padded)) == tuple(golden["window_grid"])
    assert error(features.transpose(2, 0, 1), golden["vfm_raw"]) < 2e-5
    kept = slice(None, None, int(golden["row_step"]))
    cells = similar.reshape(-1, features.shape[-1])
    assert error(cells[kept], golden["window_vfm"]) < 2e-5
    assert error(window_features.reshape(len(cells), -1)[kept], golden["window_features"]) < TOLERANCE


def test_neighbours_and_their_logits(stages):
    golden, _, (_, _, (support, by_codes), *_) = stages
    there = support.neighbours[0, :, 0] >= 0
    np.testing.assert_array_equal(support.neighbours[0][there], golden["indices"])
    assert np.abs(support.scores[0][there] - golden["distances"]).max() < 1e-5
    np.testing.assert_array_equal(by_codes.neighbours[there], golden["indices_ivfpq"])
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


def test_labels_of_the_stages(stages):
    """Of logits that never exist at full size, corrected by region."""
    golden, _, (*_, found, _) = stages
    assert (found == golden["labels"]).mean() >= 0.9999


def test_the_whole_program_gives_the_labels():
    """It is made of the stages above, in the same way for all runs: one that is padded stands for them."""
    name = "dinov3_b16_strip_full"
    golden, config, params = load(f"run_{name}")
    image, regions = inputs(golden)
    bank = bank_of(golden, name)
    result = jax.jit(make_segment(config))(params, image, text_of(golden), regions=regions, bank=bank)
    assert (np.asarray(result.labels[0]) == golden["labels"]).mean() >= 0.9999
