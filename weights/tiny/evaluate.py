"""How good the towers are, also while they train.

`python weights/tiny/evaluate.py --clip RUN --dino RUN --sam2 RUN`

A run is a recipe's output folder; what is not given is not measured, or random. Regions are the true instances
and, where there is a SAM 2, its own.
"""

import argparse
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import loop
import numpy as np
import train_dino
from clip_batches import VOCABULARY
from pool import halved
from tiny import CONFIG

import corrclip_jax.datasets.scenes.generate as scenes
from corrclip_jax.config import Config, PartsConfig, with_fields
from corrclip_jax.datasets.scenes.words import CLASSES, HELD_OUT_PAIRS, UNSEEN_CLASSES
from corrclip_jax.method import windows
from corrclip_jax.method.correlation import normalise
from corrclip_jax.method.segment import make_segment
from corrclip_jax.method.similarity import BACKBONES, renormalise
from corrclip_jax.models.dino import DINO
from corrclip_jax.models.sam.sam2 import SAM2, preprocess
from corrclip_jax.params.structure import init_params
from corrclip_jax.regions.masks import point_grid
from corrclip_jax.text.embedding import TextEmbedding
from corrclip_jax.text.encode import embed_text

Labeller = Callable[[np.ndarray, np.ndarray], np.ndarray]

_BATCH = 8
_CENTRING = 64  # training scenes by which DINO's features are centred


def trained(clip: Path | None, dino: Path | None, sam2: Path | None) -> dict:
    """The whole program's parameters from runs; random ones where a run is not given."""
    params = init_params(CONFIG)
    if clip:
        params["clip"] = loop.latest(clip)["params"]
    if dino:
        side = CONFIG.method.window
        images = np.stack([halved(scenes.train_scene(seed).image)[:side, :side] for seed in range(_CENTRING)])
        params["dino"] = train_dino.landed(CONFIG.dino, loop.latest(dino)["teacher"], images)
    if sam2:
        params["sam2"] = loop.latest(sam2)["params"]
    return jax.tree.map(jnp.asarray, params)


def by_size(drawn: list[scenes.Scene]) -> Iterator[list[scenes.Scene]]:
    """Scenes in batches of one size."""
    for size in sorted({scene.instances.shape for scene in drawn}):
        same = [scene for scene in drawn if scene.instances.shape == size]
        yield from (same[start : start + _BATCH] for start in range(0, len(same), _BATCH))


def class_ious(label: Labeller, drawn: list[scenes.Scene], classes: int, unseen: bool) -> np.ndarray:
    """IoU of every class over scenes; NaN where a class occurs nowhere. `label(images, instances)` gives labels."""
    confusion = np.zeros((classes, classes), np.int64)
    for batch in by_size(drawn):
        images, instances = np.stack([s.image for s in batch]), np.stack([s.instances for s in batch])
        padding = ((0, _BATCH - len(batch)), (0, 0), (0, 0))  # one compiled program a size
        found = np.asarray(label(np.pad(images, (*padding, (0, 0))), np.pad(instances, padding)))[
            : len(batch)
        ]
        truth = np.stack([s.unseen_labels if unseen else s.labels for s in batch])
        confusion += np.bincount((truth * classes + found).reshape(-1), minlength=classes**2).reshape(
            classes, -1
        )
    hit = np.diagonal(confusion)
    union = confusion.sum(0) + confusion.sum(1) - hit
    return np.where(union > 0, hit / np.maximum(union, 1), np.nan)


def methods(config: Config, params: dict, text: TextEmbedding, sam2: bool) -> dict[str, Labeller]:
    """Ways to label images: the whole method on true and on SAM's regions, and CLIP alone."""
    parts = {field.name: False for field in dataclasses.fields(PartsConfig)}
    segment = jax.jit(make_segment(config))
    plain = jax.jit(make_segment(with_fields(config, parts=parts)))
    ways: dict[str, Labeller] = {
        "method, true regions": lambda x, r: segment(params, x, text, regions=jnp.asarray(r)).labels,
        "CLIP alone": lambda x, r: plain(params, x, text, regions=jnp.zeros_like(r)).labels,
    }
    if sam2:
        ways["method, SAM's regions"] = lambda x, r: segment(params, x, text).labels
    return ways


