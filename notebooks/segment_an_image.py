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
# # Segment an image
#
# Give an image and any list of class names: every pixel gets the name that fits best. Nothing is trained for
# your names.
#
# This notebook runs on a CPU, a GPU or a TPU, with one device or several.
#
# 1. Install
# 2. A first image, which the package draws itself
# 3. The same as one pure function, for a batch of images and all your devices
# 4. Your own photo

# %% [markdown]
# ## 1. Install
#
# If the package is installed already, this cell does nothing. In Colab, first choose the machine (*Runtime >
# Change runtime type*); if Colab asks for a restart after the installation, restart and continue.

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
# JAX runs the same program on all of them. These are the devices that it found:

# %%
import jax

for device in jax.devices():
    print(device, "-", device.device_kind)

# %% [markdown]
# ## 2. A first image
#
# A model is a configuration and a tree of parameters. `tiny` comes with the package: small networks trained on
# scenes that the package draws itself. It needs no download, but knows nothing else; for photos use a published
# model, as in section 4.

# %%
import corrclip_jax as cc

DTYPE = "float32"  # @param ["float32", "bfloat16"]

config, params = cc.load("tiny", dtype=DTYPE)
print(f"{sum(leaf.size for leaf in jax.tree.leaves(params)):,} parameters:", ", ".join(params))

# %% [markdown]
# The scenes show shapes of many colours and materials on eight backgrounds, and have exact labels. Another number
# gives another scene.

# %%
from IPython.display import display
from PIL import Image

from corrclip_jax.datasets.scenes import generate, words

SCENE = 53  # @param {type: "slider", min: 0, max: 199}
scene = generate.val_scene(SCENE)
display(Image.fromarray(scene.image).resize((336, 336)))

# %% [markdown]
# `Segmenter` takes images of any size and class names; a list among the names holds synonyms of one
# class. The first call compiles a program for this size; the second one shows its real speed.

# %%
CLASSES = [list(names) for names in words.CLASSES]
print(CLASSES)

segmenter = cc.Segmenter((config, params))
for _ in range(2):
    result = segmenter(scene.image, CLASSES)
    print(f"{result.seconds:.2f} s", "and a compilation" if result.compiled else "")
display(result.overlay())

# %% [markdown]
# Any names will do. Ask for colours instead of shapes: nothing is trained or compiled again.

# %%
COLOURS = [[f"{name} shape" for name in names] for names in words.COLOURS.values()]
by_colour = segmenter(scene.image, [*COLOURS, *words.BACKGROUNDS.values()])
print("compiled again" if by_colour.compiled else "not compiled again")
display(by_colour.overlay())

# %% [markdown]
# A result holds NumPy arrays of the image's own size: `labels`, `scores`, `regions`. `shares` is the share of the
# pixels of each class, `mask` the pixels of one class.

# %%
print(result.labels.shape, result.labels.dtype)
for name, share in result.shares.items():
    print(f"{name:10} {share:6.1%}  {result.mask(name).sum():6,} pixels")

# %% [markdown]
# ## 3. The same as one pure function
#
# Programs call the method itself: `segment(params, images, text_emb)`. All of it, SAM, DINO and CLIP, is one
# pure function for `jax.jit`. The class names are passed as embeddings, one vector per name, computed once.

# %%
text_emb = cc.embed_text(config, params, CLASSES)
segment = cc.make_segment(config)
print(text_emb.features.shape, "vectors of", text_emb.num_classes, "classes")

# %% [markdown]
# With several devices, each takes its share of the batch. Three pieces of JAX describe this:
#
# - a `Mesh` names an axis of devices, here `"batch"`;
# - a `NamedSharding` puts each device's share of the images, and a copy of the parameters, into its memory;
# - `jax.shard_map` runs the whole function on each share. Images are independent, so devices do not communicate.
#
# With one device, this is the ordinary function. `make_segment(config, mesh=mesh)` does the same in one call.

# %%
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

mesh = Mesh(np.array(jax.devices()), ("batch",))
split, copied = PartitionSpec("batch"), PartitionSpec()

# check_vma=False: loops inside begin with constants, which JAX would want marked as different on each device.
specs = {"in_specs": (copied, split, copied), "out_specs": split, "check_vma": False}
segment_batch = jax.jit(jax.shard_map(segment, mesh=mesh, **specs))

# %% [markdown]
# A batch is `uint8 [B, H, W, 3]`, images of one size; B must be divisible by the number of devices.

# %%
PICTURES_PER_DEVICE = 2  # @param {type: "integer"}

