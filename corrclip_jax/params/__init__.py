"""Parameter trees: what a configuration expects, checks, the model folder on disk.

May import `models`, `io` and `config`. Begin with `structure.py`. Nothing is imported here, so that reading the
structure does not load Orbax.
"""
