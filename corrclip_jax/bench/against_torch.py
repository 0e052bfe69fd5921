"""Comparison with the torch reference of a checkout's tests: both run alternately on the same machine."""

import importlib.util
import os
import statistics
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from corrclip_jax.bench.clock import matmul_rate, seconds
from corrclip_jax.bench.flops import count_flops
from corrclip_jax.bench.measure import Report, environment
from corrclip_jax.bench.stages import as_in_segment, draw_photos
from corrclip_jax.config import Config, with_fields
from corrclip_jax.conversion.families import convert_state_dict
from corrclip_jax.method.branches import window_step
from corrclip_jax.models.sam.sam2 import preprocess
from corrclip_jax.params.structure import init_params
from corrclip_jax.regions.masks import point_grid
from corrclip_jax.regions.sources import find_regions

TESTS = Path(__file__).resolve().parents[2] / "tests"
# Rounding may move a few cells whose similarity is close to the mean to the other side of it.
_TOLERANCE = 1e-2


def against_torch(
    config: Config,
    *,
    repeat: int = 5,
    threads: int | None = None,
    progress: Callable[[str], None] = lambda step: None,
) -> Report:
    """Time the window step (DINO, correlation, CLIP) and, if the configuration has SAM 2, the regions.

    Both sides get one window of the configuration's size and the same random weights. Torch runs it with eager
    attention, as the authors' program does, and with `scaled_dot_product_attention`, as users have it today.
    Torch's SAM 2 stops at the mask logits of all points, while ours also computes the region map.

    Args:
      config: the model.
      repeat: turns, in each of which both sides run once. Times are medians; so are ratios and shares of the
        rate of matrix products, which are taken within each turn, so that a busy moment matters least.
      threads: of torch; by default one per core.
      progress: called with the name of each step as it begins.

    Raises:
      ImportError: if torch or the tests of a checkout are missing.
      ValueError: for a dtype that the reference does not support, or if the results differ.
    """
    _check_reference()
    if config.dtype != "float32":
        raise ValueError(f"the torch reference computes in float32. Got {config.dtype}.")
    if config.similarity != "dino" or config.dino is None:
        raise ValueError(f"the torch reference has DINO's similarities only. Got {config.similarity!r}.")

    progress("Random weights")
    threads = threads or len(os.sched_getaffinity(0))
    pairs = {
        "window": partial(_window, config, "eager"),
        "window, SDPA": partial(_window, config, "sdpa"),
    }
    if config.regions.source == "sam2" and config.sam2 is not None:
        pairs["regions"] = partial(_regions, config)
    results = {}
    for name, prepare in pairs.items():
        progress(f"Compiling: {name}")
        ours, theirs, flops = prepare()
        times: dict[str, list[float]] = {"ours": [], "torch": []}
        rates: list[float] = []
        with _threads_of_torch(threads):
            for turn in range(repeat):
                progress(f"Turn {turn + 1} of {repeat}: {name}")
                rates.append(matmul_rate(config.dtype, repeat=2))
                times["ours"].append(seconds(ours))
                times["torch"].append(seconds(theirs))
        medians = {side: statistics.median(each) for side, each in times.items()}
        ratios = [a / b for a, b in zip(times["ours"], times["torch"], strict=True)]
        shares = [flops / each / rate for each, rate in zip(times["ours"], rates, strict=True)]
        results[name] = {
            "seconds": medians,
            "seconds_of_each": times,
            "ratio": statistics.median(ratios),
            "ratios": ratios,
            "flops": flops,
            "matmul_flops_per_second": rates,
            "rate_share": statistics.median(shares),
        }
    settings = {"dtype": config.dtype, "threads": threads, "window": config.method.window, "repeat": repeat}
    return {"model": config.name, "settings": settings, "against": results, **environment()}


@contextmanager
def _threads_of_torch(count: int) -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _check_reference() -> None:
    if importlib.util.find_spec("torch") is None:
        raise ImportError(
            "--against torch needs torch, which is not installed: run pip install -e '.[test]' in a checkout."
        )
    if not (TESTS / "reference" / "window.py").is_file():
        raise ImportError(
            f"--against torch runs the reference in the tests of a checkout, which is not in {TESTS}. Clone the "
            "project and run the command there."
        )
    if str(TESTS) not in sys.path:
        sys.path.insert(0, str(TESTS))