count = PICTURES_PER_DEVICE * mesh.size
drawn = [generate.draw(np.random.default_rng((2026, seed)), (168, 168)) for seed in range(count)]

images = jax.device_put(np.stack([scene.image for scene in drawn]), NamedSharding(mesh, split))
weights, queries = jax.device_put((params, text_emb), NamedSharding(mesh, copied))
for shard in images.addressable_shards:
    print(shard.device, "holds pictures", shard.data.shape)

# %% [markdown]
# JAX computes asynchronously, so a measurement of time must wait with `block_until_ready`. The first run compiles.

# %%
import time

for run in ("with compilation", "compiled"):
    start = time.perf_counter()
    batch = jax.block_until_ready(segment_batch(weights, images, queries))
    seconds = time.perf_counter() - start
    print(f"{run}: {seconds:.2f} s, {seconds / count:.3f} s a picture on {mesh.size} device(s)")

# %% [markdown]
# Generated scenes have exact labels, so we can count the correct pixels.

# %%
import matplotlib.pyplot as plt

from corrclip_jax.viz.palette import palette

colours = palette(len(CLASSES))
figure, axes = plt.subplots(3, min(count, 4), figsize=(11, 8), layout="constrained", squeeze=False)
for column, scene, labels in zip(axes.T, drawn, np.asarray(batch.labels), strict=False):
    right = (labels == scene.labels).mean()
    titles = ("picture", f"found: {right:.0%} right", "truth")
    shown = (scene.image, colours[labels], colours[scene.labels])
    for axis, title, picture in zip(column, titles, shown, strict=True):
        axis.imshow(picture)
        axis.set_title(title)
        axis.axis("off")
plt.show()

# %% [markdown]
# ## 4. Your own photo
#
# For photos use a published model. `vit-b` is MetaCLIP's ViT-B/16 with DINO's ViT-B/8 and SAM 2's Hiera-L. A model
# is downloaded and converted once. These are all, with the sizes of their downloads and the licences of their
# weights:

# %%
from corrclip_jax.hub.presets import available_models

for model in available_models():
    licences = ", ".join(dict.fromkeys(model.licences.values()))
    print(f"{model.name:8} {model.megabytes:6,.0f} MB  {licences}")

# %% [markdown]
# `PHOTO` is a URL or a file; in Colab, drop a photo into the *Files* pane on the left and write its name
# here. (The one below is Rachel Michetti's, CC0.) Commas separate classes and `;` separates synonyms. Name also
# what surrounds the things that you look for: every pixel gets one of your names.

# %%
import io
import urllib.request

from corrclip_jax.text.classes import parse_classes

PHOTO_MODEL = "vit-b"  # @param {type: "string"}
PHOTO = (
    "https://raw.githubusercontent.com/scikit-image/scikit-image/v0.25.2/skimage/data/coffee.png"  # @param
)
PHOTO_CLASSES = "coffee; espresso, cup, saucer; plate, spoon, wooden table"  # @param


def read(place: str) -> Image.Image:
    """The picture at an address or in a file."""
    if place.startswith("http"):
        with urllib.request.urlopen(place, timeout=60) as answer:
            return Image.open(io.BytesIO(answer.read()))
    return Image.open(place)


# %% [markdown]
# If the photo or the model cannot be downloaded, the notebook says so and continues with the embedded model and a
# scene of things whose pairs of colour and shape are in no training scene.

# %%
try:
    photo, classes = read(PHOTO), parse_classes(PHOTO_CLASSES)
    photo_segmenter = cc.Segmenter(cc.load(PHOTO_MODEL, dtype=DTYPE))
except OSError as error:  # no network, or no such file
    print(f"{error}\nGoing on with a generated scene.")
    photo, classes = Image.fromarray(generate.unseen_scene(0).image), CLASSES
    photo_segmenter = segmenter

# %% [markdown]
# Another size may need another program; then the first call compiles again.

# %%
for _ in range(2):
    mine = photo_segmenter(photo, classes)
    print(f"{mine.seconds:.2f} s", "and a compilation" if mine.compiled else "")
display(mine.overlay())

# %% [markdown]
# `save` writes the labels (a PNG whose pixels are the class indices), the overlay and a description in JSON. On
# the command line, `corrclip segment photo.jpg --classes "coffee, cup, spoon"` does the same.

# %%
out = Path("segmented")
out.mkdir(exist_ok=True)
for path in mine.save(out, "my_photo"):
    print(path)

# %% [markdown]
# ## Next
#
# - The notebook `inside_correlations` shows every stage of the method and what it contributes.
# - METHOD.md says what is computed; the guides in docs/ show more settings.
