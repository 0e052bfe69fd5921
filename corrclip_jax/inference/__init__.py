"""Inference on any number of photos of any sizes: buckets, streams, compiled programs, `Segmenter`, exports.

May import `hub` and everything below. Begin with `segmenter.py`; the engine is `programs.py`.
"""
