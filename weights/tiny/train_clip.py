"""CLIP by contrast between pictures and captions: `python weights/tiny/train_clip.py --pool POOL --out FOLDER`.

Parts of pictures have captions of their own (`clip_batches.py`). A part is read out as the method reads regions, in
three ways, and each read-out is contrasted with the captions:
  main      the mean of its patches' values in the last block, through the attention's output projection alone
  spatial   the same from the mean of the middle blocks' outputs
  semantic  a token of its own that sees the part; for a whole picture that is CLIP's ordinary image embedding
The ordinary loss alone would leave the first two unaligned with the text in so small a model.
A caption that happens to be true of another picture, too, is not held against it. Beside the contrast a linear
classifier, thrown away afterwards, names each part's words from each read-out: so the picture's tower learns long
before the text tower can tell it what to look at.
"""

import argparse
from pathlib import Path

import flax.struct
import jax
import jax.numpy as jnp
import loop
import numpy as np
import optax
from clip_batches import TAGS, Batch, BatchMaker
from tiny import CONFIG

from corrclip_jax import checkpoint
from corrclip_jax.config import CLIPConfig
from corrclip_jax.datasets.words import SHAPES
from corrclip_jax.models import CLIP
from corrclip_jax.windows import CLIP_MEAN, CLIP_STD

SPATIAL_LAYERS = 2


@flax.struct.dataclass
class State:
    """What a checkpoint holds."""

    params: dict
    tagger: dict
    opt_state: optax.OptState


def read_outs(config: CLIPConfig, params: dict, images: jax.Array, parts: jax.Array) -> dict[str, jax.Array]:
    """Unit-length embeddings [4 B, D] of every part, by each branch and by their weighted sum."""
    clip = CLIP(config)
    inputs = clip.apply({"params": params}, images, parts, SPATIAL_LAYERS, method="last_block_inputs")
    share = parts / parts.sum((2, 3), keepdims=True)

    def branches(clip: CLIP, main, spatial, semantic):
        tower = clip.visual
        project = tower.transformer.resblocks[-1].attn.project
        return [tower.proj(tower.ln_post(x)) for x in (project(main), project(spatial), semantic)]

    means = [jnp.einsum("brhw,bhwc->brc", share, values) for values in (inputs.main, inputs.spatial)]
    main, spatial, semantic = clip.apply({"params": params}, *means, inputs.regions, method=branches)
    ways = {"main": main, "spatial": spatial, "semantic": semantic, "sum": main + spatial + 0.5 * semantic}
    return {name: _unit(x.reshape(-1, x.shape[-1])) for name, x in ways.items()}


def contrast(parts: jax.Array, texts: jax.Array, true: jax.Array, scale: jax.Array) -> jax.Array:
    """Symmetric contrast; a caption that is true of a part but not its own is neither right nor wrong."""
    own = jnp.eye(len(parts), dtype=bool)
    logits = jnp.where(true & ~own, -jnp.inf, scale * parts @ texts.T)
    right = jnp.diagonal(logits)
    return ((jax.nn.logsumexp(logits, 1) - right).mean() + (jax.nn.logsumexp(logits, 0) - right).mean()) / 2


