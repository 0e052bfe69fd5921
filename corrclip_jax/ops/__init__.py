"""Array functions that know no network and no method: the four resizes, attention, loops over chunks.

May import nothing of the package. Begin with `resize.py` and `attention.py`.
"""
