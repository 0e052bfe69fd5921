"""Array functions that know no network and no method: the four resizes, attention, loops over chunks.

Begin with `resize.py` and `attention.py`.
"""
