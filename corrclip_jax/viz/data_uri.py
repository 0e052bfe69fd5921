"""Data URIs: images inside of an HTML page."""

import base64
import io
from typing import Any

from PIL import Image


def data_uri(image: Image.Image, kind: str = "jpeg", **options: Any) -> str:
    """The image as a data URI for `<img src=...>`.

    Args:
      image: RGB.
      kind: the file format, "jpeg" or "png".
      options: of Pillow's `save`.
    """
    file = io.BytesIO()
    image.save(file, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
