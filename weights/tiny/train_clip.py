"""CLIP by contrast between pictures and captions: `python weights/tiny/train_clip.py --pool POOL --out FOLDER`.

Half of the training pictures are mosaics of four small crops, half are windows of whole scenes; first come mosaics
alone, of crops with one thing. Four parts of each picture, instances or rectangles, have a caption of their own. A
part is read out as the method reads regions, in three ways, and each read-out is contrasted with the captions:
  main      the mean of its patches' values in the last block, through the attention's output projection alone
  spatial   the same from the mean of the middle blocks' outputs
  semantic  a token of its own that sees the part; for a whole picture that is CLIP's ordinary image embedding
The ordinary loss alone would leave the first two unaligned with the text in so small a model.
A caption that happens to be true of another picture, too, is not held against it. Beside the contrast a linear
classifier, thrown away afterwards, names each part's words from each read-out: so the picture's tower learns long
before the text tower can tell it what to look at.
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
from tiny import CONFIG

from corrclip_jax import checkpoint
from corrclip_jax.config import CLIPConfig
from corrclip_jax.datasets import captions
from corrclip_jax.datasets.words import BACKGROUNDS, COLOURS, MATERIALS, SHAPES
from corrclip_jax.models import CLIP
from corrclip_jax.tokenizer import Tokenizer
from corrclip_jax.windows import CLIP_MEAN, CLIP_STD

PARTS = 4
# Colour, material and background tell most pictures apart, so that shapes would be learnt last. Therefore this
# share of the captions name things by shape alone, and the same share leave the background out.
SHARE, EASY_SHARE = 0.5, 0.8
OUTLINES = (
    0.6  # the share of parts that are an instance, as the method's regions are; the others are rectangles
)
SPATIAL_LAYERS = 2
TAGS = (*SHAPES, *BACKGROUNDS, *COLOURS, *MATERIALS)
VOCABULARY = Path(__file__).parent / "vocabulary" / "tokenizer.json"


class Batch(NamedTuple):
    """B pictures with four parts each. `true` says which caption is true of which part."""

    images: np.ndarray  # uint8 [B, S, S, 3]
    parts: np.ndarray  # bool [B, 4, h, w], on the patch grid
    tokens: np.ndarray  # int32 [4 B, T]
    true: np.ndarray  # bool [4 B, 4 B], part x caption
    tags: np.ndarray  # bool [4 B, len(TAGS)], the words that are true of each part


@flax.struct.dataclass
class State:
    """What a checkpoint holds."""

    params: dict
    tagger: dict
    opt_state: optax.OptState


@dataclasses.dataclass(frozen=True)
class BatchMaker:
    """`maker(step)` is the batch of a step; other processes call it."""

    folder: Path
    config: CLIPConfig
    batch: int
    seed: int
    easy_steps: int = 0

    def __call__(self, step: int) -> Batch:
        """Draw the pictures of a step from the pool."""
        crops, scenes, tokenizer = _load(self.folder)
        easy = step < self.easy_steps
        choice = _single(self.folder) if easy else np.arange(len(crops.images))
        rng = np.random.default_rng([self.seed, step])
        side, patch = self.config.vision.image_size, self.config.vision.patch_size
        grid = side // patch
        rows = []
        for index in range(self.batch):
            image, parts, seen = (
                _mosaic(rng, crops, choice, side, grid)
                if easy or index % 2
                else _window(rng, scenes, side, patch)
            )
            if rng.random() < 0.5:
                image, parts = image[:, ::-1], parts[:, :, ::-1]
            rows.append((image, parts, seen))
        seen = [part for row in rows for part in row[2]]
        said = [_say(rng, part, EASY_SHARE if easy else SHARE) for part in seen]
        return Batch(
            np.stack([row[0] for row in rows]),
            np.stack([row[1] for row in rows]),
            tokenizer([caption.text for caption in said], self.config.text.context_length),
            captions.is_true([caption.facts for caption in said], [captions.facts(part) for part in seen]),
            np.stack([_tags(part) for part in seen]),
        )


@functools.cache
def _load(folder: Path) -> tuple[pools.Pool, pools.Pool, Tokenizer]:
    return pools.load(folder, "crops"), pools.load(folder, "scenes"), Tokenizer.load(VOCABULARY)


@functools.cache
def _single(folder: Path) -> np.ndarray:
    """The crops with one thing."""
    return np.flatnonzero((_load(folder)[0].things[:, :, 0] >= 0).sum(1) == 1)


def _say(rng: np.random.Generator, seen: captions.Contents, share: float) -> captions.Caption:
    """A caption of a part; a share of them name shapes alone, a share no background."""
    if seen.things and rng.random() < share:
        seen = seen._replace(areas=())
    return captions.caption(seen, rng, bare=share)


def _tags(seen: captions.Contents) -> np.ndarray:
    words = {*seen.areas, *(word for thing in seen.things for word in thing)}
    return np.array([tag in words for tag in TAGS])


def _mosaic(rng: np.random.Generator, crops: pools.Pool, choice: np.ndarray, side: int, grid: int):
    """Four crops of a choice side by side; a part is a crop or one instance in it."""
    half, cells = side // 2, grid // 2
    image, parts, seen = np.zeros((side, side, 3), np.uint8), np.zeros((PARTS, grid, grid), bool), []
    for part, index in enumerate(rng.choice(choice, PARTS)):
        y, x = divmod(part, 2)
        rows, columns = slice(y * cells, (y + 1) * cells), slice(x * cells, (x + 1) * cells)
        image[y * half : (y + 1) * half, x * half : (x + 1) * half] = crops.images[index][:half, :half]
        crop = crops.scene(int(index))
        if rng.random() < OUTLINES:
            parts[part, rows, columns], inside = _outline(rng, crop, crop.instances[:half, :half], cells)
        else:
            parts[part, rows, columns], inside = True, captions.contents(crop)
        seen.append(inside)
    return image, parts, seen


def _window(rng: np.random.Generator, scenes: pools.Pool, side: int, patch: int):
    """A window of a scene; the parts are the whole, and three times an instance or a rectangle."""
    scene = scenes.scene(int(rng.integers(len(scenes.images))))
    grid = side // patch
    top, left = (int(rng.integers(extent - side + 1)) for extent in scene.instances.shape)
    visible = scene.instances[top : top + side, left : left + side]
    parts, seen = np.zeros((PARTS, grid, grid), bool), []
    for part in range(PARTS):
        if part and rng.random() < OUTLINES:
            parts[part], inside = _outline(rng, scene, visible, grid)
        else:
            y0, x0, y1, x1 = (0, 0, grid, grid) if part == 0 else _rectangle(rng, visible, grid, patch)
            parts[part, y0:y1, x0:x1] = True
            box = (top + y0 * patch, left + x0 * patch, top + y1 * patch, left + x1 * patch)
            inside = captions.contents(scene, box)
        seen.append(inside)
    return scene.image[top : top + side, left : left + side], parts, seen


def _outline(rng: np.random.Generator, scene, instances: np.ndarray, grid: int):
    """The patches [grid, grid] of which an instance, rather a thing than an area, fills half, and what it is."""
    ids = np.unique(instances)
    things = ids[ids >= pools.FIRST_THING]
    chosen = int(rng.choice(things if len(things) and rng.random() < 0.8 else ids))
    side = instances.shape[0] // grid
    filled = (instances == chosen).reshape(grid, side, grid, side).mean((1, 3))
    part = filled >= min(0.5, filled.max())
    if chosen >= pools.FIRST_THING:
        return part, captions.Contents((scene.things[chosen - pools.FIRST_THING],), ())
    return part, captions.Contents((), (scene.areas[chosen - 1],))


def _rectangle(
    rng: np.random.Generator, instances: np.ndarray, grid: int, patch: int
) -> tuple[int, int, int, int]:
    """Top, left, bottom, right in patches."""
    height, width = (int(n) for n in rng.integers(2, 9, size=2))
    y, x = (int(rng.integers(grid - n + 1)) for n in (height, width))
    things = np.unique(instances[instances >= pools.FIRST_THING])
    if len(things) and rng.random() < 0.5:
        ys, xs = np.nonzero(instances == rng.choice(things))
        # About as large as the thing, a patch more or less on each side.
        edges = np.array([ys.min(), xs.min(), ys.max() + 1, xs.max() + 1]) / patch
        y, x, bottom, right = edges + rng.uniform(-0.7, 0.7, 4)
        y, x = (int(np.clip(round(n), 0, grid - 2)) for n in (y, x))
        height, width = (int(np.clip(round(n), m + 2, grid)) - m for n, m in ((bottom, y), (right, x)))
    return y, x, y + height, x + width


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
