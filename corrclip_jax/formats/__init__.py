"""Annotation formats: segments of label maps as polygons and masks, in the files that other tools read.

May import `io`, `viz` and `config`; no JAX. Begin with `segments.py`: every format is written from segments alone.
"""