def same_instance_auc(params: dict, drawn: list[scenes.Scene]) -> tuple[float, dict]:
    """How often two patches of one instance are more alike than two of different ones, and cosines' deciles.

    Windows as the method cuts them; patches of which 80 % is one instance.
    """
    dino, patch, side = DINO(CONFIG.dino), CONFIG.dino.patch_size, CONFIG.method.window
    same, different = [], []
    apply = jax.jit(lambda p, x: normalise(dino.apply({"params": p}, renormalise(x, BACKBONES["dino"]))))
    for scene in drawn:
        seen = jnp.asarray(halved(scene.image)[:side, :side], jnp.float32)
        window = (seen - windows.CLIP_MEAN) / windows.CLIP_STD
        features = np.asarray(apply(params, window[None])[0]).reshape(-1, CONFIG.dino.width)
        cells = scene.instances[::2, ::2][:side, :side].reshape(side // patch, patch, side // patch, patch)
        cells = cells.transpose(0, 2, 1, 3).reshape(-1, patch * patch)
        owner = np.array([np.bincount(cell).argmax() for cell in cells])
        pure = (cells == owner[:, None]).mean(1) >= 0.8
        cosines, alike = features[pure] @ features[pure].T, owner[pure][:, None] == owner[pure][None]
        upper = np.triu_indices(len(cosines), 1)
        same.append(cosines[upper][alike[upper]])
        different.append(cosines[upper][~alike[upper]])
    same, different = np.sort(np.concatenate(same)), np.sort(np.concatenate(different))
    auc = np.searchsorted(different, same).mean() / len(different)
    spread = {"same": same, "different": different}
    deciles = {name: np.round(np.quantile(x, [0.1, 0.5, 0.9]), 2).tolist() for name, x in spread.items()}
    return float(auc), deciles


def best_mask_ious(params: dict, drawn: list[scenes.Scene], points_per_side: int) -> tuple[float, float]:
    """Mean over instances of the best IoU among all masks of the point grid: of things, and of all instances."""
    size = CONFIG.sam2.image_size
    model = SAM2(CONFIG.sam2)
    points = jnp.asarray(point_grid(points_per_side, size))

    @jax.jit
    def masks(params, images):
        features = model.apply({"params": params}, preprocess(images, size), method="encode")
        one = jax.tree.map(lambda x: x[0], features)
        prompts = points[:, None], jnp.ones((len(points), 1), jnp.int32)
        logits, _ = model.apply({"params": params}, one, *prompts, method="decode")
        return jax.image.resize(logits[:, 0], (len(points), *images.shape[1:3]), "bilinear") > 0

    things, everything = [], []
    for scene in drawn:
        found = np.asarray(masks(params, scene.image[None])).reshape(len(points), -1).astype(np.float32)
        for instance in np.unique(scene.instances):
            mask = (scene.instances == instance).reshape(-1).astype(np.float32)
            shared = found @ mask
            best = (shared / (found.sum(1) + mask.sum() - shared)).max()
            everything.append(best)
            if instance >= scenes.FIRST_THING:
                things.append(best)
    return float(np.mean(things)), float(np.mean(everything))


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for tower in ("clip", "dino", "sam2"):
        parser.add_argument(f"--{tower}", type=Path)
    parser.add_argument("--scenes", type=int, default=24)
    parser.add_argument("--points", type=int, default=CONFIG.regions.points_per_side)
    args = parser.parse_args()
    params = trained(args.clip, args.dino, args.sam2)
    config = with_fields(CONFIG, vocabulary=str(VOCABULARY), regions={"points_per_side": args.points})
    val = [scenes.val_scene(index) for index in range(min(args.scenes, scenes.VAL_SCENES))]
    if args.dino:
        print("DINO: same-instance AUC {:.3f}, cosines {}".format(*same_instance_auc(params["dino"], val)))
    if args.sam2:
        ious = best_mask_ious(params["sam2"], val, args.points)
        print("SAM 2: mean best IoU {:.3f} of things, {:.3f} of all".format(*ious))
    if args.clip:
        unseen = [scenes.unseen_scene(index) for index in range(min(args.scenes, scenes.UNSEEN_SCENES))]
        for title, drawn, classes in (("seen", val, CLASSES), ("unseen", unseen, UNSEEN_CLASSES)):
            text = embed_text(config, params, [list(names) for names in classes])
            for name, label in methods(config, params, text, args.sam2 is not None).items():
                ious = class_ious(label, drawn, len(classes), title == "unseen")
                things = np.nanmean(ious[: len(HELD_OUT_PAIRS) if title == "unseen" else 10])
                print(f"{title}: {name}: mIoU {np.nanmean(ious):.3f}, of things {things:.3f}", flush=True)


if __name__ == "__main__":
    main()
