"""Bank builds without networks: as a program of its own, builds that are killed again and again, or shared by two.

python bank_process.py killed IMAGES OUT TIMES        a build that is killed TIMES times, and then finished
python bank_process.py two IMAGES OUT PORT            a build by two processes, joined by a coordinator at PORT
"""

import os
import random
import signal
import sys
import time
from pathlib import Path

import jax
import numpy as np

from corrclip_jax.bank.folder import Network
from corrclip_jax.bank.unfinished import FOLDER, Entries
from corrclip_jax.inference import bank_build
from corrclip_jax.inference.buckets import Batch, Bucket
from corrclip_jax.io.photos import PhotoError, read_photo

WIDTH, VALUE = 6, 4


class FakeExtractor:
    """Entries from a few pixels: of an image as many as its first pixel says, with numbers from its content."""

    def __init__(self, name="fake", seconds=0.0):
        self.backbone, self.clips = Network(name, WIDTH, "abc"), {"main": Network("clip", VALUE)}
        self.settings = {"short": 448}
        self.seconds, self.seen = seconds, []

    def plan(self, sizes):
        return [
            Batch(Bucket(64, 64, 1), tuple(range(first, min(first + 2, len(sizes)))), 2)
            for first in range(0, len(sizes), 2)
        ]

    def __call__(self, batches, photos, sizes):
        for number, batch in enumerate(batches):
            time.sleep(self.seconds)
            yield number, {index: self.entries(photos[index]) for index in batch.indices}

    def entries(self, path):
        self.seen.append(path.name)
        try:
            photo = read_photo(path)
        except PhotoError as error:
            return str(error)
        count = int(photo[0, 0, 0])
        rng = np.random.default_rng(photo.ravel().tolist())
        draw = lambda width: rng.standard_normal((count, width)).astype(np.float16)  # noqa: E731
        ids = np.arange(1, count + 1, dtype=np.int32)
        return Entries(draw(WIDTH), {"main": draw(VALUE)}, ids, np.zeros((count, 4), np.int32))


def fork(task):
    """A process that does this and nothing else."""
    process = os.fork()
    if not process:
        code = 1
        try:
            task()
            code = 0
        finally:
            os._exit(code)
    return process


def finish(process):
    assert os.waitpid(process, 0)[1] == 0


def killed(images, out, times):
    """Half of the kills come while entries are computed, the others while they are written to the bank."""
    draw = random.Random(0)
    build = lambda: bank_build.build([images], out, FakeExtractor(seconds=0.02))  # noqa: E731
    while_computing = while_writing = 0
    for number in range(times):
        process = fork(build)
        if number < times / 2:
            time.sleep(draw.uniform(0, 0.15))
        else:
            while not all_parts(out):
                time.sleep(0.0005)
            time.sleep(draw.uniform(0, 0.01))
        while_computing += not all_parts(out)
        while_writing += all_parts(out) and not (out / "bank.json").is_file()
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
    finish(fork(build))
    print(while_computing, while_writing)


def all_parts(out):
    return (out / "bank.json").is_file() or len(list((out / FOLDER).glob("part-*"))) >= PARTS


def two(images, out, port):
    def build(number):
        jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=number)
        extractor = FakeExtractor()
        bank_build.build([images], out, extractor)
        assert 0 < len(extractor.seen) < len(list(images.iterdir()))

    for process in [fork(lambda number=number: build(number)) for number in range(2)]:
        finish(process)


PARTS = 19  # of the 38 images that can be opened
if __name__ == "__main__":
    bank_build._PART = 2
    task = {"killed": killed, "two": two}[sys.argv[1]]
    task(Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]))
