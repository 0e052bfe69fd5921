"""Annotation formats: segments of label maps as polygons and masks, in the files that other tools read.

No JAX. Begin with `segments.py`: every format is written from segments alone.
"""
