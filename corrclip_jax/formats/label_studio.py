"""Label Studio: tasks with predictions, as polygons or brush masks, and the labelling configuration that fits."""

from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import numpy as np
from jaxtyping import Bool

from corrclip_jax.formats.images import Entry, Images, LabelledImage, Options, Vocabulary, rings_of_segments
from corrclip_jax.formats.segments import Segment
from corrclip_jax.formats.target import JsonList, Target
from corrclip_jax.formats.xml_text import xml_text

FILE, CONFIGURATION = "tasks.json", "labelling_config.xml"
_FROM, _TO = "label", "image"
LOCAL_FILES = "/data/local-files/?d="
"""What the addresses of Label Studio's local files begin with."""
_SIZES = (3, 4, 8, 16)  # bits for the length of a run, of which each run takes the fewest that it needs


def write(target: Target, vocabulary: Vocabulary, images: Images, options: Options, mark: str) -> None:
    """Write one file with the tasks of all images, and the configuration.

    Raises:
      OutputError: if a file cannot be written.
    """
    target.write(CONFIGURATION, "", configuration(vocabulary, options).encode("utf-8", "replace"))
    if target.is_done(FILE, mark):
        return
    with target.writing(FILE, mark, images) as path, path.open("wb") as file:
        file.write(b"[")
        tasks = JsonList(file)
        for _, entry, image in images.loaded():
            tasks.add(task(image, entry, vocabulary, options))
        file.write(b"]\n")


def configuration(vocabulary: Vocabulary, options: Options) -> str:
    """The labelling configuration of a project that takes the tasks."""
    tag = {"polygons": "PolygonLabels", "masks": "BrushLabels"}[options.shapes]
    labels = "".join(
        f"    <Label value={quoteattr(xml_text(name))} background={quoteattr(colour)}/>\n"
        for name, colour in zip(vocabulary.names, vocabulary.hex_colours, strict=True)
    )
    return (
        f'<View>\n  <Image name="{_TO}" value="$image" zoom="true"/>\n'
        f'  <{tag} name="{_FROM}" toName="{_TO}">\n{labels}  </{tag}>\n</View>\n'
    )


def task(image: LabelledImage, entry: Entry, vocabulary: Vocabulary, options: Options) -> dict[str, Any]:
    """A task with one prediction; its score is the mean of those of the segments, by their areas."""
    chosen = image.chosen(vocabulary, options)
    result = []
    values = _values(chosen, image, options)
    for number, (segment, parts) in enumerate(zip(chosen, values, strict=True), start=1):
        for part, value in enumerate(parts, start=1):
            kind = {"polygons": "polygonlabels", "masks": "brushlabels"}[options.shapes]
            one: dict[str, Any] = {
                "id": f"segment-{number}-{part}",
                "type": kind,
                "from_name": _FROM,
                "to_name": _TO,
                "original_width": image.width,
                "original_height": image.height,
                "image_rotation": 0,
                "value": {**value, kind: [xml_text(vocabulary.names[segment.label])]},
            }
            if segment.probability is not None:
                one["score"] = round(segment.probability, 4)
            result.append(one)
    prediction: dict[str, Any] = {"model_version": "corrclip_jax", "result": result}
    known = [(one.probability * one.area, one.area) for one in chosen if one.probability is not None]
    if known:
        weighted, area = np.array(known).sum(axis=0).tolist()
        prediction["score"] = round(weighted / area, 4)
    return {"data": {"image": address(entry, options)}, "predictions": [prediction]}


def address(entry: Entry, options: Options) -> str:
    """Where Label Studio finds an image.

    It serves no file that lies directly in the root of its local files, so an address without a prefix of the
    user's begins with the name of the folder that all photos share.
    """
    name = quote(entry.name, errors="surrogateescape")
    if options.image_prefix is not None:
        return options.image_prefix + name
    shared = entry.photo.absolute().parents[entry.name.count("/")].name
    return f"{LOCAL_FILES}{quote(shared, errors='surrogateescape')}/{name}"


def brush_rle(mask: Bool[np.ndarray, "H W"]) -> list[int]:
    """A mask as Label Studio's run-length encoding of RGBA pixels (thi.ng's rle-pack), in bytes.

    32 bits for the number of values, 5 for the bits of a value less one, four times 4 for the lengths of run
    lengths less one; then for each run a bit 1, two bits for the length's size, the length less one, the value.
    """
    flat = np.repeat(mask.ravel(), 4)
    starts = np.flatnonzero(np.diff(flat, prepend=~flat[:1]))
    lengths = np.diff(np.append(starts, flat.size)).tolist()
    bits = [f"{flat.size:032b}{7:05b}", *(f"{size - 1:04b}" for size in _SIZES)]
    for start, length in zip(starts.tolist(), lengths, strict=True):
        value = "1" * 8 if flat[start] else "0" * 8
        while length > 0:
            run = min(length, 1 << _SIZES[-1])
            index = next(i for i, size in enumerate(_SIZES) if run <= 1 << size)
            bits.append(f"1{index:02b}{run - 1:0{_SIZES[index]}b}{value}")
            length -= run
    text = "".join(bits)
    text += "0" * (-len(text) % 8)
    return list(int(text, 2).to_bytes(len(text) // 8, "big"))


def _values(segments: list[Segment], image: LabelledImage, options: Options) -> list[list[dict[str, Any]]]:
    """The shapes of each segment: corners in percent of the image, or one mask."""
    if options.shapes == "masks":
        masks = (one.full_mask(image.height, image.width) for one in segments)
        return [[{"format": "rle", "rle": brush_rle(mask)}] for mask in masks]
    percent = 100 / np.array([image.width, image.height])
    return [
        [{"points": np.round(ring * percent, 6).tolist(), "closed": True} for ring in rings]
        for rings in rings_of_segments(image, segments, options)
    ]
