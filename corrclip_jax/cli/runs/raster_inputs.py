"""Raster inputs of `corrclip segment`: which files are rasters, and which of them are one mosaic."""

import os
from collections.abc import Sequence
from pathlib import Path

from corrclip_jax.cli.shared.console import UsageError, note
from corrclip_jax.cli.shared.raster_options import RasterOptions
from corrclip_jax.io.photo_files import SUFFIXES, photos_in
from corrclip_jax.io.raster_files import has_geo, is_raster, only_with_geo, rasters_only, require_geo


def find_rasters(
    photos: Sequence[Path], out: Path, recursive: bool, options: RasterOptions
) -> list[list[Path]]:
    """The rasters among the inputs, each with the files that are one mosaic; empty if all are photos.

    Files that do not exist are among the rasters if there are any: reading them says so.

    Raises:
      UsageError: for rasters and photos together, and options of rasters without any.
      MissingExtraError: for rasters, or options of rasters, without the extra `geo`.
    """
    if options.given:
        require_geo(f"{' and '.join(options.given)}, as all options of rasters,")
    found: list[list[Path]] = []
    others: list[Path] = []
    missing = [path for path in photos if not os.path.lexists(path)]
    for path in photos:
        if path in missing:
            continue
        if path.is_dir():
            inside: list[Path] = []
            for file in [*rasters_only(path, recursive), *photos_in(path, recursive=recursive, out=out)]:
                (inside if is_raster(file) else others).append(file)
            found += _mosaics(inside) if inside and has_geo() else [[file] for file in inside]
        elif path.is_file() and (is_raster(path) or (options.given and path.suffix.lower() in SUFFIXES)):
            found.append([path])
        else:
            others.append(path)
    if not found:
        if options.given:
            raise UsageError(
                f"{missing[0]} does not exist."
                if missing
                else f"{', '.join(options.given)} is for rasters, and there are none among the inputs."
            )
        return []
    if not has_geo():
        return _without_geo([path for group in found for path in group])
    if others:
        raise UsageError(
            f"{found[0][0]} is a raster, and {others[0]} is none ({sum(map(len, found))} and {len(others)} files). "
            "Segment rasters and other files in two runs."
        )
    return found + [[path] for path in missing]


def _mosaics(paths: list[Path]) -> list[list[Path]]:
    from corrclip_jax.io.raster_mosaic import groups
    from corrclip_jax.io.rasters import gdal

    with gdal():
        return groups(paths)


def _without_geo(paths: Sequence[Path]) -> list[list[Path]]:
    """No rasters, with a note that they are read as photos; an error for those that cannot be."""
    if any(map(only_with_geo, paths)):
        require_geo("rasters of more than 100 megapixels, and VRTs,")
    note(
        f"{paths[0]} is georeferenced and read as a photo: pip install 'corrclip-jax[geo]' keeps the position and "
        "reads rasters of any size."
    )
    return []
