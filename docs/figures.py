"""Figures of the documentation as SVG: the data flow of the method, and the rooms of the package.

`python docs/figures.py` writes them to docs/images/. The rooms come from the import rules in pyproject.toml.
"""

import tomllib
from pathlib import Path
from xml.sax.saxutils import escape

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"

_FONT = 'font-family="Helvetica, Arial, sans-serif" text-anchor="middle"'
_FILL = {"step": "#dbe7f6", "data": "#ffffff", "input": "#e6f4e2", "output": "#fdebd3"}
_HEAD = (
    '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
    '<path d="M0 0 L8 4 L0 8 z" fill="#555"/></marker></defs>'
)

# name: kind, centre x, centre y, width, first line, second line
_FLOW = {
    "images": ("input", 130, 40, 200, "images", "uint8 [B, H0, W0, 3]"),
    "regions": ("step", 380, 40, 200, "regions (2)", "SAM 2, SAM, EoMT, SLIC ..."),
    "maps": ("data", 630, 40, 200, "region maps", "int32 [B, H0, W0]"),
    "windows": ("step", 380, 120, 700, "resize, cut into N windows (3)", ""),
    "pixels": ("data", 130, 200, 200, "pixels", "[N, h, w, 3]"),
    "dino": ("step", 380, 200, 200, "DINO (4)", "features F [N, L, C]"),
    "ids": ("data", 630, 200, 200, "region ids", "[N, h, w]"),
    "scope": ("step", 630, 290, 200, "merging, scope (5, 6)", "weights A [N, L, L]"),
    "clip": ("step", 380, 290, 200, "CLIP, three branches (7)", "features y [N, L, D]"),
    "names": ("input", 130, 290, 200, "class names", "with synonyms"),
    "text": ("step", 130, 380, 200, "CLIP's text tower (1)", "queries [Q, D]"),
    "labels": ("step", 380, 380, 200, "cosines, stitching, vote (8)", "in blocks of rows"),
    "result": ("output", 630, 380, 200, "labels, scores", "[B, H0, W0]"),
}
_ARROWS = [
    ("images", "regions"), ("regions", "maps"), ("images", "windows"), ("maps", "windows"), ("windows", "pixels"),
    ("windows", "ids"), ("pixels", "dino"), ("dino", "scope"), ("ids", "scope"), ("scope", "clip"),
    ("pixels", "clip"), ("names", "text"), ("text", "labels"), ("clip", "labels"), ("labels", "result"),
]  # fmt: skip


def _box(kind: str, x: float, y: float, width: float, first: str, second: str, height: float = 48) -> str:
    lines = [(first, 13, y - 5 if second else y + 5)] + ([(second, 11, y + 13)] if second else [])
    texts = [f'<text x="{x}" y="{at}" font-size="{size}">{escape(text)}</text>' for text, size, at in lines]
    rectangle = (
        f'<rect x="{x - width / 2}" y="{y - height / 2}" width="{width}" height="{height}" rx="6" '
        f'fill="{_FILL[kind]}" stroke="#555"/>'
    )
    return "".join([rectangle, *texts])


def _arrow(start: tuple, end: tuple) -> str:
    """A straight arrow between the borders of two boxes: along a row, down a column, or down to the right."""
    (_, x0, y0, w0, *_), (_, x1, y1, w1, *_) = start, end
    if y0 == y1:
        side = 1 if x1 > x0 else -1
        points = x0 + side * w0 / 2, y0, x1 - side * w1 / 2, y1
    else:
        overlap = abs(x0 - x1) < max(w0, w1) / 2
        narrow = x0 if w0 < w1 else x1
        points = (narrow, y0 + 24, narrow, y1 - 24) if overlap else (x0 + 80, y0 + 24, x1 - 60, y1 - 24)
    x, y, to_x, to_y = points
    return f'<path d="M{x} {y} L{to_x} {to_y}" stroke="#555" fill="none" marker-end="url(#head)"/>'


def _svg(width: int, height: int, title: str, parts: list[str]) -> str:
    frame = f'<rect width="{width}" height="{height}" fill="#fbfbfb"/>'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" {_FONT}>'
        f"<title>{escape(title)}</title>{_HEAD}{frame}\n" + "\n".join(parts) + "\n</svg>\n"
    )


def data_flow() -> str:
    """The method's steps, with the shapes between them and the sections of METHOD.md."""
    parts = [_box(*box) for box in _FLOW.values()]
    parts += [_arrow(_FLOW[start], _FLOW[end]) for start, end in _ARROWS]
    # The vote reads the region maps themselves: around the right edge, to the labels from below.
    parts.append('<path d="M730 40 H746 V424 H380 V406" stroke="#555" fill="none" marker-end="url(#head)"/>')
    return _svg(760, 436, "From images and class names to labels", parts)


def rooms() -> str:
    """The rooms in layers, as the import rules have them: a room may import from the rows below its own."""
    rules = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]["contracts"]
    layers = next(rule["layers"] for rule in rules if rule["id"] == "rooms")
    pure = next(rule["source_modules"] for rule in rules if rule["id"] == "pure-method")
    parts = []
    for row, layer in enumerate(layers):
        names = [name.strip() for name in layer.split("|")]
        width = (700 - 12 * (len(names) - 1)) / len(names)
        for column, name in enumerate(names):
            kind = "input" if f"corrclip_jax.{name}" in pure else "step"
            parts.append(
                _box(kind, 30 + width / 2 + column * (width + 12), 34 + row * 42, width, name, "", 32)
            )
    return _svg(760, 24 + 42 * len(layers), "Rooms import downwards only", parts)


FIGURES = {"method.svg": data_flow, "rooms.svg": rooms}

if __name__ == "__main__":
    IMAGES.mkdir(exist_ok=True)
    for name, draw in FIGURES.items():
        (IMAGES / name).write_text(draw(), "utf-8")
