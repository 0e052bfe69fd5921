"""SAM 2 from point prompts on instance masks: `python weights/tiny/train_sam2.py --pool POOL --out FOLDER`.

Every instance of a scene, the areas of background included, is a mask; a random pixel of it is the prompt. The
first mask token, the one that the method reads, learns by cross-entropy and dice loss, the predicted IoU by its
squared error. The other three mask tokens are left as they were drawn.

From random weights the decoder learns to ignore the point before the features are worth looking up. So the encoder
also learns directly, by a linear read-out that is thrown away afterwards: cells of one instance alike, others not;
and the decoder's own gradient reaches the encoder in full only after the first steps.
"""

import argparse
import dataclasses
import functools
from pathlib import Path
from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import loop
import numpy as np
import optax
import pool as pools
from PIL import Image
from tiny import CONFIG

from corrclip_jax.config import SAM2Config
from corrclip_jax.models.layers import IMAGENET_MEAN, IMAGENET_STD
from corrclip_jax.models.sam.mask_decoder import MASK_TOKENS
from corrclip_jax.models.sam.sam2 import SAM2, ImageFeatures
from corrclip_jax.params import model_folder

_READ_OUT = 32  # width of the read-out
_GUARDED_STEPS = 800  # the decoder's gradient reaches the encoder at a tenth
_QUIETER = 5.0  # how much smaller the coarse features begin
_SHARPER = 2.0  # how much larger queries and keys begin, so that attention begins local


class Batch(NamedTuple):
    """B pictures with P prompts each; `masks` say how much of each cell of the mask grid the instance fills."""

    images: np.ndarray  # uint8 [B, S, S, 3]
    points: np.ndarray  # float32 [B, P, 1, 2], (x, y) in pixels of the input
    masks: np.ndarray  # float32 [B, P, S/4, S/4]


@flax.struct.dataclass
class State:
    """What a checkpoint holds."""

    params: dict
    read_out: dict
    opt_state: optax.OptState
    step: jax.Array


@dataclasses.dataclass(frozen=True)
class BatchMaker:
    """`maker(step)` is the batch of a step; other processes call it."""

    folder: Path
    config: SAM2Config
    batch: int
    points: int
    seed: int

    def __call__(self, step: int) -> Batch:
        """Cut rectangles out of the pool's scenes, stretched to the input's square, and choose points."""
        scenes = _load(self.folder)
        rng = np.random.default_rng([self.seed, step])
        rows = [self._example(rng, scenes) for _ in range(self.batch)]
        return Batch(*map(np.stack, zip(*rows, strict=True)))

    def _example(self, rng: np.random.Generator, scenes: pools.Pool):
        index = int(rng.integers(len(scenes.images)))
        image, instances = scenes.images[index], scenes.instances[index]
        extent = image.shape[0]
        height, width = (int(n) for n in rng.integers(int(0.75 * extent), extent + 1, size=2))
        top, left = (int(rng.integers(extent - n + 1)) for n in (height, width))
        image, instances = (x[top : top + height, left : left + width] for x in (image, instances))
        if rng.random() < 0.5:
            image, instances = image[:, ::-1], instances[:, ::-1]
        side = self.config.image_size
        photo = Image.fromarray(image).resize((side, side), Image.Resampling.BILINEAR)
        ids = np.flatnonzero(np.bincount(instances.reshape(-1)) >= 16)
        points, masks = [], []
        for chosen in rng.choice(ids, self.points):
            mask = instances == chosen
            y, x = np.argwhere(mask)[int(rng.integers(mask.sum()))]
            points.append([[(x + 0.5) * side / width - 0.5, (y + 0.5) * side / height - 0.5]])
            fine = Image.fromarray(np.float32(mask)).resize((side, side), Image.Resampling.BILINEAR)
            masks.append(np.asarray(fine.reduce(4)))
        return np.asarray(photo), np.float32(points), np.stack(masks)


@functools.cache
def _load(folder: Path) -> pools.Pool:
    return pools.load(folder, "scenes")


def losses(logits: jax.Array, iou: jax.Array, masks: jax.Array) -> dict[str, jax.Array]:
    """Cross-entropy and dice loss of mask logits [N, M, M] against shares, and the error of the IoU [N]."""
    probability = jax.nn.sigmoid(logits)
    entropy = optax.sigmoid_binary_cross_entropy(logits, masks)
    overlap = (probability * masks).sum((1, 2))
    dice = 1 - (2 * overlap + 1) / (probability.sum((1, 2)) + masks.sum((1, 2)) + 1)
    found, wanted = logits > 0, masks > 0.5
    true_iou = (found & wanted).sum((1, 2)) / jnp.maximum((found | wanted).sum((1, 2)), 1)
    parts = {
        "entropy": entropy.mean((1, 2)),
        "dice": dice,
        "iou_error": jnp.square(iou - true_iou),
        "iou": true_iou,
    }
    return {name: value.mean() for name, value in parts.items()}


