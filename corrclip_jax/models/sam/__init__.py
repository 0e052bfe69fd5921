"""SAM and SAM 2 in Flax Linen: image encoders (`vit`, `hiera` with `neck`), prompt encoder, mask decoder.

`prompted_sam.py` decodes prompts for both; `sam1.py` and `sam2.py` are the networks.
"""
