"""The embedded model in bfloat16: what matters stays float32, so labels stay what they are."""

import jax
import numpy as np
import pytest

from corrclip_jax import embed_text, load, make_segment, with_fields
from corrclip_jax.datasets.scenes.generate import val_scene
from corrclip_jax.datasets.scenes.words import CLASSES

SCENES = (0, 2, 4, 5)


@pytest.mark.slow
def test_bfloat16_changes_at_most_one_label_in_a_hundred():
    config, params = load("tiny", region_network=None)
    config = with_fields(config, method={"max_regions": 16})
    text = embed_text(config, params, CLASSES)
    scenes = [val_scene(index) for index in SCENES]
    images, regions = (
        np.stack([getattr(scene, name) for scene in scenes]) for name in ("image", "instances")
    )
    labels = {}
    for dtype in ("float32", "bfloat16"):
        segment = jax.jit(make_segment(with_fields(config, dtype=dtype)))
        labels[dtype] = np.asarray(segment(params, images, text, regions=regions).labels)
    assert len(np.unique(labels["float32"])) > 3
    assert (labels["bfloat16"] != labels["float32"]).mean() <= 0.01
