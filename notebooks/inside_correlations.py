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
# # Inside the correlations
#
# CLIP was trained on whole images and their captions. Its patch features describe the image rather than the patch:
# in the last block, a patch attends to unrelated patches. CorrCLIP keeps CLIP's weights and replaces **the
# correlations between patches**:
#
# - SAM gives the *scope*: which patches may attend to each other at all.
# - DINO gives the *value*: how much they attend to each other.
#
# This notebook follows one image through the method, one stage per cell, and then switches the parts on one by
# one. METHOD.md has the same stages with all their numbers.

# %% [markdown]
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
# ## The image
#
# The package draws scenes with exact ground truth. Another number gives another scene.
#
# The model is `tiny`, which comes with the package: small networks trained on such scenes. With `vit-b` (about
# 1.8 GB, downloaded and converted once) and a photo, the same cells show the published networks.

# %%
import jax
import matplotlib.pyplot as plt
import numpy as np

import corrclip_jax as cc
from corrclip_jax.datasets.scenes import generate, words
from corrclip_jax.viz.palette import palette

MODEL = "tiny"  # or "vit-b", another name of `corrclip models` without "v2-", a folder
SCENE = 32  # @param {type: "slider", min: 0, max: 199}

config, params = cc.load(MODEL)
scene = generate.val_scene(SCENE)
names = [synonyms[0] for synonyms in words.CLASSES]
class_colours, region_colours = palette(len(names)), np.vstack([[[40, 40, 40]], palette(300)])

# %% [markdown]
# Two helpers for drawing: images side by side, and label maps next to the ground truth.


