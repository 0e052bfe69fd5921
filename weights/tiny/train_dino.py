"""DINO by self-distillation without labels: `python weights/tiny/train_dino.py --pool POOL --out FOLDER`.

A student sees two large and some small views of a scene, a teacher (the student's moving average) the large ones.
The student's class token is to predict the teacher's, as in DINO; and its last block's query plus key, which is all
that the method reads, is to predict the teacher's at the same spot of the scene in the other large view. The
teacher's targets are balanced over a batch (Sinkhorn), without which they gather in a few prototypes.

The bias of the last block's key never changes attention (it shifts all logits of a query alike), so `landed` is
free to choose it: such that query plus key has mean zero over training pictures, and cosines tell patches apart.
"""

import argparse
from pathlib import Path

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import loop
import numpy as np
import optax
from dino_views import LARGE, SMALL_VIEWS, Batch, BatchMaker
from tiny import CONFIG

from corrclip_jax.config import DINOConfig
from corrclip_jax.models.dino import DINO, Block
from corrclip_jax.models.layers import LayerNorm, PatchEmbed, interpolate_positions

PROTOTYPES = 512
_STUDENT_TEMPERATURE, _TEACHER_TEMPERATURE = 0.1, 0.05
_BALANCINGS = 3
_MEAN, _STD = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)


@flax.struct.dataclass
class State:
    """What a checkpoint holds."""

    params: dict
    teacher: dict
    opt_state: optax.OptState
    step: jax.Array


class Head(nn.Module):
    """Projection to unit vectors, compared with prototypes."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., C] to logits [..., PROTOTYPES]."""
        x = nn.Dense(64, name="out")(nn.gelu(nn.Dense(256, name="hidden")(x)))
        x = x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-6)
        prototypes = self.param("prototypes", nn.initializers.normal(1.0), (64, PROTOTYPES))
        return x @ (prototypes / jnp.linalg.norm(prototypes, axis=0))


class FullDINO(nn.Module):
    """The package's tower with its whole last block and the heads that training needs."""

    config: DINOConfig

    @nn.compact
    def __call__(self, images: jax.Array) -> dict[str, jax.Array]:
        """Logits of the class token [B, K] and of every patch [B, P, K], and the patches' features [B, P, C]."""
        config = self.config
        native = config.image_size // config.patch_size
        patches = PatchEmbed(config.width, config.patch_size, name="patch_embed")(images)
        cls_token = self.param("cls_token", nn.initializers.normal(0.02), (1, 1, config.width))
        pos_embed = self.param("pos_embed", nn.initializers.normal(0.02), (1, 1 + native**2, config.width))
        batch, h, w, width = patches.shape
        x = patches.reshape(batch, h * w, width) + interpolate_positions(pos_embed[0, 1:], h, w)
        x = jnp.concatenate([jnp.broadcast_to(cls_token + pos_embed[:, :1], (batch, 1, width)), x], axis=1)
        for index in range(config.layers):
            before, x = x, Block(config, jnp.float32, name=f"blocks_{index}")(x)
        last = self.variables["params"][f"blocks_{config.layers - 1}"]
        normed = LayerNorm(epsilon=1e-6, parent=None).apply({"params": last["norm1"]}, before)
        read = sum(
            normed @ last["attn"][name]["kernel"] + last["attn"][name]["bias"] for name in ("query", "key")
        )
        features = read[:, 1:]
        return {
            "cls": Head(name="cls_head")(LayerNorm(epsilon=1e-6, name="norm")(x[:, 0])),
            "patches": Head(name="patch_head")(features),
            "features": features,
        }


def normalise_views(images: jax.Array) -> jax.Array:
    """uint8 views [B, V, S, S, 3] to DINO's input [B V, S, S, 3]."""
    images = jnp.asarray(images.reshape(-1, *images.shape[2:]), jnp.float32)
    return (images / 255 - _MEAN) / _STD


