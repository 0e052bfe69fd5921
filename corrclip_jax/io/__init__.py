"""Files: reading photos, region maps and COCO RLE; atomic writes. No JAX.

Begin with `photos.py`.
"""
