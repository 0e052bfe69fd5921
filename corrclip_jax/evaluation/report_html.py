"""HTML report of an evaluation: one self-contained page."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from corrclip_jax.evaluation.best_worst import TITLES, LabelledImage
from corrclip_jax.evaluation.report import facts, headline, points
from corrclip_jax.viz.data_uri import data_uri

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --bar: #3f88e6; --faint: #888; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
table { border-collapse: collapse; width: 100%; }
td, th { padding: .2rem .6rem .2rem 0; text-align: left; vertical-align: top; }
td, th { border-bottom: 1px solid var(--line); }
.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.scores { display: flex; flex-wrap: wrap; gap: 1rem 2.2rem; } .scores b { display: block; font-size: 1.7rem; }
.track { background: var(--line); border-radius: 4px; height: .8rem; min-width: 10rem; margin-top: .35rem; }
.bar { background: var(--bar); border-radius: 4px; height: 100%; }
figure { margin: 0 0 1.2rem; } figcaption { color: var(--faint); } figure div { display: flex; gap: .5rem; }
figure img { width: 100%; min-width: 0; flex: 1; border-radius: 4px; } p, .faint { color: var(--faint); }
"""


def page(content: Mapping[str, Any], worst: Sequence[LabelledImage], best: Sequence[LabelledImage]) -> str:
    """The report with a bar for every class, and the worst and best images."""
    title = escape(f"{content['dataset']}, {content['settings']['model']['name']}")
    scores = "".join(f"<div><b>{value}</b>{escape(name)}</div>" for name, value in headline(content))
    parts = [
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<style>{_STYLE}</style></head><body><h1>{title}</h1>",
        f'<div class="scores">{scores}</div>',
        *(f"<p><b>{escape(note)}</b></p>" for note in content["notes"]),
        f"<p>In percent. {escape(content['definitions'])}</p>",
        "<h2>How</h2>",
        _table([[f"<td>{escape(name)}</td>", f"<td>{escape(value)}</td>"] for name, value in facts(content)]),
        f"<h2>Classes</h2>{_classes(content)}",
    ]
    if "ablation" in content:
        rows = [
            [
                f"<td>{escape(name)}</td>",
                _number(points(row["mean_iou"])),
                _number(points(row["pixel_accuracy"])),
            ]
            for name, row in content["ablation"].items()
        ]
        parts.append("<h2>Parts of the method</h2>" + _table(rows, ["parts", "mIoU", "pixel accuracy"]))
    if content["unreadable"]:
        rows = [
            [f"<td>{escape(stem)}</td>", f"<td>{escape(message)}</td>"]
            for stem, message in content["unreadable"].items()
        ]
        parts.append("<h2>Unreadable images</h2>" + _table(rows))
    for name, shown in (("Worst images", worst), ("Best images", best)):
        if shown:
            parts.append(
                f"<h2>{name}</h2><p>{', '.join(TITLES)}; pixels that are not scored are uncoloured.</p>"
            )
            parts += [_figure(one) for one in shown]
    return "\n".join([*parts, "</body></html>\n"])


def _classes(content: Mapping[str, Any]) -> str:
    rows = []
    for entry in content["classes"]:
        others = escape(", ".join(name for name in entry["names"] if name != entry["name"]))
        others = f' <span class="faint">{others}</span>' if others else ""
        bar = (
            f'<div class="track"><div class="bar" style="width:{100 * (entry["iou"] or 0):.1f}%"></div></div>'
        )
        rows.append(
            [
                f"<td>{escape(entry['name'])}{others}</td>",
                f"<td>{bar}</td>",
                *(_number(points(entry[key])) for key in ("iou", "accuracy", "boundary_iou")),
                _number(f"{entry['pixels']:,}"),
            ]
        )
    return _table(rows, ["class", "", "IoU", "accuracy", "boundary IoU", "pixels"])


def _number(text: str) -> str:
    return f'<td class="n">{text}</td>'


def _table(rows: Sequence[Sequence[str]], titles: Sequence[str] = ()) -> str:
    head = "".join(
        f"<th{' class=n' * (column > 0)}>{escape(name)}</th>" for column, name in enumerate(titles)
    )
    body = "\n".join(f"<tr>{''.join(row)}</tr>" for row in rows)
    return f"<table>{f'<tr>{head}</tr>' if titles else ''}\n{body}</table>"


def _figure(shown: LabelledImage) -> str:
    images = "".join(
        f'<img alt="{title}" src="{data_uri(picture, quality=85)}">'
        for title, picture in zip(TITLES, shown.pictures, strict=True)
    )
    caption = f"{escape(shown.stem)}: mIoU {points(shown.score)}"
    return f"<figure><div>{images}</div><figcaption>{caption}</figcaption></figure>"