def name_words(tagger: dict, parts: jax.Array, tags: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Cross-entropy of the classifier's softmax against a part's words, and how often a lone shape is told."""
    logits = parts * tagger["scale"] @ tagger["kernel"] + tagger["bias"]
    wanted = tags / jnp.maximum(tags.sum(1, keepdims=True), 1)
    shapes = tags[:, : len(SHAPES)]
    single = shapes.sum(1) == 1
    right = jnp.take_along_axis(shapes, logits[:, : len(SHAPES)].argmax(1)[:, None], 1)[:, 0]
    share = (right & single).sum() / jnp.maximum(single.sum(), 1)
    return -(wanted * jax.nn.log_softmax(logits)).sum(1).mean(), share


def make_update(config: CLIPConfig, optimiser: optax.GradientTransformation):
    """One step of training."""

    def loss_fn(trained, batch: Batch):
        params, tagger = trained
        images = (batch.images.astype(jnp.float32) - CLIP_MEAN) / CLIP_STD
        texts = _unit(CLIP(config).apply({"params": params}, batch.tokens, method="encode_text"))
        scale = jnp.exp(jnp.clip(params["logit_scale"], 0, np.log(100)))
        found = read_outs(config, params, images, batch.parts)
        losses = {name: contrast(parts, texts, batch.true, scale) for name, parts in found.items()}
        named = {name: name_words(tagger, parts, batch.tags) for name, parts in found.items()}
        metrics = losses | {f"{name}_shapes": right for name, (_, right) in named.items()}
        words = sum(entropy for entropy, _ in named.values()) / len(named)
        return sum(losses.values()) / len(losses) + words, metrics | {"words": words, "scale": scale}

    def update(state: State, batch: Batch):
        trained = state.params, state.tagger
        (loss, metrics), gradients = jax.value_and_grad(loss_fn, has_aux=True)(trained, batch)
        changes, opt_state = optimiser.update(gradients, state.opt_state, trained)
        return State(*optax.apply_updates(trained, changes), opt_state), {"loss": loss} | metrics

    return update


def initial_state(config: CLIPConfig, optimiser: optax.GradientTransformation, seed: int) -> State:
    """Random weights, but patches know from the start where they are and attend to their neighbours.

    Positions begin as sines and cosines, queries equal to keys; both go on to be learnt. The temperature starts at
    1 / 20.
    """
    side, length = config.vision.image_size, config.text.context_length
    arguments = (jnp.zeros((1, side, side, 3)), jnp.zeros((1, length), jnp.int32))
    params = jax.jit(CLIP(config).init)(jax.random.key(seed), *arguments)["params"]
    params["logit_scale"] = jnp.asarray(np.log(20.0), jnp.float32)
    visual = params["visual"]
    where = visual["positional_embedding"]
    visual["positional_embedding"] = where.at[1:].set(
        _sines(side // config.vision.patch_size, where.shape[1])
    )
    for block in visual["transformer"].values():
        block["attn"]["key"]["kernel"] = jnp.copy(block["attn"]["query"]["kernel"])
    kernel = 0.1 * jax.random.normal(jax.random.key(seed + 1), (config.embed_dim, len(TAGS)))
    tagger = {"kernel": kernel, "bias": jnp.zeros(len(TAGS)), "scale": jnp.float32(10.0)}
    return State(params, tagger, optimiser.init((params, tagger)))


def _sines(grid: int, width: int) -> np.ndarray:
    """Sines and cosines of row and column, [grid * grid, width]; periods from a quarter of the grid to twice it."""
    rates = 2 * np.pi / (grid * np.geomspace(0.25, 2.0, width // 4))
    angles = np.arange(grid)[:, None] * rates
    one = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    y, x = (n.reshape(-1) for n in np.mgrid[:grid, :grid])
    return np.concatenate([one[y], one[x]], axis=1).astype(np.float32)


def _unit(x: jax.Array) -> jax.Array:
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-6)


def main() -> None:
    """Train."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pool", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--batch", type=int, default=24)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--easy-steps", type=int, default=400)
    parser.add_argument(
        "--start", type=Path, help="a converted model whose CLIP to begin with, not random weights"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=1)
    args = parser.parse_args()
    config = CONFIG.clip
    optimiser = loop.adamw(args.rate, args.steps, decay=0.1)
    maker = BatchMaker(args.pool, config, args.batch, args.seed, args.easy_steps)
    state = initial_state(config, optimiser, args.seed)
    if args.start:
        state = state.replace(params=checkpoint.read(args.start, sam2=False)[1]["clip"])
    loop.train(args.out, state, make_update(config, optimiser), maker, args.steps, args.processes)


if __name__ == "__main__":
    main()
