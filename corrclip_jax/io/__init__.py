"""Files: reading photos, region maps and COCO RLE; atomic writes. No JAX.

May import `viz`. Begin with `photos.py`.
"""