def _window(config: Config, attention: str) -> tuple[Callable[[], Any], Callable[[], Any], int]:
    """Our window step and that of torch on one window, after a comparison of their results; and our flops."""
    import reference
    import torch

    clip, dino, params = _models(config)
    for model in (clip, dino):
        model.set_attn_implementation(attention)
    method, side = config.method, config.method.window
    pixels = np.random.default_rng(0).standard_normal((side, side, 3)).astype(np.float32)
    regions = _nine_regions(side)
    cap = int(regions.max()) + 1
    step = partial(window_step, config, cap=cap)
    arguments = (params, jnp.asarray(pixels[None]), jnp.asarray(regions[None], jnp.int32))
    compiled = jax.jit(as_in_segment(config, lambda *args: step(*args).features))
    window, ids = torch.from_numpy(pixels).permute(2, 0, 1), torch.from_numpy(regions)

    @torch.inference_mode()
    def theirs() -> np.ndarray:
        features = reference.window_features(
            clip,
            dino,
            window,
            ids,
            merge_distance=method.merge_distance,
            similarity_scale=method.similarity_scale,
            spatial_weight=method.spatial_weight,
            semantic_weight=method.semantic_weight,
            spatial_layers=method.spatial_layers,
        )["features"]
        return features.flatten(0, 1).numpy()

    expected = theirs()
    error = np.abs(np.asarray(compiled(*arguments)[0]) - expected).max() / np.abs(expected).max()
    if not error <= _TOLERANCE:
        raise ValueError(
            f"the two programs disagree: their features differ by {error:.1e} of the largest magnitude."
        )
    return lambda: compiled(*arguments), theirs, count_flops(step, *arguments)


def _models(config: Config) -> tuple[Any, Any, dict]:
    """The torch networks with random weights, and our parameters converted from them."""
    import reference

    vision, dino_config = config.clip.vision, config.dino
    assert dino_config is not None  # the caller has looked
    clip = reference.random_clip(
        layers=vision.layers,
        width=vision.width,
        heads=vision.heads,
        patch_size=vision.patch_size,
        image_size=vision.image_size,
        quick_gelu=config.clip.quick_gelu,
        embed_dim=config.clip.embed_dim,
    )
    dino = reference.random_dino(
        layers=dino_config.layers,
        width=dino_config.width,
        heads=dino_config.heads,
        patch_size=dino_config.patch_size,
        image_size=dino_config.image_size,
    )
    # Texts are not encoded here, so the reference has a small text tower.
    text = clip.config.text_config
    small = {
        "vocab_size": text.vocab_size,
        "context_length": text.max_position_embeddings,
        "width": text.hidden_size,
        "heads": text.num_attention_heads,
        "layers": text.num_hidden_layers,
    }
    towers = with_fields(config.clip, text=small)
    params = {
        "clip": convert_state_dict("clip", clip.state_dict(), towers),
        "dino": convert_state_dict("dino", dino.state_dict(), dino_config),
    }
    return clip, dino, jax.tree.map(jnp.asarray, params)


def _regions(config: Config) -> tuple[Callable[[], Any], Callable[[], Any], int]:
    """Our region map of one image, torch's mask logits of the same points, and our flops."""
    import torch
    from reference.sam2 import random_sam2

    assert config.sam2 is not None  # checked by the caller
    model = random_sam2(config.sam2)
    params = {"sam2": init_params(config)["sam2"]}
    images = draw_photos(1, 375, 500)
    find = jax.jit(lambda params, images: find_regions(config, params, images)[0])
    jax.block_until_ready(find(params, images))
    size = config.sam2.image_size
    points = torch.tensor(point_grid(config.regions.points_per_side, size))[None, :, None]
    labels = torch.ones(points.shape[:3], dtype=torch.long)
    pixels = torch.tensor(np.asarray(preprocess(images, size))).permute(0, 3, 1, 2)

    @torch.inference_mode()
    def theirs() -> np.ndarray:
        maps = model.get_image_embeddings(pixels)
        out = model(image_embeddings=maps, input_points=points, input_labels=labels, multimask_output=False)
        return out.pred_masks.numpy()

    return lambda: find(params, images), theirs, count_flops(find, params, images)


def _nine_regions(side: int) -> np.ndarray:
    """A region map of 3 by 3 squares, whose middle one is unsegmented."""
    thirds = np.arange(side) * 3 // side
    regions = 3 * thirds[:, None] + thirds[None] + 1
    return np.where(regions == 5, 0, regions)
