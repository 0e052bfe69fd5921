"""The method in plain PyTorch: one image, one window, one region at a time, on transformers' models.

Written from the description of the method alone and kept apart from the package, so that comparing the two
compares two readings of it. Nothing here is fast or meant to be.
"""

import torch

from reference.image import Settings, label_map, normalised, segment, stitched_logits, window_starts
from reference.models import clip_from_open_clip, dino_from_original, random_clip, random_dino
from reference.towers import dino_features
from reference.window import window_features

__all__ = [
    "Settings",
    "clip_from_open_clip",
    "dino_features",
    "dino_from_original",
    "label_map",
    "normalised",
    "random_clip",
    "random_dino",
    "segment",
    "stitched_logits",
    "window_features",
    "window_starts",
]

# torch's threads wait for each other in busy loops; beside XLA's threads, or another program's, small models
# become twenty times slower with two of them than with one.
torch.set_num_threads(1)