# %%
def show(pictures, mark=None, classes=()):
    """Pictures by title; `mark` frames a patch (row, column); `classes` make the legend."""
    rows = -(-len(pictures) // 5)
    columns = -(-len(pictures) // rows)
    side = min(3.4, 11 / columns)
    shape = (columns * side, rows * (side + 0.3))
    figure, axes = plt.subplots(rows, columns, figsize=shape, layout="constrained", squeeze=False)
    for axis, (title, picture) in zip(axes.flat, pictures.items(), strict=False):
        limits = {"vmin": 0, "vmax": 1} if picture.dtype == bool else {}
        axis.imshow(picture, **limits)
        axis.set_title(title)
        if mark:
            patch = np.shape(picture)[0] / grid[0]
            corner = (mark[1] * patch - 0.5, mark[0] * patch - 0.5)
            for colour, width in (("black", 4), ("white", 2)):
                axis.add_patch(plt.Rectangle(corner, patch, patch, fill=False, color=colour, linewidth=width))
    for axis in axes.flat:
        axis.axis("off")
    swatches = [plt.Rectangle((0, 0), 1, 1, color=class_colours[index] / 255) for index in classes]
    if swatches:
        figure.legend(swatches, [names[index] for index in classes], loc="outside lower center", ncols=9)
    plt.show()


def show_labels(maps, truth):
    """Label maps by title, with the share of the pixels that are right."""
    rated = {f"{title}: {(found == truth).mean():.0%}": found for title, found in maps.items()}
    rated["truth"] = truth
    pictures = {title: class_colours[labels] for title, labels in rated.items()}
    show(pictures, classes=np.unique(list(rated.values())))


things = region_colours[scene.instances]
show({"the picture": scene.image, "its things": things, "its classes": class_colours[scene.labels]})

# %% [markdown]
# ## Windows
#
# CLIP and DINO see square windows. The image is resized and cut into windows that may overlap; where they do, their
# logits are averaged. We follow one patch: choose a pixel of the scene, and see in which window and patch it lies.

# %%
from corrclip_jax.method import windows
from corrclip_jax.method.similarity import similarity_grid
from corrclip_jax.ops import resize

PIXEL = (138, 94)  # row, column

plan = windows.plan_windows(*scene.image.shape[:2], config.method)
grid = similarity_grid(config, (plan.y.padded, plan.x.padded))
picture = np.array(resize.photo(scene.image, plan.y.resized, plan.x.resized))
pixel = np.array(PIXEL) * picture.shape[:2] // scene.image.shape[:2]

corners = np.array([(top, left) for top in plan.y.starts for left in plan.x.starts])
size = np.array([plan.y.window, plan.x.window])
window = int(np.abs(corners + size / 2 - pixel).max(axis=1).argmin())
(top, left), (row, column) = corners[window], (pixel - corners[window]) * grid // size
inside = (slice(top, top + size[0]), slice(left, left + size[1]))
cell = row * grid[1] + column

print(f"{len(corners)} windows of {size} pixels, each of {grid} patches")
lit = picture // 3
lit[inside] = picture[inside]
show({f"window {window}": lit})
show({f"patch {(int(row), int(column))} in the window": picture[inside]}, mark=(row, column))

# %% [markdown]
# ## SAM: where things end
#
# SAM 2 predicts a mask for every point of a grid. Uncertain and duplicate masks are dropped, the others are painted
# into one region map. It uses no class names. What no mask covers is unsegmented, drawn dark.
#
# A few more scenes are processed, too, for the numbers at the end.

# %%
from corrclip_jax.regions.sam_points import automatic_regions

indices = [SCENE, *(index for index in range(SCENE % 8, 200, 8) if index != SCENE)][:4]
drawn = [generate.val_scene(index) for index in indices]
images, truths = np.stack([one.image for one in drawn]), np.stack([one.labels for one in drawn])

regions = jax.jit(automatic_regions, static_argnums=0)(config, params["sam2"], images)
print("regions in each picture:", [np.count_nonzero(np.unique(one)) for one in regions])
show({"the picture": scene.image, "SAM's regions": region_colours[regions[0]], "its things": things})

# %% [markdown]
# ## One call for all windows
#
# `window_step` computes everything within windows and returns its stages. Each part of the method is a
# switch in `config.parts`, so `run(merging=False)` is the method without merging.

# %%
from corrclip_jax.method.branches import window_step

pixels = jax.vmap(lambda image: windows.cut_image(image, plan))(images)
ids = jax.vmap(lambda one: windows.cut_regions(one, plan))(regions)
pixels, ids = pixels.reshape(-1, *pixels.shape[2:]), ids.reshape(-1, *ids.shape[2:])
cap = int(regions.max()) + 2  # more than the ids in any window, of which padding may be one

step = jax.jit(window_step, static_argnums=(0, 4))


def run(**parts):
    """The stages of all windows, with some parts of the method switched."""
    return step(cc.with_fields(config, parts=parts), params, pixels, ids, cap)


stages = run()
for name, value in stages._asdict().items():
    print(f"{name:14} {value.shape}")

# %% [markdown]
# ## DINO: what belongs together
#
# DINO gives each patch a unit vector `F`. The similarity of two patches is their cosine, `S = F F^T`. Here is
# one row of `S`: how similar every patch is to ours (bright: similar). DINO was trained without labels.

# %%
features = stages.similarity_features[window].reshape(-1, config.dino.width)
similarity = np.asarray(features @ features.T)
show({"the window": picture[inside], "similarity": similarity[cell].reshape(grid)}, mark=(row, column))

# %% [markdown]
# Is DINO right? Over all pairs of patches in the window, pairs on one thing should be more similar than others.

# %%
instances = resize.nearest(scene.instances, *picture.shape[:2])[inside]
owner = np.asarray(resize.nearest(instances, *grid)).reshape(-1)
same = owner[:, None] == owner[None]

figure, axis = plt.subplots(figsize=(6, 3))
for pairs, title in ((same, "on one thing"), (~same, "on different things")):
    axis.hist(similarity[pairs], bins=60, range=(-1, 1), density=True, alpha=0.6, label=title)
axis.axvline(similarity.mean(), color="black", linestyle=":", label="mean of all pairs")
axis.set_xlabel("similarity")
axis.set_yticks([])
axis.legend()
plt.show()

# %% [markdown]
# ## Merging: SAM cuts too fine
#
# SAM may split a thing or a lawn into pieces, which then could not attend to each other. So regions whose mean DINO
# features are similar become one. One number decides: the distance up to which regions are linked.

# %%
from corrclip_jax.method.correlation import compact, merge_regions

pieces = compact(resize.nearest(ids[window], *grid), cap).reshape(-1)
distances = (config.method.merge_distance / 4, config.method.merge_distance, config.method.merge_distance * 4)
maps = {f"SAM's: {len(np.unique(pieces))}": pieces}
for distance in distances:
    joined = merge_regions(features, pieces, cap, distance)
    maps[f"distance {distance:.2g}: {len(np.unique(joined))}"] = joined
show({title: region_colours[one].reshape(*grid, 3) for title, one in maps.items()}, mark=(row, column))

# %% [markdown]
# ## Scope: which patches see each other
#
# A patch sees its own region. If one of two patches is unsegmented, they see each other if they are more similar
# than the mean of all pairs.

# %%
from corrclip_jax.method.correlation import scope_mask

scope = np.asarray(scope_mask(features, stages.regions[window].reshape(-1)))
own, rest = scope[cell].reshape(grid), np.asarray(stages.regions[window] == 0)
show({"the window": picture[inside], "the patch's scope": own, "the rest": rest}, mark=(row, column))

# %% [markdown]
# ## The weights
#
# `A = softmax(4 S)` over the scope: how much a patch takes from each other patch. Without the scope it would also
# take from similar patches of other things.

# %%
from corrclip_jax.method.correlation import attention_weights

everywhere = np.asarray(attention_weights(features, np.ones_like(scope), config.method.similarity_scale))
weights = np.asarray(stages.attention[window])
shown = {"A without scope": everywhere, "A": weights}
show({title: one[cell].reshape(grid) for title, one in shown.items()}, mark=(row, column))
for title, one in shown.items():
    kept = (one * same).sum(axis=1).mean()
    print(f"{title:16} {kept:.0%} of what a patch gathers comes from its own thing")

# %% [markdown]
# ## Three branches
#
# With `A`, every patch aggregates CLIP's features in three ways, which are summed:
#
# - *main*: the values of CLIP's last block;
# - *spatial*: the same for the mean of its middle blocks, which keep more spatial detail;
# - *semantic*: a class token for each region that sees this region only.
#
# Because they are summed, the difference that a branch makes is that branch.

# %%
main = run(spatial=False, semantic=False).features
main_and_spatial = run(semantic=False).features
branches = {
    "main": main,
    "spatial": main_and_spatial - main,
    "semantic": stages.features - main_and_spatial,
    "sum": stages.features,
}

# %% [markdown]
# Labels: each patch takes the class with the most similar text embedding. Windows are stitched and upsampled
# to the image's size; the next cell shows each branch alone, and their sum.

# %%
from functools import partial

from corrclip_jax.method.correlation import normalise
from corrclip_jax.method.segment import label_images
from corrclip_jax.method.sliding_windows import sliding_windows

text_emb = cc.embed_text(config, params, words.CLASSES)


@partial(jax.jit, static_argnames="correction")
def label(features, correction=False):
    """Features of all windows to labels of all pictures."""
    by_window = normalise(features).reshape(len(images), len(plan.y.starts), len(plan.x.starts), *grid, -1)
    switched = cc.with_fields(config, parts={"correction": correction})
    layout = sliding_windows(images.shape[1:3], None, switched)
    return label_images(switched, by_window, text_emb, regions, cap, layout).labels


show_labels({title: np.asarray(label(one))[0] for title, one in branches.items()}, scene.labels)

# %% [markdown]
# ## Map correction: outlines from SAM
#
# Patches are coarse, SAM's regions are not: every region takes the label that most of its pixels have.

# %%
before, after = (np.asarray(label(stages.features, correction=on)) for on in (False, True))
show_labels({"before": before[0], "after": after[0]}, scene.labels)

# %% [markdown]
# ## What each part changes
#
# With all parts off the method is plain CLIP. Switch them on one by one, each in addition to those before.

# %%
plain = dict.fromkeys(("scope", "value", "merging", "spatial", "semantic"), False)
on, results = {}, {"plain CLIP": np.asarray(label(run(**plain).features))}
for part in plain:
    on[part] = True
    results[f"+ {part}"] = np.asarray(label(run(**plain | on).features))
results["+ correction"] = after

show_labels({title: labels[0] for title, labels in results.items()}, scene.labels)

# %% [markdown]
# These are the means over our few scenes. Mean IoU gives all classes the same weight, so
# small things count as much as the background.


# %%
def mean_iou(found, truth):
    """The mean, over the classes in a picture, of intersection over union."""
    hits = [(found == index, truth == index) for index in np.unique(truth)]
    return np.mean([(a & b).sum() / (a | b).sum() for a, b in hits])


print(f"{'':14} mean IoU   pixels right")
for title, labels in results.items():
    ious = [mean_iou(*pair) for pair in zip(labels, truths, strict=True)]
    print(f"{title:14} {np.mean(ious):8.2f} {(labels == truths).mean():14.0%}")

# %% [markdown]
# On the command line, `corrclip evaluate scenes --ablation` measures this on the whole validation split.
#
# ## Next
#
# - Try another `SCENE` and another `PIXEL`: a patch of the background, one on an edge, one that is unsegmented.
# - Change a number of the method, say `cc.with_fields(config, method={"similarity_scale": 10.0})`, and run
#   again.
