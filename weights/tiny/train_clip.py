"""CLIP by contrast between pictures and captions.

`python weights/tiny/train_clip.py --pool POOL --teacher RUN --out FOLDER`, where RUN is `teacher.py`'s.

Parts of pictures have captions of their own (`clip_batches.py`). A part is read out as the method reads regions, in
three ways, and each read-out is contrasted with the captions:
  main      the mean of its patches' values in the last block, through the attention's output projection alone
  spatial   the same from the mean of the middle blocks' outputs
  semantic  a token of its own that sees the part; for a whole picture that is CLIP's ordinary image embedding
The ordinary loss alone would leave the first two unaligned with the text in so small a model.
A caption that happens to be true of another picture, too, is not held against it. Beside the contrast a linear
classifier, thrown away afterwards, names each part's words from each read-out: so the picture's tower learns long
before the text tower can tell it what to look at. What patches show is learnt from the teacher: a linear read-out
of some blocks' outputs is to be what the teacher's layers give at the same place.
"""

import argparse
from pathlib import Path
from typing import NamedTuple

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import loop
import numpy as np
import optax
import pool as pools
from clip_batches import TAGS, Batch, BatchMaker
from clip_start import convolutional
from teacher import WIDTHS, Teacher
from tiny import CONFIG

from corrclip_jax.config import CLIPConfig
from corrclip_jax.datasets.scenes.words import SHAPES
from corrclip_jax.method.windows import CLIP_MEAN, CLIP_STD
from corrclip_jax.models.clip.model import CLIP

SPATIAL_LAYERS = 2
# Which of the teacher's last three layers each hint is of, and which block's output is to hold it.
HINTS = ((0, 0), (1, 1), (2, 2), (2, 4))
HINT_WEIGHT = 4.0
_SAMPLE = 2000  # crops by which patches are whitened and the teacher's layers brought to unit variance


@flax.struct.dataclass
class State:
    """What a checkpoint holds; `aids` are thrown away."""

    params: dict
    aids: dict
    opt_state: optax.OptState


class Teaching(NamedTuple):
    """The roots of the teacher's layers, each channel of mean zero and unit variance over crops."""

    params: dict
    mean: list[np.ndarray]
    deviation: list[np.ndarray]

    @classmethod
    def of(cls, run: Path, images: np.ndarray) -> "Teaching":
        """Of a run of `teacher.py`."""
        params = jax.tree.map(jnp.asarray, loop.latest(run)["params"]["teacher"])
        pixels = jnp.asarray((images - CLIP_MEAN) / CLIP_STD, jnp.float32)
        layers = [jnp.sqrt(x) for x in jax.jit(Teacher().apply)({"params": params}, pixels)]
        return cls(
            params,
            [np.asarray(x.mean((0, 1, 2))) for x in layers],
            [np.asarray(x.std((0, 1, 2))) + 1e-3 for x in layers],
        )

    def __call__(self, images: jax.Array) -> list[jax.Array]:
        """CLIP-normalised images to [B, h, w, C] a layer."""
        layers = Teacher().apply({"params": self.params}, images)
        return [(jnp.sqrt(x) - m) / d for x, m, d in zip(layers, self.mean, self.deviation, strict=True)]


class Seen(NamedTuple):
    """What a tower gives: unit-length embeddings of parts [R B, D] by branch, and its blocks' outputs [B, P, C]."""

    parts: dict[str, jax.Array]
    blocks: list[jax.Array]


def look(config: CLIPConfig, params: dict, images: jax.Array, corners: jax.Array, parts: jax.Array) -> Seen:
    """The package's tower, step by step; a picture's first patch is patch `corners` of the tower's own grid.

    The branches are `main`, `spatial`, `semantic` and their weighted `sum`.
    """

    def through(clip: CLIP) -> Seen:
        tower = clip.visual
        patches = tower.conv1(images)
        batch, h, w, width = patches.shape
        positions = tower.positional_embedding
        native = config.vision.image_size // config.vision.patch_size
        where = jax.vmap(
            lambda corner: jax.lax.dynamic_slice(
                positions[1:].reshape(native, native, width), (*corner, 0), (h, w, width)
            )
        )(corners)
        patches = (patches + where).reshape(batch, h * w, width)
        class_token = jnp.broadcast_to(tower.class_embedding + positions[0], (batch, 1, width))
        x = tower.ln_pre(jnp.concatenate([class_token, patches], axis=1))
        readers = jnp.broadcast_to(x[:, :1], (batch, parts.shape[1], width))
        own = parts.reshape(batch, -1, h * w)
        sees = jnp.pad(own, ((0, 0), (0, 0), (1, 0)), constant_values=True)
        *blocks, last = tower.transformer.resblocks
        outputs = []
        for block in blocks:
            x, readers = block.with_readers(x, readers, sees)
            outputs.append(x)
        semantic, values = last.read(readers, x, sees)
        middle = sum(outputs[-1 - SPATIAL_LAYERS : -1]) / SPATIAL_LAYERS
        share = own / own.sum(-1, keepdims=True)
        main, spatial = (last.attn.project(share @ each[:, 1:]) for each in (values, last.values(middle)))
        main, spatial, semantic = (tower.proj(tower.ln_post(each)) for each in (main, spatial, semantic))
        ways = {
            "main": main,
            "spatial": spatial,
            "semantic": semantic,
            "sum": main + spatial + 0.5 * semantic,
        }
        embeddings = {name: _unit(each.reshape(-1, each.shape[-1])) for name, each in ways.items()}
        return Seen(embeddings, [each[:, 1:] for each in outputs])

    return nn.apply(through, CLIP(config))({"params": params})


