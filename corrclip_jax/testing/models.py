"""Small models with random weights: configurations of every network family, parameters, a model folder."""

import functools
import gzip
from pathlib import Path

import jax
import numpy as np

from corrclip_jax.config import (
    CLIPConfig,
    CLIPTextConfig,
    CLIPVisionConfig,
    Config,
    DINOConfig,
    EoMTConfig,
    Mask2FormerConfig,
    SAM1Config,
    SAM2Config,
    with_fields,
)
from corrclip_jax.params.model_folder import save
from corrclip_jax.params.structure import Params, init_params
from corrclip_jax.text.embedding import TextEmbedding

SMALL_SAM1 = SAM1Config(
    image_size=64, width=16, layers=2, heads=2, global_blocks=(1,), window=3, embed_dim=16, decoder_heads=2,
    decoder_mlp_width=16,
)  # fmt: skip
SMALL_EOMT = EoMTConfig(
    image_size=64, width=16, layers=2, heads=2, registers=1, queries=6, query_blocks=1, upscale_blocks=1, labels=3
)  # fmt: skip
SMALL_MASK2FORMER = Mask2FormerConfig(
    image_size=64, embed_dim=8, depths=(1, 1, 1, 1), heads=(1, 1, 2, 2), window=4, feature_size=32,
    mask_feature_size=16, encoder_layers=1, encoder_mlp_width=16, decoder_layers=1, decoder_heads=2,
    decoder_mlp_width=16, queries=6, labels=3,
)  # fmt: skip

_SAM2 = SAM2Config(
    image_size=64, width=8, heads=1, stages=(1, 1, 1, 1), global_blocks=(2,), window_sizes=(4, 4, 4, 2),
    background_size=(2, 2), embed_dim=16, decoder_heads=2, decoder_mlp_width=16, mask_channels=16,
)  # fmt: skip
_MERGES = ("t h", "th e</w>", "o f</w>", "p h", "ph o", "c a", "ca t</w>")


def write_vocabulary(folder: Path) -> Path:
    """Write a vocabulary of single bytes and a few merges into `folder`, in the format of OpenAI's file."""
    file = folder / "bpe_simple_vocab_16e6.txt.gz"
    file.write_bytes(gzip.compress("\n".join(["#version: 0.2", *_MERGES]).encode()))
    return file


def small_config(vocabulary: Path | str | None = None, *, sam2: bool = True) -> Config:
    """Configuration of a small model: CLIP of five blocks, DINO of two, SAM 2 of four.

    Args:
      vocabulary: a file of `write_vocabulary`, for tests that embed class names.
      sam2: whether the model has a SAM 2 to find regions with.

    Returns:
      A configuration whose windows are 112 x 112 pixels in steps of 56, with two points a side for SAM 2.
    """
    config = Config(
        name="small",
        clip=CLIPConfig(
            embed_dim=16,
            vision=CLIPVisionConfig(image_size=64, patch_size=16, width=32, layers=5, head_width=16),
            text=CLIPTextConfig(vocab_size=512 + len(_MERGES) + 2, width=16, heads=2, layers=1),
        ),
        dino=DINOConfig(image_size=64, patch_size=16, width=32, layers=2, heads=2),
        sam2=_SAM2 if sam2 else None,
        vocabulary=None if vocabulary is None else str(vocabulary),
    )
    return with_fields(
        config,
        method={
            "resize_short": 112,
            "window": 112,
            "stride": 56,
            "max_regions": 64,
            "windows_per_chunk": 1,  # a program for padded batches then holds the networks once
        },
        regions={"points_per_side": 2},
    )


@functools.lru_cache(maxsize=8)
def small_params(config: Config, seed: int = 0) -> Params:
    """Random parameters of a configuration, drawn once a process."""
    return init_params(config, seed)


def small_text(config: Config, owners: tuple[int, ...] = (0, 0, 1, 2, 3, 4), seed: int = 5) -> TextEmbedding:
    """Random unit vectors in place of the embedded names: one query for each of `owners`, its class."""
    shape = (len(owners), config.clip.embed_dim)
    features = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    features, owner = jax.device_put((features, np.array(owners, np.int32)))
    return TextEmbedding(features, owner, max(owners) + 1)


def small_model(folder: Path, *, sam2: bool = True, seed: int = 0) -> Path:
    """Write the small model as a converted model folder with its vocabulary; returns `folder`/small."""
    config = small_config(write_vocabulary(folder), sam2=sam2)
    sources = {
        "clip": {
            "title": "Random CLIP",
            "licence": "Apache-2.0",
            "files": [{"name": "clip.safetensors", "size": 1, "sha256": "00ff"}],
        }
    }
    return save(folder / "small", init_params(config, seed), config, sources=sources)
