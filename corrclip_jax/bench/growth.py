"""Growth of cost: seconds and memory of the program against one amount of work at a time, with plots.

`python -m corrclip_jax.bench.growth [--only classes windows ...] [--out DIR]` takes the embedded models and lets
the side of an image, its windows, the classes, the points per side, the rows of a bank, the images of a folder or
the simulated devices grow, all else being equal. It prints a table, and writes growth.json, and growth.svg if
matplotlib is installed, to DIR. No time includes compilation. The slope is that of log seconds over log amount
between the last two amounts: 0 where the work does not matter, 1 where twice the work takes twice the time.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax
import numpy as np

from corrclip_jax.bench.folder import EQUAL, Timing, label, write
from corrclip_jax.bench.measure import environment, peak_bytes, time_program
from corrclip_jax.bench.stages import draw_bank, draw_classes, draw_photos, whole_program
from corrclip_jax.config import with_fields
from corrclip_jax.hub.embedded import EMBEDDED, EMBEDDED_V2
from corrclip_jax.hub.presets import load
from corrclip_jax.inference.segmenter import Segmenter
from corrclip_jax.io.own_files import OwnFiles

_SIDE = 168  # of an image, in pixels, where something else grows
_IMAGES = 64  # of a folder that devices share, and labelled before the clock starts


@dataclass(frozen=True)
class Point:
    """What an amount of work costs.

    Attributes:
      amount: of the work.
      seconds: of wall time for one call or each image of a folder; for devices of processor time for each image.
      bytes: of the program's arguments and temporaries; for folders and devices the most that the process held.
    """

    amount: int
    seconds: float
    bytes: int


@dataclass(frozen=True)
class Growth:
    """A kind of work that grows.

    Attributes:
      title: what is on the axis.
      unit: what the seconds are for.
      amounts: by default.
      measure: the cost of an amount, with so many repetitions.
    """

    title: str
    unit: str
    amounts: tuple[int, ...]
    measure: Callable[[int, int], Point]


def slope(points: Sequence[Point]) -> float:
    """The slope of log seconds over log amount between the last two points.

    >>> slope([Point(1, 5.0, 0), Point(10, 1.0, 0), Point(20, 2.0, 0)])
    1.0
    """
    before, last = points[-2:]
    return round(math.log(last.seconds / before.seconds) / math.log(last.amount / before.amount), 2)


def _program(
    amount: int,
    repeat: int,
    *,
    height: int = _SIDE,
    width: int = _SIDE,
    classes: int = 21,
    points: int | None = None,
    rows: int = 0,
) -> Point:
    """The cost of one call with one random image: without regions, but for points and banks."""
    config, params = load(EMBEDDED_V2 if rows else EMBEDDED, region_network="sam2" if points else None)
    source = "sam2" if points else "slic" if rows else "none"
    config = with_fields(config, regions={"source": source, "points_per_side": points or 1})
    bank = draw_bank(rows, config) if rows else None
    arguments = params, draw_photos(1, height, width), draw_classes(config, classes), bank
    timed = time_program(whole_program(config), arguments, repeat)
    return Point(amount, timed["seconds"], timed["bytes"]["arguments"] + timed["bytes"]["temporaries"])


def _label(images: int, mesh: jax.sharding.Mesh | None = None) -> Timing:
    """Label a folder of so many images of one size, after compilation."""
    with tempfile.TemporaryDirectory() as name:
        photos = write(Path(name) / "photos", EQUAL, images)
        segmenter = Segmenter(EMBEDDED, regions="none", mesh=mesh)
        label(segmenter, photos[:_IMAGES])  # compiles
        return label(segmenter, photos)


def _folder(amount: int) -> Point:
    """The cost of each image of a folder of so many."""
    return Point(amount, _label(amount).seconds / amount, peak_bytes()["process"] or 0)


def _devices(amount: int) -> Point:
    """The cost of each image of a folder that so many simulated devices share, in a process of their own."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={amount}"
    run = subprocess.run(
        [sys.executable, "-m", "corrclip_jax.bench.growth", "--share", str(amount), str(_IMAGES)],
        env=os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags.strip()},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return Point(**json.loads(run.stdout.splitlines()[-1]))


def _share(devices: int, images: int) -> Point:
    """What `_devices` measures in its process."""
    timing = _label(images, jax.sharding.Mesh(np.array(jax.devices()[:devices]), ("images",)))
    return Point(devices, timing.processor_seconds / images, peak_bytes()["process"] or 0)


