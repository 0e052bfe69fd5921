"""A stand-in for `Segmenter` that labels by brightness, for tests of what happens to files."""

import sys
import time

import numpy as np

from corrclip_jax.config import Config
from corrclip_jax.inference.photo_reading import or_error
from corrclip_jax.inference.segmentation import Segmentation
from corrclip_jax.inference.segmenter import Segmenter
from corrclip_jax.io.photos import read_photo


class FakeSegmenter(Segmenter):
    """Labels bright pixels 1 and the others 0; prints the photos that it labels, and pauses after each."""

    config = Config(name="fake")
    pause = 0.0

    def __init__(self, model, **options):
        pass

    def embed(self, classes):
        pass

    def stream(self, photos, classes, *, regions, on_start):
        for index, photo in enumerate(photos):
            pixels = or_error(read_photo)(photo)
            on_start([index], False)
            if isinstance(pixels, Exception):
                yield index, pixels
                continue
            labels = (pixels[..., 0] > 127).astype(np.int32)
            scores = np.zeros(labels.shape, np.float32)
            yield index, Segmentation(pixels, labels, scores, labels, tuple(map(tuple, classes)), 0.1, False)
            print("did", repr(str(photo)), file=sys.stderr, flush=True)
            time.sleep(self.pause)
