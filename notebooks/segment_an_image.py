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
# You give a photo and any list of class names; every pixel gets the name that fits best. Nothing is trained for
# your names.
#
# This notebook runs anywhere: on a CPU, a GPU or a TPU, with one device or many.
#
# 1. [Install](#install)
# 2. [A first picture](#first), which the package draws itself
# 3. [The same as one pure function](#function), for a batch of pictures and all your devices
# 4. [Your own photo](#photo)

# %% [markdown]
# <a id="install"></a>
# ## 1. Install
#
# Where the package is here already, this cell does nothing. In Colab, first choose the machine (*Runtime >
# Change runtime type*); if Colab asks for a restart after the installation, restart and go on.

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
# JAX runs the same program on whatever there is. These are the devices that it found:

# %%
import jax

for device in jax.devices():
    print(device, "-", device.device_kind)

# %% [markdown]
# <a id="first"></a>
# ## 2. A first picture
#
# A model is a configuration and a tree of parameters. `tiny` comes with the package: small towers trained on
# pictures that the package draws itself. It needs no network and runs anywhere, but knows nothing else; a photo
# wants a real model, as in section 4.

# %%
import corrclip_jax as cc

DTYPE = "float32"  # @param ["float32", "bfloat16"]

config, params = cc.load("tiny", dtype=DTYPE)
print(f"{sum(leaf.size for leaf in jax.tree.leaves(params)):,} parameters:", ", ".join(params))

# %% [markdown]
# The scenes have exact labels: shapes of many colours and materials on eight
# backgrounds. Take another number for another one.

# %%
from IPython.display import display
from PIL import Image

from corrclip_jax.datasets.scenes import generate, words

SCENE = 53  # @param {type: "slider", min: 0, max: 199}
scene = generate.val_scene(SCENE)
display(Image.fromarray(scene.image).resize((336, 336)))

# %% [markdown]
# `Segmenter` takes pictures of any size and names in plain words; a list among the names holds synonyms of one
# class. The first call compiles the program for this size of picture; the second one shows its real speed.

# %%
CLASSES = [list(names) for names in words.CLASSES]
print(CLASSES)

segmenter = cc.Segmenter((config, params))
for _ in range(2):
    result = segmenter(scene.image, CLASSES)
    print(f"{result.seconds:.2f} s", "with compilation" if result.compiled else "")
display(result.overlay())

# %% [markdown]
# The names are yours. Ask for colours instead of shapes: nothing is trained or compiled again.

# %%
COLOURS = [[f"{name} shape" for name in names] for names in words.COLOURS.values()]
by_colour = segmenter(scene.image, [*COLOURS, *words.BACKGROUNDS.values()])
print("compiled again" if by_colour.compiled else "not compiled again")
display(by_colour.overlay())

# %% [markdown]
# A result holds NumPy arrays of the picture's own size: `labels`, `scores`, `regions`. `shares` sums the labels
# up, `mask` cuts one class out.

# %%
print(result.labels.shape, result.labels.dtype)
for name, share in result.shares.items():
    print(f"{name:10} {share:6.1%}  {result.mask(name).sum():6,} pixels")

# %% [markdown]
# <a id="function"></a>
# ## 3. The same as one pure function
#
# Programs call the method itself: `segment(params, images, text_emb)`. All of it, SAM, DINO and CLIP, is one
# pure function for `jax.jit`. The class names come in as vectors, one a name, computed once.

# %%
text_emb = cc.embed_text(config, params, CLASSES)
segment = cc.make_segment(config)
print(text_emb.features.shape, "vectors of", text_emb.num_classes, "classes")

# %% [markdown]
# With several devices, each takes its share of the batch. Three pieces of JAX say so:
#
# - a `Mesh` gives the row of devices a name, here `"batch"`;
# - a `NamedSharding` puts each device's share of the pictures, and a copy of the parameters, into its memory;
# - `jax.shard_map` runs the whole function on each share. Pictures do not need each other, so nothing travels
#   between devices meanwhile.
#
# With one device, this is the ordinary function.

