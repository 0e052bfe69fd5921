"""A small model with random weights, as `load` finds it: for tests of what goes on around the towers."""

import functools
import gzip
from pathlib import Path

import jax

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
from corrclip_jax.method.segment import make_segment
from corrclip_jax.params.model_folder import save
from corrclip_jax.params.structure import init_params

# One compiled function a configuration, for all tests of a process.
jitted = functools.cache(lambda config: jax.jit(make_segment(config)))

SAM1 = SAM1Config(
    image_size=64, width=16, layers=2, heads=2, global_blocks=(1,), window=3, embed_dim=16, decoder_heads=2,
    decoder_mlp_width=16,
)  # fmt: skip
EOMT = EoMTConfig(
    image_size=64,
    width=16,
    layers=2,
    heads=2,
    registers=1,
    queries=6,
    query_blocks=1,
    upscale_blocks=1,
    labels=3,
)
MASK2FORMER = Mask2FormerConfig(
    image_size=64, embed_dim=8, depths=(1, 1, 1, 1), heads=(1, 1, 2, 2), window=4, feature_size=32,
    mask_feature_size=16, encoder_layers=1, encoder_mlp_width=16, decoder_layers=1, decoder_heads=2,
    decoder_mlp_width=16, queries=6, labels=3,
)  # fmt: skip

MERGES = ("t h", "th e</w>", "o f</w>", "p h", "ph o", "c a", "ca t</w>")


def write_vocabulary(folder: Path) -> Path:
    """A vocabulary of single bytes and a few merges, in the form of OpenAI's file."""
    file = folder / "bpe_simple_vocab_16e6.txt.gz"
    file.write_bytes(gzip.compress("\n".join(["#version: 0.2", *MERGES]).encode()))
    return file


def small_config(vocabulary: Path | str | None = None, *, sam2: bool = True) -> Config:
    """CLIP of five blocks, DINO of two, a SAM 2 of four: a photo takes a second, compilation some more."""
    config = Config(
        name="small",
        clip=CLIPConfig(
            embed_dim=16,
            vision=CLIPVisionConfig(image_size=64, patch_size=16, width=32, layers=5, head_width=16),
            text=CLIPTextConfig(vocab_size=512 + len(MERGES) + 2, width=16, heads=2, layers=1),
        ),
        dino=DINOConfig(image_size=64, patch_size=16, width=32, layers=2, heads=2),
        sam2=SAM2Config(
            image_size=64,
            width=8,
            heads=1,
            stages=(1, 1, 1, 1),
            global_blocks=(2,),
            window_sizes=(4, 4, 4, 2),
            background_size=(2, 2),
            embed_dim=16,
            decoder_heads=2,
            decoder_mlp_width=16,
            mask_channels=16,
        )
        if sam2
        else None,
        vocabulary=None if vocabulary is None else str(vocabulary),
    )
    return with_fields(
        config,
        method={
            "resize_short": 112,
            "window": 112,
            "stride": 56,
            "max_regions": 64,
            "windows_per_chunk": 1,  # a canvas program then holds the towers once
        },
        regions={"points_per_side": 2},
    )


def small_model(folder: Path, *, sam2: bool = True, seed: int = 0) -> Path:
    """The folder of a converted model, `folder`/small."""
    config = small_config(write_vocabulary(folder), sam2=sam2)
    sources = {
        "clip": {
            "title": "Random CLIP",
            "licence": "Apache-2.0",
            "files": [{"name": "clip.safetensors", "size": 1, "sha256": "00ff"}],
        }
    }
    return save(folder / "small", init_params(config, seed), config, sources=sources)
