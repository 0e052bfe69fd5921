"""SAM and SAM 2 in Flax Linen: image encoders (`vit`, `hiera` with `neck`), prompt encoder, mask decoder.

`sam1.py` and `sam2.py` put the parts together.
"""
