"""Inference on any number of photos of any sizes: buckets, streams, compiled programs, `Segmenter`, exports.

Begin with `segmenter.py`; the engine is `programs.py`.
"""
