"""Contact sheets: pictures in rows under the titles of their columns, and one key of the classes for all."""

from collections.abc import Mapping, Sequence

from PIL import Image, ImageDraw, ImageFont

_PAPER, _INK = (255, 255, 255), (32, 33, 36)
_GAP = 8  # pixels between pictures


def contact_sheet(
    rows: Sequence[Sequence[Image.Image]],
    titles: Sequence[str],
    colours: Mapping[str, tuple[int, int, int]],
    *,
    width: int | None = None,
) -> Image.Image:
    """Pictures of one size in rows, a title over each column, and below what each colour stands for.

    `width` is what each picture is shrunk to (pixels), by default its own.
    """
    first = rows[0][0]
    width = width or first.width
    height = round(width * first.height / first.width)
    em = max(13, round(width / 17))
    font = ImageFont.load_default(em)
    top = round(1.9 * em)
    key = _key(colours, len(titles) * (width + _GAP) - _GAP, em)
    size = len(titles) * (width + _GAP) + _GAP, top + len(rows) * (height + _GAP)
    canvas = Image.new("RGB", (size[0], size[1] + key.height), _PAPER)
    canvas.paste(key, (_GAP, size[1]))
    draw = ImageDraw.Draw(canvas)
    for column, title in enumerate(titles):
        x = _GAP + column * (width + _GAP)
        draw.text((x + width / 2, top / 2), title, _INK, font, anchor="mm")
        for row, pictures in enumerate(rows):
            picture = pictures[column].resize((width, height), Image.Resampling.LANCZOS)
            canvas.paste(picture, (x, top + row * (height + _GAP)))
    return canvas


def _key(colours: Mapping[str, tuple[int, int, int]], width: int, em: int) -> Image.Image:
    """Swatches and names in as many centred lines as they need, drawn twice as large for smooth corners."""
    em, width = 2 * em, 2 * width
    font = ImageFont.load_default(em)
    lines: list[list[tuple[str, float]]] = [[]]
    room = float(width)
    for name in colours:
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
            draw.text((x + 1.5 * em, y), name, _INK, font, anchor="lm")
            x += needed
    return image.reduce(2) if colours else image