# %%
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

mesh = Mesh(np.array(jax.devices()), ("batch",))
split, copied = PartitionSpec("batch"), PartitionSpec()

# check_vma=False: loops inside begin with constants, which JAX would want marked as different on each device.
specs = {"in_specs": (copied, split, copied), "out_specs": split, "check_vma": False}
segment_batch = jax.jit(jax.shard_map(segment, mesh=mesh, **specs))

# %% [markdown]
# A batch is `uint8 [B, H, W, 3]`, pictures of one size, and must divide evenly among the devices.

# %%
PICTURES_PER_DEVICE = 2  # @param {type: "integer"}

count = PICTURES_PER_DEVICE * mesh.size
drawn = [generate.draw(np.random.default_rng((2026, seed)), (168, 168)) for seed in range(count)]

images = jax.device_put(np.stack([scene.image for scene in drawn]), NamedSharding(mesh, split))
weights, queries = jax.device_put((params, text_emb), NamedSharding(mesh, copied))
for shard in images.addressable_shards:
    print(shard.device, "holds pictures", shard.data.shape)

# %% [markdown]
# JAX hands out a promise and computes in the background, so whoever measures time waits with
# `block_until_ready`. The first run compiles.

# %%
import time

for run in ("with compilation", "compiled"):
    start = time.perf_counter()
    batch = jax.block_until_ready(segment_batch(weights, images, queries))
    seconds = time.perf_counter() - start
    print(f"{run}: {seconds:.2f} s, {seconds / count:.3f} s a picture on {mesh.size} device(s)")

# %% [markdown]
# Generated scenes come with exact labels, so we can count the pixels that are right.

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
# <a id="photo"></a>
# ## 4. Your own photo
#
# Photos want a model that has seen the world. `vit-b` is MetaCLIP's ViT-B/16 with DINO's ViT-B/8 and SAM 2's
# Hiera-L: some 2 GB that are downloaded and converted once (`vit-l` and `vit-h` have larger CLIPs). The weights
# have licences of their own, which are printed then; MetaCLIP's allows no commercial use.
#
# `PHOTO` is an address or a file; in Colab, drop a photo into the *Files* pane on the left and write its name
# here. (The one below is Rachel Michetti's, CC0.) Commas separate classes and `;` separates synonyms. Name also
# what lies around the things that you look for: every pixel gets one of your names.

# %%
import io
import urllib.request

from corrclip_jax.text.classes import parse_classes

PHOTO_MODEL = "vit-b"  # @param ["vit-b", "vit-l", "vit-h"] {allow-input: true}
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
# Where the photo or the model cannot be had, the notebook says so and goes on with the tiny model and a scene of
# things whose colours and shapes never came together in its training.

# %%
try:
    photo, classes = read(PHOTO), parse_classes(PHOTO_CLASSES)
    photo_segmenter = cc.Segmenter(cc.load(PHOTO_MODEL, dtype=DTYPE))
except OSError as error:  # no network, or no such file
    print(f"{error}\nGoing on with a generated scene.")
    photo, classes = Image.fromarray(generate.unseen_scene(0).image), CLASSES
    photo_segmenter = segmenter

# %% [markdown]
# A photo of another size is another program, so the first call compiles again.

# %%
for _ in range(2):
    mine = photo_segmenter(photo, classes)
    print(f"{mine.seconds:.2f} s", "with compilation" if mine.compiled else "")
display(mine.overlay())

# %% [markdown]
# `save` writes the labels (a PNG whose pixels are the class numbers), the overlay and a description in JSON. On
# a command line, `corrclip segment photo.jpg --classes "coffee, cup, spoon"` does the same.

# %%
out = Path("segmented")
out.mkdir(exist_ok=True)
for path in mine.save(out, "my_photo"):
    print(path)

# %% [markdown]
# ## Go on
#
# - `inside_correlations` opens the method and shows what each part does.
# - METHOD.md says exactly what is computed, README.md what can be set.