def hints(heads: dict, blocks: list[jax.Array], layers: list[jax.Array]) -> jax.Array:
    """How far the blocks' outputs, read linearly, are from the teacher's layers, in shares of their variance."""
    errors = []
    for (layer, block), head in zip(HINTS, heads, strict=True):
        x = blocks[block]
        x = (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-5)
        target = layers[layer].reshape(*x.shape[:2], -1)
        errors.append(jnp.square(x @ head["kernel"] + head["bias"] - target).mean())
    return jnp.stack(errors)


def contrast(parts: jax.Array, texts: jax.Array, true: jax.Array, scale: jax.Array) -> jax.Array:
    """Symmetric contrast; a caption that is true of a part but not its own is neither right nor wrong."""
    own = jnp.eye(len(parts), dtype=bool)
    logits = jnp.where(true & ~own, -jnp.inf, scale * parts @ texts.T)
    right = jnp.diagonal(logits)
    return ((jax.nn.logsumexp(logits, 1) - right).mean() + (jax.nn.logsumexp(logits, 0) - right).mean()) / 2


def name_words(tagger: dict, parts: jax.Array, tags: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Cross-entropy of the classifier against a part's words, and how often the shape of a single thing is right.

    All words compete, and once more the shapes alone where a part has a single one.
    """
    logits = parts * tagger["scale"] @ tagger["kernel"] + tagger["bias"]
    wanted = tags / jnp.maximum(tags.sum(1, keepdims=True), 1)
    words = -(wanted * jax.nn.log_softmax(logits)).sum(1).mean()
    shapes, shape_logits = tags[:, : len(SHAPES)], logits[:, : len(SHAPES)]
    single = shapes.sum(1) == 1
    count = jnp.maximum(single.sum(), 1)
    shape = -((shapes * jax.nn.log_softmax(shape_logits)).sum(1) * single).sum() / count
    right = jnp.take_along_axis(shapes, shape_logits.argmax(1)[:, None], 1)[:, 0]
    return words + shape, (right & single).sum() / count


def make_update(config: CLIPConfig, teacher: Teaching, optimiser: optax.GradientTransformation):
    """One step of training."""

    def loss_fn(trained, batch: Batch):
        params, aids = trained
        images = (batch.images.astype(jnp.float32) - CLIP_MEAN) / CLIP_STD
        texts = _unit(CLIP(config).apply({"params": params}, batch.tokens, method="encode_text"))
        scale = jnp.exp(jnp.clip(params["logit_scale"], 0, np.log(100)))
        seen = look(config, params, images, batch.corners, batch.parts)
        losses = {name: contrast(parts, texts, batch.true, scale) for name, parts in seen.parts.items()}
        named = {name: name_words(aids["tagger"], parts, batch.tags) for name, parts in seen.parts.items()}
        told = hints(aids["heads"], seen.blocks, teacher(images))
        metrics = losses | {f"{name}_shapes": right for name, (_, right) in named.items()}
        words = sum(entropy for entropy, _ in named.values()) / len(named)
        metrics |= {"words": words, "scale": scale, **{f"hint_{i}": error for i, error in enumerate(told)}}
        return sum(losses.values()) / len(losses) + words + HINT_WEIGHT * told.mean(), metrics

    def update(state: State, batch: Batch):
        trained = state.params, state.aids
        (loss, metrics), gradients = jax.value_and_grad(loss_fn, has_aux=True)(trained, batch)
        changes, opt_state = optimiser.update(gradients, state.opt_state, trained)
        return State(*optax.apply_updates(trained, changes), opt_state), {"loss": loss} | metrics

    return update


def initial_state(
    config: CLIPConfig, optimiser: optax.GradientTransformation, seed: int, images: np.ndarray
) -> State:
    """Random weights with which the tower begins as a convolutional network (`clip_start`).

    The temperature starts at 1 / 20.
    """
    side, length = config.vision.image_size, config.text.context_length
    arguments = (jnp.zeros((1, side, side, 3)), jnp.zeros((1, length), jnp.int32))
    params = jax.jit(CLIP(config).init)(jax.random.key(seed), *arguments)["params"]
    params["logit_scale"] = jnp.asarray(np.log(20.0), jnp.float32)
    params["visual"] |= convolutional(config.vision, images, seed)
    keys = iter(jax.random.split(jax.random.key(seed + 1), 1 + len(HINTS)))
    kernel = 0.1 * jax.random.normal(next(keys), (config.embed_dim, len(TAGS)))
    tagger = {"kernel": kernel, "bias": jnp.zeros(len(TAGS)), "scale": jnp.float32(10.0)}
    width = config.vision.width
    heads = [
        {"kernel": 0.02 * jax.random.normal(next(keys), (width, WIDTHS[-1])), "bias": jnp.zeros(WIDTHS[-1])}
        for _ in HINTS
    ]
    aids = {"tagger": tagger, "heads": heads}
    return State(params, aids, optimiser.init((params, aids)))


def _unit(x: jax.Array) -> jax.Array:
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-6)


def main() -> None:
    """Train."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pool", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--teacher", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--crop-steps", type=int, default=2200)
    parser.add_argument("--crops", type=int, default=48, help="crops a step")
    parser.add_argument("--windows", type=int, default=12, help="windows of scenes a step, after the crops")
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=1)
    args = parser.parse_args()
    config = CONFIG.clip
    optimiser = loop.muon(args.rate, args.steps, decay=0.05)
    maker = BatchMaker(args.pool, config, args.crops, args.windows, args.crop_steps, args.seed)
    images = pools.load_halved(args.pool, "crops").images[:_SAMPLE]
    state = initial_state(config, optimiser, args.seed, images)
    update = make_update(config, Teaching.of(args.teacher, images), optimiser)
    loop.train(args.out, state, update, maker, args.steps, args.processes)


if __name__ == "__main__":
    main()
