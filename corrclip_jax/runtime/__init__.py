"""The machine at run time: memory budget, sharding, processes, compilation cache, versions, extra packages.

Begin with `memory.py`.
"""
