"""The published networks once, with random weights, on a real photograph: ViT-B/16, DINO B/8 and SAM 2-T.

Compiled as users have it, with all of LLVM's passes. The inputs are as small as takes the ways of large ones.
"""

from functools import partial

import jax
import numpy as np
import pytest
import reference
import torch
from near_ties import near_ties
from parity.pairs import CLIPSize, DINOSize, assert_close, make_clip, make_pair
from parity.region_maps import holes
from reference.image import photo_resize
from reference.sam2 import random_sam2
from skimage.data import astronaut

from corrclip_jax.config import SAM2Config
from corrclip_jax.conversion.families import convert_state_dict
from corrclip_jax.method.branches import window_step
from corrclip_jax.models.clip.model import CLIP
from corrclip_jax.models.sam.sam2 import SAM2, preprocess
from corrclip_jax.regions.masks import point_grid

pytestmark = [pytest.mark.slow, pytest.mark.optimized]

VIT_B16 = CLIPSize(layers=12, head_width=64, heads=12, patch_size=16, embed_dim=512)
TEXT_B16 = CLIPSize(embed_dim=512, text_layers=12, text_heads=8, text_width=512, vocabulary=49408)
DINO_B8 = DINOSize(layers=12, width=768, heads=12, patch_size=8)
WINDOW = (224, 336)
# tests/goldens/test_sam2.py has 1024 x 1024 pixels, where attention over the map goes in blocks of rows.
SAM2_T = SAM2Config(
    image_size=512, width=96, heads=1, stages=(1, 2, 7, 2), global_blocks=(5, 7, 9), window_sizes=(8, 4, 14, 7)
)  # fmt: skip


def test_window_of_a_photo():
    pair = make_pair(VIT_B16, DINO_B8, None)
    # More than 256 tokens in both towers, so the heads' attentions are computed one by one.
    pixels = reference.normalised(photo_resize(torch.from_numpy(astronaut()), *WINDOW))
    regions = holes(*WINDOW)
    theirs = reference.window_features(pair.clip, pair.dino, pixels, torch.from_numpy(regions))
    config, params = pair.config, pair.params
    del pair  # 0.7 GB of torch's weights
    step = partial(jax.jit(window_step, static_argnums=(0, 4)), config)
    images, maps = pixels.permute(1, 2, 0).numpy()[None], np.int32(regions[None])
    ours = jax.tree.map(np.asarray, step(params, images, maps, len(np.unique(regions))))

    cells = theirs["merged"].numel()
    dino = theirs["dino_features"].reshape(cells, -1)
    assert_close("DINO features", ours.similarity_features.reshape(cells, -1), dino, 2e-4)
    ties = near_ties(theirs["similarity"], theirs["merged"].flatten().numpy())
    assert ties.mean() < 0.05
    features = theirs["features"].reshape(cells, -1)
    assert_close("features", ours.features[0, ~ties], features[~ties], 2e-4)
    assert_close("features where similarities tie", ours.features[0], features, 1e-2)


def test_text():
    clip, config, params = make_clip(TEXT_B16, None)
    end = TEXT_B16.vocabulary - 1
    tokens = np.random.default_rng(0).integers(0, end, (3, 77))
    tokens[[0, 1, 2], [5, 20, 76]] = end
    encode = jax.jit(partial(CLIP(config).apply, method="encode_text"))
    ours = encode({"params": params}, tokens)
    wanted = clip.get_text_features(torch.from_numpy(tokens)).pooler_output
    assert_close("text embeddings", ours, wanted)


def test_sam2_on_a_photo():
    model = random_sam2(SAM2_T)
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    params = {"params": jax.device_put(convert_state_dict("sam2", state, SAM2_T))}
    points = np.asarray(point_grid(4, SAM2_T.image_size))[:, None]
    labels = np.ones((len(points), 1), np.int32)

    @jax.jit
    def run(params, photos, points, labels):
        image, apply = preprocess(photos, SAM2_T.image_size), SAM2(SAM2_T).apply
        features = apply(params, image, method="encode")
        first = jax.tree.map(lambda x: x[0], features)
        return image, features, apply(params, first, points, labels, method="decode")

    image, features, (logits, iou) = run(params, astronaut()[None], points, labels)
    with torch.inference_mode():
        maps = model.get_image_embeddings(torch.tensor(np.asarray(image)).permute(0, 3, 1, 2))
        wanted = model(
            image_embeddings=maps,
            input_points=torch.tensor(points)[None],
            input_labels=torch.tensor(labels)[None].long(),
            multimask_output=False,
        )
    for name, theirs in zip(("high0", "high1", "embed"), maps, strict=True):
        assert_close(name, getattr(features, name), theirs.permute(0, 2, 3, 1))
    assert_close("mask logits", logits, wanted.pred_masks[0])
    assert_close("predicted IoU", iou, wanted.iou_scores[0])
