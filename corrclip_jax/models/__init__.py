"""The networks as Flax Linen modules with the published parameter names: CLIP, DINO, SAM, EoMT, Mask2Former.

Families do not import each other. Begin with `dino.py`, the shortest.
Nothing is imported here, so that reading a configuration does not load Flax.
"""