KINDS: dict[str, Growth] = {
    "side": Growth(
        "side of a square image, pixels",
        "an image",
        (168, 336, 672, 1344, 2688),
        lambda n, repeat: _program(n, repeat, height=n, width=n),
    ),
    "windows": Growth(
        "width of an image of 168 rows, in heights",
        "an image",
        (1, 2, 4, 8),
        lambda n, repeat: _program(n, repeat, width=n * _SIDE),
    ),
    "classes": Growth(
        "classes, on 500 x 375 pixels",
        "an image",
        (21, 80, 171, 459, 847),
        lambda n, repeat: _program(n, repeat, height=375, width=500, classes=n),
    ),
    "points": Growth(
        "points per side",
        "an image",
        (8, 16, 32),
        lambda n, repeat: _program(n, repeat, points=n),
    ),
    "bank": Growth(
        "rows of a bank",
        "an image",
        (1_000, 10_000, 100_000, 1_000_000),
        lambda n, repeat: _program(n, repeat, rows=n),
    ),
    "images": Growth("images in a folder", "an image", (50, 500, 5_000), lambda n, repeat: _folder(n)),
    "devices": Growth(
        "simulated devices", "an image, of processor time", (1, 2, 4, 8), lambda n, repeat: _devices(n)
    ),
}
"""What can grow, by name."""


def measure(names: Sequence[str], repeat: int, show: Callable[[str], None] = print) -> dict[str, Any]:
    """The costs of all amounts of some kinds, as plain JSON types.

    Args:
      names: of `KINDS`.
      repeat: calls of every program, of which the median counts.
      show: called with a line for each amount.
    """
    found: dict[str, Any] = {}
    for name in names:
        kind, points = KINDS[name], []
        for amount in kind.amounts:
            points.append(kind.measure(amount, repeat))
            mib = points[-1].bytes / (1 << 20)
            show(f"{name} {amount:,}: {1000 * points[-1].seconds:.1f} ms {kind.unit}, {mib:,.0f} MiB")
        found[name] = {
            "title": kind.title,
            "unit": kind.unit,
            "points": [asdict(point) for point in points],
            "slope": slope(points),
        }
        show(f"{name}: slope {found[name]['slope']}")
    return {"growth": found, **environment()}


def draw(report: dict[str, Any], path: Path) -> None:
    """Plot a report as SVG: a small diagram for each kind, seconds on the left and memory on the right.

    Args:
      report: as `measure` makes it.
      path: of the file. matplotlib must be installed.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator

    kinds = report["growth"]
    columns = min(3, len(kinds))
    lines = -(-len(kinds) // columns)
    figure = Figure(figsize=(4 * columns, 2.8 * lines), layout="constrained")
    for number, kind in enumerate(kinds.values(), start=1):
        axes = figure.add_subplot(lines, columns, number)
        amounts = [point["amount"] for point in kind["points"]]
        axes.loglog(amounts, [1000 * point["seconds"] for point in kind["points"]], "o-", color="#1f77b4")
        axes.set_xlabel(kind["title"])
        axes.set_ylabel("ms", color="#1f77b4")
        axes.set_title(f"slope {kind['slope']}", fontsize="medium")
        memory = axes.twinx()
        memory.loglog(
            amounts, [point["bytes"] / (1 << 20) for point in kind["points"]], "s--", color="#d62728"
        )
        memory.set_ylabel("MiB", color="#d62728")
        for side in (axes, memory):
            low, high = side.get_ylim()
            side.set_ylim(low / 2, high * 2)  # what hardly grows looks so
            side.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            side.yaxis.set_major_formatter("{x:,.0f}")
            side.set_xticks(amounts, [f"{amount:,}" for amount in amounts])
            side.minorticks_off()
    figure.savefig(path, format="svg", metadata={"Date": None})


def main() -> None:
    """Measure, print, and write the report and its plots."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--overwrite", action="store_true")
    parser.add_argument("--share", type=int, nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.share:
        print(json.dumps(asdict(_share(*options.share))))
        return
    names = ["growth.json", *(["growth.svg"] if find_spec("matplotlib") else [])]
    own = None if options.out is None else OwnFiles(options.out)
    if own is not None:
        own.check(names, overwrite=options.overwrite)
    report = measure(options.only, options.repeat)
    if own is not None:
        with own.writing(names, {}, overwrite=options.overwrite) as parts:
            parts[0].write_text(json.dumps(report, indent=1) + "\n", "utf-8")
            for part in parts[1:]:
                draw(report, part)


if __name__ == "__main__":
    main()
