"""Files in and out: photos, region maps, COCO RLE, atomic writes. No JAX.

May import `viz` and `config`. Begin with `photos.py`.
"""
