"""Table of annotation formats by name: the only list of them."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from corrclip_jax.formats import (
    coco,
    coco_panoptic,
    cvat,
    geojson,
    label_studio,
    labelme,
    npz,
    png,
    yolo,
)
from corrclip_jax.formats.images import Entry, Images, Options, Vocabulary
from corrclip_jax.formats.photos import by_name
from corrclip_jax.formats.target import Target
from corrclip_jax.runtime.extras import require


class Format(NamedTuple):
    """A format.

    Attributes:
      what: what is written, for people.
      write: writes all images below a folder; the last argument stands for all of them together, for the journal.
      polygons: "always", "asked" (where masks are the other choice) or "never".
      holes: whether its polygons have holes.
      link: an image to the name of the link to its photo in images/; None for a format without links.
    """

    what: str
    write: Callable[[Target, Vocabulary, Images, Options, str], None]
    polygons: str
    holes: bool = False
    link: Callable[[Entry], str] | None = None

    def needs_shapely(self, options: Options) -> bool:
        """Whether polygons are simplified, or cut open where they have holes."""
        drawn = self.polygons == "always" or (self.polygons == "asked" and options.shapes == "polygons")
        return drawn and (options.tolerance > 0 or not self.holes)


FORMATS: dict[str, Format] = {
    "coco": Format("COCO instances", coco.write, "asked", link=by_name),
    "coco-panoptic": Format("COCO panoptic", coco_panoptic.write, "never", link=by_name),
    "yolo": Format("YOLO segmentation", yolo.write, "always", link=yolo.link_name),
    "labelme": Format("LabelMe", labelme.write, "always"),
    "label-studio": Format("Label Studio tasks with predictions", label_studio.write, "asked"),
    "cvat": Format("CVAT for images 1.1", cvat.write, "asked", link=by_name),
    "geojson": Format("GeoJSON in pixels", geojson.write, "always", holes=True),
    "png": Format("label maps", png.write, "never"),
    "npz": Format("NumPy archives", npz.write, "never"),
}


def check_packages(names: Sequence[str], options: Options) -> None:
    """Check before any work that the packages which formats need are installed.

    Raises:
      MissingExtraError: if one is not.
    """
    for name in names:
        if FORMATS[name].needs_shapely(options):
            require("shapely", f"polygons of the format {name}", "formats")
