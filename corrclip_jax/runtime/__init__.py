"""The machine at run time: memory budget, sharding, processes, compilation cache, versions, extra packages.

May import `ops` and `config`. Begin with `memory.py`.
"""
