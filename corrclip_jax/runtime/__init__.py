"""The machine at run time: memory budget, sharding over devices, processes, compilation cache, versions.

May import `ops` and `config`. Begin with `memory.py`.
"""
