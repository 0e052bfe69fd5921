"""Legends next to or below an image: swatch, class and share of the pixels, in a size that suits the image."""

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from corrclip_jax.viz.fonts import Font, font_for, one_line, plain_font, writable

_PAPER, _INK, _FAINT = (255, 255, 255), (32, 33, 36), (112, 117, 122)
# Lengths in ems (multiples of the font size).
_LINE, _PAD, _GAP, _SWATCH, _LONGEST_NAME = 1.65, 1.1, 2.2, 1.0, 14.0
_LONGEST_TEXT = 200  # characters; longer names need not be measured


@dataclass(frozen=True)
class Entry:
    """One line of a legend; `colour` None is an empty swatch, for a class that is not tinted.

    A `name` that no font of this machine can write is shown as its number: see `legend_name`.
    """

    name: str
    share: float
    colour: tuple[int, int, int] | None


def legend_name(number: int, names: Sequence[str]) -> str:
    """The first of a class's names (synonyms) that can be written here; "class 3" if there is none.

    The number is the class's label in the label map.
    """
    return next((text for name in names if (text := writable(name))), f"class {number}")


def percent(share: float) -> str:
    """A share 0..1 as text: "12.3 %", or "< 0.1 %" for small shares above 0."""
    return "< 0.1 %" if 0 < share < 0.0005 else f"{100 * share:.1f} %"


def with_legend(image: Image.Image, entries: Sequence[Entry]) -> Image.Image:
    """The image with a legend: below a wide image, to the right of a tall one.

    Entries fill columns from top to bottom; those that do not fit are summed up in one line, "+ 12 more". An image
    that is narrower than one column is centred above it.
    """
    em = max(14, round(0.021 * math.sqrt(image.width * image.height)), round(0.006 * max(image.size)))
    font = plain_font(em)
    below = image.width >= image.height
    fonts = [font_for(e.name, em) or font for e in entries]
    names = _all_shortened([e.name for e in entries], fonts, _LONGEST_NAME * em)
    line, pad, gap = round(_LINE * em), round(_PAD * em), round(_GAP * em)
    cell = round(
        (_SWATCH + 1.6) * em
        + max(
            [own.getlength(n) for n, own in zip(names, fonts, strict=True)] + [font.getlength("+ 888 more")]
        )
        + font.getlength("< 0.1 %")
    )
    columns, rows = _grid(len(entries), image, cell + gap, line, pad, below)
    block = (columns * (cell + gap) - gap + 2 * pad, rows * line + 2 * pad)
    if below:
        canvas = Image.new("RGB", (max(image.width, block[0]), image.height + block[1]), _PAPER)
        canvas.paste(image, ((canvas.width - image.width) // 2, 0))
        left, top = pad, image.height + pad
    else:
        canvas = Image.new("RGB", (image.width + block[0], max(image.height, block[1])), _PAPER)
        canvas.paste(image, (0, 0))
        left, top = image.width + pad, pad
    draw = ImageDraw.Draw(canvas)
    shown = len(entries) if len(entries) <= columns * rows else columns * rows - 1
    lines = [(n, f, e.share, e.colour, True) for n, f, e in zip(names[:shown], fonts, entries, strict=False)]
    if shown < len(entries):
        rest = sum(e.share for e in entries[shown:])
        lines.append((f"+ {len(entries) - shown} more", font, rest, None, False))
    for i, (name, own, share, colour, swatch) in enumerate(lines):
        x, y = left + i // rows * (cell + gap), top + i % rows * line + line // 2
        if swatch:
            canvas.paste(_swatch(em, colour), (x, y - em // 2))
        draw.text((x + round(1.6 * _SWATCH * em), y), name, _INK if swatch else _FAINT, own, anchor="lm")
        draw.text((x + cell, y), percent(share), _FAINT, font, anchor="rm")
    return canvas


def _grid(count: int, image: Image.Image, column: int, line: int, pad: int, below: bool) -> tuple[int, int]:
    """Columns and rows for `count` entries.

    Below the image, the legend takes its width and at most half its height; to the right, its height and at
    most six tenths of its width. There is always room for one column of six rows.
    """
    gap = round(_GAP / _PAD * pad)
    if below:
        columns = max(1, (image.width - 2 * pad + gap) // column)
        rows = min(math.ceil(count / columns), max(6, round(0.5 * image.height) // line))
        return columns, max(1, rows)
    rows = max(6, (image.height - 2 * pad) // line)
    columns = min(math.ceil(count / rows), max(1, round(0.6 * image.width) // column))
    return max(1, columns), max(1, min(rows, count))


def _swatch(em: int, colour: tuple[int, int, int] | None) -> Image.Image:
    """A rounded square, drawn at four times the size for smooth edges."""
    side = 4 * em
    image = Image.new("RGB", (side, side), _PAPER)
    box, radius, stroke = (0, 0, side - 1, side - 1), side // 5, max(4, side // 14)
    ImageDraw.Draw(image).rounded_rectangle(
        box, radius, fill=colour or _PAPER, outline=None if colour else _FAINT, width=0 if colour else stroke
    )
    return image.reduce(4)


def _all_shortened(names: Sequence[str], fonts: Sequence[Font], width: float) -> list[str]:
    """Names that fit into a width: their beginnings, or beginning and end where several begin alike."""
    whole = [one_line(name[:_LONGEST_TEXT]) for name in names]
    short = [_shortened(name, font, width) for name, font in zip(whole, fonts, strict=True)]
    times = Counter(short)
    return [
        _shortened(name, font, width, len(name) // 2) if text != name and times[text] > 1 else text
        for text, name, font in zip(short, whole, fonts, strict=True)
    ]


def _shortened(name: str, font: Font, width: float, end: int = 0) -> str:
    """As many letters as fit, of which up to `end` may be the last ones, as many as the first."""
    if font.getlength(name) <= width:
        return name

    def first(count: int) -> str:
        return name[:count].rstrip() + "…" + name[len(name) - min(count, end) :].lstrip()

    fits = bisect_right(range(len(name)), width, key=lambda count: font.getlength(first(count)))
    return first(max(0, fits - 1))
