"""`build_bank`: a bank of unlabelled images from Python; `corrclip bank build` does the same."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from corrclip_jax.config import DtypeChoice, source_family, with_fields
from corrclip_jax.conversion.published import source_or_folder
from corrclip_jax.hub.presets import load
from corrclip_jax.hub.single_networks import load_clip, load_network
from corrclip_jax.inference.bank_build import BankBuild, Progress, build
from corrclip_jax.inference.bank_features import BankFeatures
from corrclip_jax.inference.model_and_source import Model, with_source
from corrclip_jax.inference.other_clips import check_names
from corrclip_jax.inference.settings import check_settings, with_settings
from corrclip_jax.io.files import check_writable
from corrclip_jax.runtime.distributed import connect

DINO_MODEL = "vit-b"
"""Whose DINO makes the values where the model has none."""


def build_bank(
    images: str | os.PathLike | Sequence[str | os.PathLike],
    out: str | os.PathLike,
    model: Model = "v2-b",
    *,
    regions: str | os.PathLike | None = None,
    points: int | None = None,
    others: Mapping[str, Model] | None = None,
    dtype: DtypeChoice | None = None,
    restart: bool = False,
    distributed: bool = False,
    progress: Progress = lambda done, total: None,
) -> BankBuild:
    """Add the regions of unlabelled images to a bank, which is made where there is none.

    >>> build_bank("photos/", "bank/", "v2-b")                                                    # doctest: +SKIP

    An interrupted build continues when it is called again with the same arguments, whenever it was interrupted, and
    gives the same bank to the last bit. Images that the bank has already are left out; ids of entries stay.

    Args:
      images: photos, or folders of photos with their sub-folders: .png, .jpg, .jpeg, .bmp, .tiff.
      out: the bank's folder.
      model: a name, a folder, or configuration and parameters as `load` returns them: its backbone makes the keys,
        its CLIP the values.
      regions: a source of regions (`regions.sources.SOURCES`), for a model with a name also a published network
        ("sam2.1-t"), or a folder of region maps of the photos' stems; by default the model's source.
      points: n for SAM's n x n grid of points.
      others: further CLIPs that make values of these names: published ones ("dfn-b16"), or those of models. "main"
        is the model's own; families of networks are no names either.
      dtype: the networks' compute type.
      restart: forget an interrupted build.
      distributed: share the images with the other processes of a `jax.distributed` cluster.
      progress: called with how many images this process has done, and of how many.

    Returns:
      What was built, and which images were left out.

    Raises:
      BankError: for a bank, or an interrupted build, of other networks or settings.
      PhotoError: for missing images.
      FileNotFoundError: for missing weights.
      ValueError: for settings out of range, regions that are neither a source nor a folder, names of `others` that
        are taken, and a model that finds no regions.
    """
    if distributed:
        connect()
    check_writable(out)
    features = bank_features(model, regions=regions, points=points, others=others, dtype=dtype)
    return build(listed_paths(images), Path(out), features, restart=restart, progress=progress)


def bank_features(
    model: Model,
    *,
    regions: str | os.PathLike | None = None,
    points: int | None = None,
    others: Mapping[str, Model] | None = None,
    dtype: DtypeChoice | None = None,
) -> BankFeatures:
    """What makes the entries of a bank; for the arguments see `build_bank`.

    Raises:
      ValueError, FileNotFoundError: as `build_bank`.
    """
    check_settings(dtype, points, None)
    check_names(others or ())
    source, folder = (None, None) if regions is None else source_or_folder(regions)
    config, params = with_source(model, source, load)
    config = with_settings(config, dtype=dtype, points=points, background_threshold=None)
    if source is not None:
        config = with_fields(config, regions={"source": source_family(source)})
    if config.dino is None:
        dino, weights = load_network(DINO_MODEL, "dino")
        config, params = with_fields(config, dino=dino), {**params, "dino": weights}
    return BankFeatures(
        config,
        params,
        regions=folder,
        source=source,
        others={
            name: other
            if isinstance(other, tuple)
            else load_clip(other if isinstance(other, str) else Path(other))
            for name, other in (others or {}).items()
        },
    )


def listed_paths(images: str | os.PathLike | Sequence[str | os.PathLike]) -> list[Path]:
    """One path, or several, as a list."""
    return [Path(path) for path in ([images] if isinstance(images, str | os.PathLike) else images)]
