"""Ours beside the torch reference of a checkout's tests, in turns, so that both see the same machine."""

import importlib.util
import os
import statistics
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from corrclip_jax.bench.clock import matmul_rate, seconds
from corrclip_jax.bench.flops import count_flops
from corrclip_jax.bench.measure import Report, environment
from corrclip_jax.bench.stages import draw_photos, exactly
from corrclip_jax.config import Config, with_fields
from corrclip_jax.conversion.families import convert_state_dict
from corrclip_jax.method.branches import window_step
from corrclip_jax.models.sam.sam2 import preprocess
from corrclip_jax.params.structure import init_params
from corrclip_jax.regions.masks import point_grid
from corrclip_jax.regions.sources import find_regions

TESTS = Path(__file__).resolve().parents[2] / "tests"
# Similarities that tie with their mean may move a few cells.
_AGREE = 1e-2


def versus(
    config: Config,
    *,
    repeat: int = 5,
    threads: int | None = None,
    announce: Callable[[str], None] = lambda step: None,
) -> Report:
    """Time the window step (DINO, correlation, CLIP) and, where the configuration has SAM 2, the regions.

    One window of the configuration's size, the same random weights on both sides, torch with eager attention; the
    two must agree. Torch's SAM 2 stops at the mask logits of all points, ours goes on to the region map.
    Ratios, and shares of the rate of matrix products, are medians of the turns' own, which a busy moment shifts
    least.

    Raises:
      ImportError: where torch, or the tests of a checkout, are missing.
      ValueError: for a dtype that the reference does not know, or where the two disagree.
    """
    _check_reference()
    if config.dtype != "float32":
        raise ValueError(f"the torch reference computes in float32. Got {config.dtype}.")
    if config.similarity != "dino" or config.dino is None:
        raise ValueError(f"the torch reference has DINO's similarities only. Got {config.similarity!r}.")
    import torch

    announce("Random weights")
    threads = threads or len(os.sched_getaffinity(0))
    pairs = {"window": partial(_window, config)}
    if config.regions.source == "sam2" and config.sam2 is not None:
        pairs["regions"] = partial(_regions, config)
    results = {}
    for name, prepare in pairs.items():
        announce(f"Compiling: {name}")
        ours, theirs, flops = prepare()
        torch.set_num_threads(threads)
        times: dict[str, list[float]] = {"ours": [], "torch": []}
        rates: list[float] = []
        for turn in range(repeat):
            announce(f"Turn {turn + 1} of {repeat}: {name}")
            rates.append(matmul_rate(config.dtype, repeat=2))
            times["ours"].append(seconds(ours))
            times["torch"].append(seconds(theirs))
        medians = {side: statistics.median(taken) for side, taken in times.items()}
        ratios = [a / b for a, b in zip(times["ours"], times["torch"], strict=True)]
        shares = [flops / taken / rate for taken, rate in zip(times["ours"], rates, strict=True)]
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


def _check_reference() -> None:
    if importlib.util.find_spec("torch") is None:
        raise ImportError(
            "--against torch wants torch, which is not installed: pip install -e '.[test]' in a checkout."
        )
    if not (TESTS / "reference" / "window.py").is_file():
        raise ImportError(
            f"--against torch runs the reference in the tests of a checkout; there is none in {TESTS}. Clone the "
            "project and run the command there."
        )
    if str(TESTS) not in sys.path:
        sys.path.insert(0, str(TESTS))


def _window(config: Config) -> tuple[Callable[[], Any], Callable[[], Any], int]:
    """Our window step and torch's on one window, once compared; and ours' arithmetic."""
    import reference
    import torch

    clip, dino, params = _models(config)
    method, side = config.method, config.method.window
    pixels = np.random.default_rng(0).standard_normal((side, side, 3)).astype(np.float32)
    regions = _nine_regions(side)
    cap = int(regions.max()) + 1
    step = partial(window_step, config, cap=cap)
    arguments = (params, jnp.asarray(pixels[None]), jnp.asarray(regions[None], jnp.int32))
    compiled = jax.jit(exactly(lambda *args: step(*args).features))
    window, ids = torch.from_numpy(pixels).permute(2, 0, 1), torch.from_numpy(regions)

    @torch.inference_mode()
    def theirs():
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

    wanted = theirs()
    error = np.abs(np.asarray(compiled(*arguments)[0]) - wanted).max() / np.abs(wanted).max()
    if not error <= _AGREE:
        raise ValueError(f"the two programs disagree: features differ by {error:.1e} of their magnitude.")
    return lambda: compiled(*arguments), theirs, count_flops(step, *arguments)


def _models(config: Config) -> tuple[Any, Any, dict]:
    """The torch towers with random weights, and our parameters of the same weights."""
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
    # Nothing here reads texts; the reference has a small tower for them.
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
    """Our region maps of one photo and torch's mask logits of the same points; and ours' arithmetic."""
    import torch
    from reference.sam2 import random_sam2

    assert config.sam2 is not None  # the caller has looked
    model = random_sam2(config.sam2)
    params = {"sam2": init_params(config)["sam2"]}
    images = draw_photos(1, 375, 500)
    find = jax.jit(exactly(lambda params, images: find_regions(config, params, images)[0]))
    jax.block_until_ready(find(params, images))
    size = config.sam2.image_size
    points = torch.tensor(point_grid(config.regions.points_per_side, size))[None, :, None]
    labels = torch.ones(points.shape[:3], dtype=torch.long)
    pixels = torch.tensor(np.asarray(preprocess(images, size))).permute(0, 3, 1, 2)

    @torch.inference_mode()
    def theirs():
        maps = model.get_image_embeddings(pixels)
        out = model(image_embeddings=maps, input_points=points, input_labels=labels, multimask_output=False)
        return out.pred_masks.numpy()

    return lambda: find(params, images), theirs, count_flops(find, params, images)


def _nine_regions(side: int) -> np.ndarray:
    """Three by three regions, the middle one not segmented."""
    thirds = np.arange(side) * 3 // side
    regions = 3 * thirds[:, None] + thirds[None] + 1
    return np.where(regions == 5, 0, regions)
