"""GeoJSON: a file of polygons with holes for each image, in pixels, as QuPath and GIS programs read it."""

from typing import Any

from corrclip_jax.formats.images import Images, LabelledImage, Options, Vocabulary, plain, polygons_of
from corrclip_jax.formats.polygons import Polygon
from corrclip_jax.formats.target import Target, compact_json


def write(target: Target, vocabulary: Vocabulary, images: Images, options: Options, mark: str) -> None:
    """Write <name>.geojson for each image.

    Raises:
      OutputError: if a file cannot be written.
    """
    for number, entry in enumerate(images.entries, start=1):
        name = f"{entry.stem}.geojson"
        if target.is_done(name, entry.mark):
            continue
        if (image := images.load(number, entry)) is not None:
            target.write(name, entry.mark, compact_json(collection(image, vocabulary, options)) + b"\n")


def collection(image: LabelledImage, vocabulary: Vocabulary, options: Options) -> dict[str, Any]:
    """A feature for each segment: x to the right and y down, in pixels from the top left corner."""
    features, chosen = [], image.chosen(vocabulary, options)
    for segment, traced in zip(chosen, polygons_of(image, chosen, options), strict=True):
        name, colour = vocabulary.names[segment.label], vocabulary.colours[segment.label]
        properties: dict[str, Any] = {
            "objectType": "annotation",
            "classification": {"name": name, "color": list(colour)},
            "region": segment.region,
            "area": segment.area,
        }
        if segment.probability is not None:
            properties["probability"] = round(segment.probability, 4)
        polygons = [_coordinates(one) for one in traced]
        single = len(polygons) == 1
        geometry = {
            "type": "Polygon" if single else "MultiPolygon",
            "coordinates": polygons[0] if single else polygons,
        }
        features.append({"type": "Feature", "geometry": geometry, "properties": properties})
    return {"type": "FeatureCollection", "features": features}


def _coordinates(polygon: Polygon) -> list[list[list[int | float]]]:
    """Closed rings, the exterior first and counter-clockwise where y points up, as RFC 7946 wants it."""
    rings = [plain(ring) for ring in (polygon.exterior, *polygon.holes)]
    return [[*ring, ring[0]] for ring in rings]
