"""YOLO segmentation: a text file of polygons for each image, links to the images, and data.yaml (Ultralytics)."""

import yaml

from corrclip_jax.formats.images import Entry, Images, LabelledImage, Options, Vocabulary, rings_of_segments
from corrclip_jax.formats.photos import FOLDER, link_photos
from corrclip_jax.formats.target import Target

FILE = "data.yaml"


def write(target: Target, vocabulary: Vocabulary, images: Images, options: Options, mark: str) -> None:
    """Write labels/<name>.txt and images/<name> for each image, and data.yaml last.

    Raises:
      OutputError: if a file cannot be written.
    """
    for number, entry in enumerate(images.entries, start=1):
        name = f"labels/{entry.stem}.txt"
        if not target.is_done(name, entry.mark):
            image = images.load(number, entry)
            if image is None:
                continue
            with target.writing(name, entry.mark) as path:
                path.write_text("".join(lines(image, vocabulary, options)), "utf-8")
    link_photos(target, images, link_name)
    names = dict(enumerate(vocabulary.names))
    content = yaml.safe_dump(
        {"train": FOLDER, "val": FOLDER, "names": names}, allow_unicode=True, sort_keys=False
    )
    target.write(FILE, "", content.encode("utf-8", "backslashreplace"))


def link_name(entry: Entry) -> str:
    """The name of the link to a photo, which Ultralytics looks for by that of the labels."""
    return entry.stem + entry.photo.suffix


def lines(image: LabelledImage, vocabulary: Vocabulary, options: Options) -> list[str]:
    """A line for each polygon: the class, and x and y of every corner as shares of the image's width and height."""
    size, chosen = (image.width, image.height), image.chosen(vocabulary, options)
    return [
        " ".join([str(segment.label), *(f"{value:.7g}" for value in (ring / size).ravel().tolist())]) + "\n"
        for segment, rings in zip(chosen, rings_of_segments(image, chosen, options), strict=True)
        for ring in rings
    ]
