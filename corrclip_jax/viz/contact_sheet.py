"""Contact sheets: rows of images under column titles, with one legend for all."""

from collections.abc import Mapping, Sequence

from PIL import Image, ImageDraw

from corrclip_jax.viz.fonts import font_for, one_line, plain_font

_PAPER, _INK = (255, 255, 255), (32, 33, 36)
_GAP = 8  # pixels between images


def contact_sheet(
    rows: Sequence[Sequence[Image.Image]],
    titles: Sequence[str],
    colours: Mapping[str, tuple[int, int, int]],
    *,
    width: int | None = None,
) -> Image.Image:
    """Arrange images of one size in rows.

    Args:
      rows: the images.
      titles: of the columns.
      colours: the legend, by name.
      width: of each image in pixels; by default it keeps its size.
    """
    first = rows[0][0]
    width = width or first.width
    height = round(width * first.height / first.width)
    em = max(13, round(width / 17))
    plain = plain_font(em)
    top = round(1.9 * em)
    key = _key(colours, len(titles) * (width + _GAP) - _GAP, em)
    size = len(titles) * (width + _GAP) + _GAP, top + len(rows) * (height + _GAP)
    canvas = Image.new("RGB", (size[0], size[1] + key.height), _PAPER)
    canvas.paste(key, (_GAP, size[1]))
    draw = ImageDraw.Draw(canvas)
    for column, title in enumerate(titles):
        x = _GAP + column * (width + _GAP)
        font = font_for(title, em) or plain
        draw.text((x + width / 2, top / 2), one_line(title), _INK, font, anchor="mm")
        for row, images in enumerate(rows):
            image = images[column].resize((width, height), Image.Resampling.LANCZOS)
            canvas.paste(image, (x, top + row * (height + _GAP)))
    return canvas


def _key(colours: Mapping[str, tuple[int, int, int]], width: int, em: int) -> Image.Image:
    """The legend: swatches and names in centred lines, drawn at twice the size for smooth corners."""
    em, width = 2 * em, 2 * width
    fonts = {name: font_for(name, em) or plain_font(em) for name in colours}
    lines: list[list[tuple[str, float]]] = [[]]
    room = float(width)
    for name, font in fonts.items():
        needed = font.getlength(name) + 2.6 * em
        if needed > room and lines[-1]:
            lines.append([])
            room = width
        lines[-1].append((name, needed))
        room -= needed
    image = Image.new("RGB", (width, round((len(lines) + 0.5) * 1.6 * em) if colours else 0), _PAPER)
    draw = ImageDraw.Draw(image)
    for row, line in enumerate(lines):
        x = (width - sum(needed for _, needed in line) + 1.1 * em) / 2
        y = (row + 0.7) * 1.6 * em
        for name, needed in line:
            draw.rounded_rectangle((x, y - em / 2, x + em, y + em / 2), em / 5, fill=colours[name])
            draw.text((x + 1.5 * em, y), one_line(name), _INK, fonts[name], anchor="lm")
            x += needed
    return image.reduce(2) if colours else image
