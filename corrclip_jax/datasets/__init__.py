"""Labelled images: the paper's benchmarks, folders of a user's own, generated scenes. No JAX.

Begin with `dataset.py`.
"""
