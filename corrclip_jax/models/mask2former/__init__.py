"""Mask2Former with a Swin encoder: `model.py` puts the parts together."""
