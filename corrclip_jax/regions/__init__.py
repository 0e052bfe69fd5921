"""An image to its region map, by any source, inside jit: SAM, panoptic networks, superpixels.

Begin with `sources.py`, the table of sources.
"""
