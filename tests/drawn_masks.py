"""Masks that are hard to turn into polygons."""

import numpy as np


def drawn(text):
    """A mask from lines of "#" and "."."""
    return np.array([[letter == "#" for letter in line] for line in text.split()])


MASKS = {
    "nothing": np.zeros((3, 4), bool),
    "one pixel": drawn("... .#. ..."),
    "one pixel image": np.ones((1, 1), bool),
    "everything": np.ones((5, 7), bool),
    "every border": drawn("##### #...# #...# #####"),
    "a row": drawn("#######"),
    "diagonal contacts": drawn("#.#.# .#.#. #.#.#"),
    "diagonal ring": drawn(".##. #..# .##."),
    "holes that touch": drawn("##### #.### ##.## #####"),
    "a hole that touches the outside": drawn("### #.# ##. "),
    "holes in holes": drawn("####### #.....# #.###.# #.#.#.# #.###.# #.....# #######"),
    "holes of one column": drawn("####### #.#.#.# #######"),
    "noise": np.random.default_rng(0).random((23, 31)) < 0.55,
    "blobs": np.add(*np.sin(np.mgrid[:60, :80] / 7.0)) > 0.3,
}
