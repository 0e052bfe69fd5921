"""Checks of what `segment` is called with: images, text embeddings, sizes, region maps, parameters."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from corrclip_jax.config import FAMILIES, Config, similarity_network
from corrclip_jax.method import windows_padded
from corrclip_jax.method.bank import Bank
from corrclip_jax.params.structure import check_params
from corrclip_jax.regions.sources import SOURCES, can_find
from corrclip_jax.text.embedding import TextEmbedding


def check_inputs(
    config: Config, params: Any, images: Any, text: TextEmbedding, sizes: Any, regions: Any, bank: Any = None
) -> None:
    """Check what `segment` is called with; the arguments are its own, with `text` as a `TextEmbedding`.

    Raises:
      ValueError: for what does not fit the configuration or each other. Values that are traced are not looked at.
    """
    if images.ndim != 4 or images.shape[3] != 3 or images.dtype != jnp.uint8:
        raise ValueError(f"images must be uint8 [B, H, W, 3]. Got {images.dtype} {list(images.shape)}.")
    if 0 in images.shape:
        raise ValueError(f"images must not be empty. Got shape {list(images.shape)}.")
    width = config.clip.embed_dim
    if text.features.shape[1] != width:
        raise ValueError(
            f"text_emb must have the model's joint width, [Q, {width}]. Got {list(text.features.shape)}: "
            "embed the class names with the same model's params."
        )
    source = SOURCES["none" if regions is not None else config.regions.source]
    if regions is None and not can_find(config, params):
        raise ValueError(
            f"no {source.title} to find regions with: config.{source.network} or params[{source.network!r}] is "
            "missing. Load a model that has it, give region maps (regions=), or set config.regions.source to "
            "'none'."
        )
    check_params(config, params, region_network=source.network)
    if sizes is not None:
        _check_sizes(config, images, sizes)
    if regions is not None:
        _check_regions(config, images, regions, sizes)
    if bank is not None:
        check_bank(config, bank)
        _check_text_of(text, bank)


def check_bank(config: Config, bank: Bank) -> None:
    """Check that a bank's keys and main values are those of a model.

    Raises:
      ValueError: for a model that does without a bank, and for a bank of another backbone or CLIP.
    """
    if config.method.similarity_of != "image":
        raise ValueError(
            "a bank needs features of whole images: load a model of CorrCLIPv2, or set config.method.similarity_of "
            "to 'image'."
        )
    name, network = similarity_network(config)
    if bank.width != network.width:
        raise ValueError(
            f"the bank's keys are {bank.width} wide and the features of the model's {FAMILIES[name].title} "
            f"{network.width}. Give a bank that was built with the same backbone."
        )
    if "main" not in bank.values or bank.values["main"].shape[1] != config.clip.embed_dim:
        widths = {name: values.shape[1] for name, values in bank.values.items()}
        raise ValueError(
            f"the bank must have values 'main' of the model's CLIP, {config.clip.embed_dim} wide. It has {widths}. "
            "Give a bank that was built with the same CLIP."
        )


def _check_text_of(text: TextEmbedding, bank: Bank) -> None:
    if (others := set(bank.values) - {"main"}) != set(text.others):
        raise ValueError(
            f"text_emb must hold the queries in each other CLIP of the bank, {sorted(others) or 'none'}. It holds "
            f"{sorted(text.others) or 'none'}: embed the class names with those CLIPs, or leave their values out "
            "of the bank."
        )
    for other, features in text.others.items():
        if features.shape[1] != bank.values[other].shape[1]:
            raise ValueError(
                f"the queries in the CLIP {other!r} are {features.shape[1]} wide and the bank's values of it "
                f"{bank.values[other].shape[1]}. Give those of one CLIP."
            )


def _check_sizes(config: Config, images: Any, sizes: Any) -> None:
    if sizes.shape != (len(images), 2) or not jnp.issubdtype(sizes.dtype, jnp.integer):
        raise ValueError(
            f"sizes must be integers [{len(images)}, 2], height and width of each image. Got {sizes.dtype} "
            f"{list(sizes.shape)}."
        )
    if isinstance(sizes, jax.core.Tracer):
        return  # values are unknown here; `label_images` marks what does not fit
    side = images.shape[1:3]
    for index, (height, width) in enumerate(np.asarray(sizes).tolist()):
        if (height, width) != (0, 0) and not windows_padded.fits_padded(height, width, side, config.method):
            window, most = (
                windows_padded.window_shape(side, config.method),
                windows_padded.most_windows(config.method),
            )
            raise ValueError(
                f"image {index} of {height} x {width} does not fit into images of {side[0]} x {side[1]}: it must "
                f"be no larger, need windows of {window} pixels as they do, and at most {most} of them "
                "(config.method.max_windows). "
                "corrclip_jax.inference.buckets.plan_buckets chooses images that fit."
            )


def _check_regions(config: Config, images: Any, regions: Any, sizes: Any) -> None:
    if regions.shape != images.shape[:3] or not jnp.issubdtype(regions.dtype, jnp.integer):
        raise ValueError(
            f"regions must be integers of the images' size, {list(images.shape[:3])}. "
            f"Got {regions.dtype} {list(regions.shape)}."
        )
    if isinstance(regions, jax.core.Tracer) or isinstance(sizes, jax.core.Tracer):
        return  # values are unknown here; `label_images` marks what does not fit
    for index, one in enumerate(regions):
        if sizes is not None:
            one = one[: int(sizes[index, 0]), : int(sizes[index, 1])]
        if one.size and (lowest := int(one.min())) < 0:
            raise ValueError(f"regions must hold ids of 0 and above. Got {lowest}.")
        if (count := len(jnp.unique(one)) - 1) > config.method.max_regions:
            raise ValueError(
                f"region map {index} has {count} regions besides unsegmented pixels, config.method.max_regions is "
                f"{config.method.max_regions}. Raise it, or merge regions."
            )
