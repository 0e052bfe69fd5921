# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     notebook_metadata_filter: jupytext,kernelspec,-jupytext.text_representation.jupytext_version
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Reproduce the paper
#
# This notebook scores published models on the benchmarks of the paper and puts the scores beside the published
# ones. **Nobody has run it on the published weights and data sets yet**: small trees and models with random weights
# are all that its test has.
#
# It needs a network, a GPU or TPU, and the data sets, which have licences of their own. "Reproduce the paper" in
# the documentation (docs/reproduce.md) has the commands that fetch them, the hours and the memory to expect, and
# the place for the results.
#
# 1. Install
# 2. Choose models, regions and benchmarks
# 3. Look which data sets are here
# 4. Download and convert the models
# 5. Score
# 6. Compare

# %% [markdown]
# ## 1. Install
#
# If the package is installed already, this cell does nothing.

# %%
import importlib.util
import subprocess
import sys
from pathlib import Path

# Where pip finds the package: "git+" and the address of the repository, a wheel, or a folder.
SOURCE = ""  # @param {type: "string"}

found = importlib.util.find_spec
if not found("corrclip_jax"):
    checkout = Path.cwd().parent
    is_checkout = (checkout / "corrclip_jax").is_dir() and (checkout / "pyproject.toml").is_file()
    source = SOURCE or (str(checkout) if is_checkout else "")
    if not source:
        raise RuntimeError('Write into SOURCE where pip finds the package: "git+https://..." or a wheel.')
    # JAX and its plugin for the machine's accelerator must have the same version.
    plugins = {"jax_cuda12_plugin": "jax[cuda12]", "jax_cuda13_plugin": "jax[cuda13]", "libtpu": "jax[tpu]"}
    jax_here = [name for plugin, name in plugins.items() if found(plugin)]
    wanted = [source, "matplotlib", *jax_here]
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", *wanted], check=True)

# %% [markdown]
# ## 2. Choose models, regions and benchmarks
#
# A run is a model, a source of regions, SAM's points per side (None for other sources), and a bank, which models
# of CorrCLIPv2 may have (its folder, or None). The first three have published scores; `vit-l` has them, too. A
# folder of region maps in place of a source, with a folder for each benchmark in it, gives the settings of
# CorrCLIPv2's scores, whose regions are EntitySeg's: `("v2-b", "entityseg", None, "coco-bank")`, where "Banks" in
# the documentation (docs/guides/banks.md) says how a published bank is imported.

# %%
RUNS = [
    ("vit-b", "sam2", 8, None),
    ("vit-b", "sam2", 32, None),
    ("vit-b", "eomt", None, None),
]
OTHERS = {}  # further CLIPs whose values the banks have, as {"dfn": "dfn-b16"} of the published scores
BENCHMARKS = [
    "voc21",
    "voc20",
    "context60",
    "context59",
    "coco_object",
    "coco_stuff",
    "ade20k",
    "cityscapes",
]
DATA = "data"  # @param {type: "string"}
SCORES = "scores"  # @param {type: "string"}
DTYPE = "float32"  # @param ["float32", "bfloat16"]
COUNT = None  # the first so many images of each benchmark; None for all, which published scores need

# %%
import jax

for device in jax.devices():
    print(device, "-", device.device_kind)

# %% [markdown]
# ## 3. Look which data sets are here
#
# What is missing is shown with the layout that it should have. The cells below do without it.

# %%
from corrclip_jax.datasets.benchmarks import open_benchmark
from corrclip_jax.datasets.dataset import DatasetError

here = []
for benchmark in BENCHMARKS:
    try:
        print(f"{benchmark}: {open_benchmark(benchmark, DATA).about}")
        here.append(benchmark)
    except DatasetError as error:
        print(error, end="\n\n")

# %% [markdown]
# ## 4. Download and convert the models
#
# Sizes and licences are shown before anything is fetched; what is here already is not fetched again.

# %%
from corrclip_jax.hub.presets import PRESETS, prepare
from corrclip_jax.regions.sources import network_to_load

for model, regions in dict.fromkeys((model, regions) for model, regions, *_ in RUNS):
    if model in PRESETS:
        print(prepare(model, None if Path(regions).is_dir() else network_to_load(regions)))

# %% [markdown]
# ## 5. Score
#
# Every evaluation writes its counts to disk. Interrupt the kernel or restart it at any moment: the same cell
# continues where it stopped, and finished evaluations take seconds.

# %%
from corrclip_jax import evaluate


def name_of(benchmark, model, regions, points, bank):
    """The name of an evaluation and of its folder."""
    parts = [benchmark, model, Path(regions).name, points, bank and f"bank-{Path(bank).name}"]
    return "-".join(map(str, filter(None, parts)))


def show(run):
    """One line that is written anew."""
    print(f"\r{run.done} of {run.total} images", end="", flush=True)


for model, regions, points, bank in RUNS:
    for benchmark in here:
        name = name_of(benchmark, model, regions, points, bank)
        maps = Path(regions, benchmark) if Path(regions).is_dir() else regions
        result = evaluate(
            benchmark,
            data_root=DATA,
            model=model,
            regions=maps,
            points=points,
            bank=bank,
            others=OTHERS if bank else None,
            dtype=DTYPE,
            count=COUNT,
            out=Path(SCORES, name),
            progress=show,
        )
        print(f"\r{name}: mIoU {100 * result.mean_iou:.1f}")
        for reason in result.unreadable.values():
            print("  left out:", reason)

# %% [markdown]
# ## 6. Compare
#
# The table is read from the reports in `SCORES`, so that it also holds what earlier sessions scored. A score counts
# only if it is that of the whole split.

# %%
import json

from IPython.display import Markdown, display

from corrclip_jax.datasets.benchmarks import benchmarks


def row(path):
    """A line of the table from a report."""
    report = json.loads(path.read_text("utf-8"))
    ours, published = report["mean_iou"], report["published_mean_iou"]
    split = benchmarks()[report["dataset"]].layout.count
    whole = not report["unreadable"] and split in (None, report["pictures"])
    cells = [
        path.parent.name,
        "-" if ours is None else f"{100 * ours:.1f}",
        "-" if published is None else f"{100 * published:.1f}",
        "-" if None in (ours, published) else f"{100 * (ours - published):+.1f}",
        f"{report['pictures']}" + ("" if whole else f" of {split}: no benchmark score"),
        f"{report['seconds'] / 3600:.2f}",
    ]
    return f"| {' | '.join(cells)} |"


head = ["| evaluation | ours | published | difference | images | hours |", "|---|---|---|---|---|---|"]
table = "\n".join([*head, *map(row, sorted(Path(SCORES).glob("*/report.json")))])
Path(SCORES).mkdir(exist_ok=True)
Path(SCORES, "table.md").write_text(f"{table}\n", "utf-8")
print(table)
display(Markdown(table))

# %% [markdown]
# ## Next
#
# - docs/reproduce.md says where such a table goes. The folders in `SCORES` hold the versions, the hardware and the
#   SHA-256 of the weights of each score.
# - Where a score differs by more than a few tenths, `report.html` in its folder shows the classes and the worst
#   images.
