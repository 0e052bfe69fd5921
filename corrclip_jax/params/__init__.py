"""Parameter trees: what a configuration expects, checks, the model folder on disk.

Begin with `structure.py`. Nothing is imported here, so that reading the
structure does not load Orbax.
"""