def similarities(read_out: dict, features: ImageFeatures, points: jax.Array) -> jax.Array:
    """How alike every cell is to the cell of each point [B, P, 1, 2], as logits [B, P, M, M]."""
    side = features.high0.shape[1]
    maps = [x.repeat(side // x.shape[1], 1).repeat(side // x.shape[1], 2) for x in features]
    read = sum(x @ kernel for x, kernel in zip(maps, read_out["kernels"], strict=True))
    read = read / jnp.maximum(jnp.linalg.norm(read, axis=-1, keepdims=True), 1e-6)
    x, y = (jnp.clip(((points[:, :, 0, axis] + 0.5) // 4).astype(jnp.int32), 0, side - 1) for axis in (0, 1))
    chosen = jax.vmap(lambda one, y, x: one[y, x])(read, y, x)
    return read_out["scale"] * jnp.einsum("bpc,bhwc->bphw", chosen, read) + read_out["bias"]


def make_update(config: SAM2Config, optimiser: optax.GradientTransformation):
    """One step of training."""
    model = SAM2(config)

    def loss_fn(trained, batch: Batch, step):
        params, read_out = trained
        images = (batch.images.astype(jnp.float32) / 255 - jnp.array(IMAGENET_MEAN)) / jnp.array(IMAGENET_STD)
        features = model.apply({"params": params}, images, method="encode")
        alike = similarities(read_out, features, batch.points)
        share = jnp.where(step < _GUARDED_STEPS, 0.1, 1.0)
        features = jax.tree.map(lambda x: share * x + jax.lax.stop_gradient((1 - share) * x), features)
        labels = jnp.ones(batch.points.shape[1:3], jnp.int32)
        decode = functools.partial(model.apply, {"params": params}, method="decode")
        logits, iou = jax.vmap(lambda one, points: decode(one, points, labels))(features, batch.points)
        flat = (-1, *logits.shape[-2:])
        masks = batch.masks.reshape(flat)
        metrics = losses(logits.reshape(flat), iou.reshape(-1), masks)
        direct = losses(alike.reshape(flat), jnp.zeros(len(masks)), masks)
        metrics |= {f"encoder_{name}": direct[name] for name in ("entropy", "dice", "iou")}
        loss = 2 * metrics["entropy"] + metrics["dice"] + metrics["iou_error"]
        return loss + 2 * direct["entropy"] + direct["dice"], metrics

    def update(state: State, batch: Batch):
        trained = state.params, state.read_out
        (loss, metrics), gradients = jax.value_and_grad(loss_fn, has_aux=True)(trained, batch, state.step)
        changes, opt_state = optimiser.update(gradients, state.opt_state, trained)
        params, read_out = optax.apply_updates(trained, changes)
        return State(params, read_out, opt_state, state.step + 1), {"loss": loss} | metrics

    return update


def initial_state(config: SAM2Config, optimiser: optax.GradientTransformation, seed: int) -> State:
    """Random weights, but queries and keys between prompt and image begin equal: a point attends to where it is."""
    images = jnp.zeros((1, config.image_size, config.image_size, 3))
    params = jax.jit(SAM2(config).init)(jax.random.key(seed), images)["params"]
    transformer = params["sam_mask_decoder"]["transformer"]
    layers = [transformer[f"layers_{i}"] for i in range(config.decoder_layers)]
    crossings = [transformer["final_attn_token_to_image"]]
    crossings += [
        layer[f"cross_attn_{way}"] for layer in layers for way in ("token_to_image", "image_to_token")
    ]
    # The first exchange among the tokens hands the point's position on to the mask tokens as it is.
    first = layers[0]["self_attn"]
    for name in ("v_proj", "out_proj"):
        first[name]["kernel"] = jnp.eye(config.embed_dim)
    for attention in crossings:
        attention["q_proj"]["kernel"] = _SHARPER * attention["q_proj"]["kernel"]
        attention["k_proj"]["kernel"] = jnp.copy(attention["q_proj"]["kernel"])
    # Where a cell is weighs more than what it shows, so that a point finds its place; what it finds is enlarged.
    for name in ("convs_0", "convs_1"):
        kernel = params["image_encoder"]["neck"][name]["kernel"]
        params["image_encoder"]["neck"][name]["kernel"] = kernel / _QUIETER
    for attention in (
        transformer["final_attn_token_to_image"],
        *(x["cross_attn_token_to_image"] for x in layers),
    ):
        attention["v_proj"]["kernel"] = _QUIETER * attention["v_proj"]["kernel"]
    # Without much of an opinion at first there is none to unlearn.
    for index in range(MASK_TOKENS):
        last = params["sam_mask_decoder"][f"output_hypernetworks_mlps_{index}"]["layers_2"]
        last["kernel"] = 0.1 * last["kernel"]
    widths = (config.embed_dim, config.embed_dim // 8, config.embed_dim // 4)
    keys = jax.random.split(jax.random.key(seed + 1), 3)
    kernels = [
        0.1 * jax.random.normal(key, (width, _READ_OUT)) for key, width in zip(keys, widths, strict=True)
    ]
    read_out = {"kernels": kernels, "scale": jnp.float32(8.0), "bias": jnp.float32(-4.0)}
    return State(params, read_out, optimiser.init((params, read_out)), jnp.zeros((), jnp.int32))


def main() -> None:
    """Train."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pool", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--points", type=int, default=12)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--start", type=Path, help="a converted model whose SAM 2 to begin with")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=1)
    args = parser.parse_args()
    config = CONFIG.sam2
    optimiser = loop.muon(args.rate, args.steps, decay=0.05)
    maker = BatchMaker(args.pool, config, args.batch, args.points, args.seed)
    state = initial_state(config, optimiser, args.seed)
    if args.start:
        begun = model_folder.read(args.start)[1]["sam2"]
        state = state.replace(params=begun, step=jnp.asarray(_GUARDED_STEPS, jnp.int32))
    loop.train(args.out, state, make_update(config, optimiser), maker, args.steps, args.processes)


if __name__ == "__main__":
    main()
