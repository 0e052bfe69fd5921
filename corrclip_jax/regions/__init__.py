"""An image to its region map, by any source, inside jit: SAM, panoptic networks, superpixels.

May import `models`, `runtime`, `ops` and `config`. Begin with `sources.py`, the table of sources.
"""