def targets(logits: jax.Array) -> jax.Array:
    """The teacher's logits [..., K] as shares, balanced (Sinkhorn) so that a batch uses all prototypes alike."""
    log = logits.reshape(-1, logits.shape[-1]) / _TEACHER_TEMPERATURE
    for _ in range(_BALANCINGS):
        log = log - jax.nn.logsumexp(log, axis=0)
        log = log - jax.nn.logsumexp(log, axis=1, keepdims=True)
    return jnp.exp(log).reshape(logits.shape)


def make_update(config: DINOConfig, optimiser: optax.GradientTransformation, steps: int):
    """One step of training."""
    model = FullDINO(config)

    def distance(target, logits):
        return -(target * jax.nn.log_softmax(logits / _STUDENT_TEMPERATURE, axis=-1)).sum(-1)

    def loss_fn(params, teacher, batch: Batch):
        count = len(batch.large)
        large = normalise_views(batch.large)
        told = jax.lax.stop_gradient(model.apply({"params": teacher}, large))
        seen = model.apply({"params": params}, large)
        small = model.apply({"params": params}, normalise_views(batch.small))

        cls = targets(told["cls"]).reshape(count, 2, -1)
        views = [seen["cls"].reshape(count, 2, -1), small["cls"].reshape(count, SMALL_VIEWS, -1)]
        across = distance(cls[:, ::-1], views[0]).mean()
        to_small = distance(cls[:, :, None], views[1][:, None]).mean()

        patches = targets(told["patches"]).reshape(count, 2, *told["patches"].shape[1:])
        other = jnp.take_along_axis(patches[:, ::-1], jnp.maximum(batch.match, 0)[..., None], axis=2)
        errors = distance(other, seen["patches"].reshape(other.shape))
        known = batch.match >= 0
        dense = (errors * known).sum() / jnp.maximum(known.sum(), 1)

        used = jnp.exp(jax.scipy.special.entr(patches.mean((0, 1, 2))).sum())
        metrics = {"cls": across, "small": to_small, "patches": dense, "prototypes_used": used}
        return (across + to_small) / 2 + dense, metrics

    def update(state: State, batch: Batch):
        grad = jax.value_and_grad(loss_fn, has_aux=True)
        (loss, metrics), gradients = grad(state.params, state.teacher, batch)
        changes, opt_state = optimiser.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, changes)
        slow = 1 - 0.01 * (1 + jnp.cos(jnp.pi * state.step / steps)) / 2
        teacher = jax.tree.map(lambda old, new: slow * old + (1 - slow) * new, state.teacher, params)
        return State(params, teacher, opt_state, state.step + 1), {"loss": loss} | metrics

    return update


def initial_state(config: DINOConfig, optimiser: optax.GradientTransformation, seed: int) -> State:
    """Random weights, the teacher's equal to the student's."""
    params = jax.jit(FullDINO(config).init)(jax.random.key(seed), jnp.zeros((1, LARGE, LARGE, 3)))["params"]
    return State(params, jax.tree.map(jnp.copy, params), optimiser.init(params), jnp.zeros((), jnp.int32))


def landed(config: DINOConfig, teacher: dict, images: np.ndarray) -> dict:
    """The package's tree: the last block's query and key alone, the key's bias such that features are centred.

    `images` are uint8 [N, S, S, 3] training pictures.
    """
    last = f"blocks_{config.layers - 1}"
    params = {name: tree for name, tree in teacher.items() if not name.endswith("head") and name != "norm"}
    attention = {name: dict(teacher[last]["attn"][name]) for name in ("query", "key")}
    params[last] = {"norm1": teacher[last]["norm1"], "attn": attention}
    features = DINO(config).apply({"params": params}, normalise_views(jnp.asarray(images)[:, None]))
    attention["key"]["bias"] -= features.mean((0, 1, 2))
    return params


def main() -> None:
    """Train."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pool", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1300)
    parser.add_argument("--batch", type=int, default=24)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=1)
    args = parser.parse_args()
    config = CONFIG.dino
    optimiser = loop.adamw(args.rate, args.steps, decay=0.05)
    maker = BatchMaker(args.pool, config.patch_size, args.batch, args.seed)
    state = initial_state(config, optimiser, args.seed)
    loop.train(args.out, state, make_update(config, optimiser, args.steps), maker, args.steps, args.processes)


if __name__ == "__main__":
    main()
