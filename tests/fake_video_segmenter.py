"""A stand-in for `Segmenter` that labels frames of videos by brightness, for tests of what happens to files."""

import numpy as np
from fake_segmenter import FakeSegmenter

from corrclip_jax.inference.frame_source import FrameSource
from corrclip_jax.inference.segmentation import Segmentation


class FakeVideoSegmenter(FakeSegmenter):
    """Labels pixels with much red 1 and the others 0; `frames` counts them."""

    def __init__(self, model="fake", **options):
        self.frames = 0

    def stream(self, photos, classes, *, track=False, **more):
        with FrameSource(photos) as source:
            while taken := source.take(2):
                for number, pixels in taken:
                    labels = (pixels[..., 0] > 127).astype(np.int32)
                    scores = np.zeros(labels.shape, np.float32)
                    self.frames += 1
                    names = tuple(tuple(one) for one in classes)
                    yield number, Segmentation(pixels, labels, scores, labels, names, 0.1, False)
