"""Labelled images: the paper's benchmarks, folders of one's own, generated scenes. No JAX.

May import `io`, `viz`, `text.classes` and `text.templates`. Begin with `dataset.py`.
"""
