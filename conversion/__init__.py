"""Published checkpoints to parameter trees: tables, the engine that applies them, readers.

Torch is imported in `readers.py` alone, for pickles. Begin with `convert.py`.
"""
